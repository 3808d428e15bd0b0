// The form for a new item, and where the item is recommended then.

import { ask, path } from "./api.js";
import { at, h, problem } from "./elements.js";

const LOOKED = 100; // places of the list in which the new item is looked for
const NEAR = 5;

// added: told the item, resolves when lists were drawn anew. asked: what a list is asked for, or null. act: {add}.
export function adding({ bundles, asked, added, act }) {
  const form = at("add"), told = at("added");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const item = at("new-id").value.trim(), title = at("new-title").value.trim();
    const described = at("new-text").value.trim();
    const text = described ? { text: `${title}. ${described}` } : {}; // else as in training, of the title
    const send = form.querySelector("[type=submit]");
    send.disabled = true;
    told.replaceChildren(h("p", { class: "hint" }, "Reading its text…"));
    try {
      for (const bundle of bundles()) await ask("items", { item, title, ...text, bundle });
      form.reset();
      await added({ item, title });
      told.replaceChildren(...(await report({ item, title })));
    } catch (error) {
      told.replaceChildren(problem(error));
    } finally {
      send.disabled = false;
      told.scrollIntoView({ block: "nearest" });
    }
  });

  async function report(made) {
    const [bundle] = bundles();
    const near = await ask(`${path("items", made.item)}/similar?${new URLSearchParams({ k: NEAR, bundle })}`);
    const rank = await place(made.item);
    return [
      h("p", { class: "done" }, h("strong", {}, made.title), " is recommendable. ", where(rank)),
      near.items.length > 0 && h("h4", {}, "Nearest items; add one to the history"),
      h("ul", { class: "near" }, near.items.map((one) =>
        h("li", {}, h("button", { type: "button", class: "link", onclick: () => act.add(one) }, one.title || one.item)))),
    ].filter(Boolean);
  }

  async function place(item) {
    const whose = asked();
    if (!whose) return null;
    const found = await ask("recommend", { ...whose, k: LOOKED });
    return found.items.find((one) => one.item === item)?.rank ?? Infinity;
  }
}

function where(rank) {
  if (rank === null) return "Build a history of items like it, and it will be in the list.";
  if (rank > LOOKED) return `For this history it is not among the first ${LOOKED}; one of items like it will have it.`;
  return `For this history it is number ${rank}.`;
}
