// The history that recommendations are asked for: a known user's, or one built here.

import { ask, path } from "./api.js";
import { at, button, counted, h, named, problem } from "./elements.js";

export class History {
  constructor(changed, bundle) {
    this.changed = changed;
    this.bundle = bundle; // a function: the name of the bundle whose users are looked up
    this.user = null;
    this.items = []; // oldest first
    at("look-up").addEventListener("submit", (event) => {
      event.preventDefault();
      this.lookUp(at("user").value.trim());
    });
    at("clear").addEventListener("click", () => {
      this.set(null, []);
      at("search").focus();
    });
  }

  // What a request says of it; null while there is nothing to say.
  asked() {
    if (this.user) return { user: this.user };
    return this.items.length ? { history: this.items.map((one) => one.item) } : null;
  }

  has(item) {
    return this.items.some((one) => one.item === item);
  }

  add(item) {
    if (!this.has(item.item)) this.set(null, [...this.items, item]);
  }

  async lookUp(user) {
    at("history-error").replaceChildren();
    try {
      const found = await ask(`${path("users", user)}?${new URLSearchParams({ bundle: this.bundle() })}`);
      at("user").value = user;
      this.set(user, found.history);
    } catch (error) {
      at("history-error").replaceChildren(problem(error));
    }
  }

  // Items of a shared address, by id.
  async restore(ids) {
    const bundle = new URLSearchParams({ bundle: this.bundle() });
    const found = await Promise.allSettled(ids.map((id) => ask(`${path("items", id)}?${bundle}`)));
    const failed = found.find((one) => one.status === "rejected");
    this.set(null, found.filter((one) => one.status === "fulfilled").map((one) => one.value));
    if (failed) at("history-error").replaceChildren(problem(failed.reason));
  }

  set(user, items) {
    this.user = user;
    this.items = items;
    if (!user) at("user").value = "";
    at("history-error").replaceChildren();
    this.draw();
    this.changed();
  }

  move(from, to) {
    const items = [...this.items];
    items.splice(to, 0, ...items.splice(from, 1));
    this.set(null, items);
    const kept = to < from ? ".earlier" : ".later"; // the button that was pressed, or its partner at an end
    const row = at("history").children[to];
    (row.querySelector(`${kept}:enabled`) ?? row.querySelector("button:enabled")).focus();
  }

  remove(position) {
    this.set(null, this.items.filter((_, other) => other !== position));
    const rows = at("history").children;
    const next = rows[Math.min(position, rows.length - 1)];
    (next?.querySelector(".remove") ?? at("search")).focus();
  }

  draw() {
    const n = this.items.length;
    const whose = this.user ? `User ${this.user}: ` : "";
    const order = n > 1 ? ", oldest first" : "";
    at("history-state").textContent = n ? `${whose}${counted(n, "item")}${order}` : "Nothing in it yet.";
    at("clear").hidden = !n;
    at("history").replaceChildren(...this.items.map((item, position) => this.row(item, position)));
    at("history").scrollTop = at("history").scrollHeight; // the newest item counts most
  }

  row(item, position) {
    const name = named(item);
    const move = (by) => () => this.move(position, position + by);
    const last = position === this.items.length - 1;
    return h("li", {},
      h("span", { class: "name" }, name),
      h("span", { class: "tools" },
        button(`Move ${name} earlier`, "↑", move(-1), { class: "earlier", disabled: position === 0 }),
        button(`Move ${name} later`, "↓", move(1), { class: "later", disabled: last }),
        button(`Remove ${name}`, "×", () => this.remove(position), { class: "remove" })));
  }
}
