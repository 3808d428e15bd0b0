// The search box: a combobox with a list, as the ARIA practices have it; the first item found is chosen by itself.

import { debounced, h, named } from "./elements.js";

const WAIT = 150; // milliseconds after the last key

export function combobox(input, list, status, find, pick) {
  let items = [], active = -1, asking;

  function show() {
    list.hidden = !items.length;
    input.setAttribute("aria-expanded", String(!list.hidden));
    list.replaceChildren(...items.map(option));
    mark(items.length ? 0 : -1);
  }

  function option(item, position) {
    const facts = [item.tail && h("span", { class: "badge" }, "tail"), h("span", { class: "quiet" }, item.item)];
    const properties = { id: `found-${position}`, role: "option", onclick: () => choose(position) };
    return h("li", properties, h("span", { class: "name" }, named(item)), ...facts);
  }

  function mark(position) {
    active = position;
    [...list.children].forEach((child, at) => child.setAttribute("aria-selected", String(at === position)));
    if (position < 0) return input.removeAttribute("aria-activedescendant");
    input.setAttribute("aria-activedescendant", `found-${position}`);
    list.children[position].scrollIntoView({ block: "nearest" });
  }

  function close() {
    asking?.abort();
    items = [];
    show();
  }

  function choose(position) {
    const chosen = items[position];
    input.value = "";
    status.textContent = `Added ${named(chosen)}`;
    close();
    pick(chosen);
  }

  async function ask() {
    const words = input.value.trim();
    asking?.abort();
    if (!words) return close();
    const { signal } = (asking = new AbortController());
    try {
      items = await find(words, signal);
      status.textContent = items.length ? "" : `Nothing is called “${words}”; try fewer or other words.`;
      show();
    } catch (error) {
      if (error.name === "AbortError") return;
      close();
      status.textContent = error.message;
    }
  }

  const later = debounced(ask, WAIT);
  const keys = {
    ArrowDown: () => (items.length ? mark((active + 1) % items.length) : ask()),
    ArrowUp: () => items.length && mark((active - 1 + items.length) % items.length),
    Enter: () => items.length && choose(active),
    Escape: () => (items.length ? close() : (input.value = "")),
  };
  input.addEventListener("input", later);
  input.addEventListener("keydown", (event) => {
    if (!(event.key in keys) || event.isComposing) return;
    event.preventDefault();
    keys[event.key]();
  });
  input.addEventListener("blur", close);
  list.addEventListener("pointerdown", (event) => event.preventDefault()); // the focus stays in the box
}
