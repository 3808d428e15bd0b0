// A list of recommendations as a pane: places, badges, what each score is made of, and why.

import { button, counted, h, named, percent, problem, score, styled } from "./elements.js";

const PARTS = ["collaborative", "semantic", "content"];
const GLIDE = 260; // milliseconds an item takes to its new place

export function waiting(k) {
  return h("ol", { class: "list", "aria-label": "Loading" }, Array.from({ length: k }, () => h("li", { class: "ghost" })));
}

export function empty() {
  return h("div", { class: "empty" },
    h("p", { class: "large" }, "What comes next?"),
    h("p", {}, "Search a title and add it, or look up a user. The list follows every change."));
}

// A pane around what is in it; `title` {name, facts}.
export function pane(title, ...content) {
  const facts = title.facts && h("p", { class: "quiet" }, title.facts);
  return h("section", { class: "pane", "aria-label": title.name }, h("h3", {}, title.name), facts, ...content);
}

export function failed(error, again) {
  return problem(error, again);
}

export function facts(found) {
  const tail = found.items.filter((one) => one.tail).length;
  const took = found.took_ms < 1 ? "under 1 ms" : `${found.took_ms.toFixed(found.took_ms < 10 ? 1 : 0)} ms`;
  return `${tail} of ${found.items.length} from the tail · ${took}`;
}

// The list itself. other: the answer beside it, or null. fresh: ids that were added here. act: {add, lookUp}.
export function list(found, { other, fresh, act, opened, history }) {
  if (!found.items.length) return h("p", { class: "empty" }, "No item is left to recommend.");
  const ranks = other && new Map(other.items.map((one) => [one.item, one.rank]));
  const most = Math.max(...found.items.map((one) => sum(PARTS.map((part) => Math.abs(one.reasons?.[part] ?? 0)))));
  const rows = found.items.map((one) => {
    const body = h("div", { class: "body" },
      h("p", { class: "name" }, named(one)),
      h("p", { class: "marks" }, ...marks(one, ranks, fresh)),
      one.reasons && strip(one.reasons, most),
      one.reasons && why(one, act, opened, history));
    const rank = h("span", { class: "rank", "aria-hidden": "true" }, one.rank);
    const total = h("span", { class: "score", title: "score" }, score(one.score));
    return h("li", { "data-item": one.item }, rank, body, total);
  });
  return h("ol", { class: "list" }, rows);
}

function marks(one, ranks, fresh) {
  const beside = ranks && (ranks.has(one.item) ? `also number ${ranks.get(one.item)}` : "only here");
  return [
    fresh.has(one.item) && h("span", { class: "badge new" }, "new"),
    one.tail && h("span", { class: "badge" }, "tail"),
    h("span", { class: "quiet" }, one.count ? `bought ${counted(one.count, "time")}` : "never bought in training"),
    beside && h("span", { class: ranks.has(one.item) ? "quiet" : "only" }, beside),
  ];
}

// The parts of a score as one line; a part below zero is hollow. Numbers are in the reasons.
function strip(reasons, most) {
  const piece = (part) => {
    const made = h("i", { class: `${part}${reasons[part] < 0 ? " below" : ""}` });
    return styled(made, { share: percent(Math.abs(reasons[part]) / (most || 1)) });
  };
  return h("div", { class: "strip", "aria-hidden": "true" }, PARTS.filter((part) => reasons[part]).map(piece));
}

function why(one, act, opened, history) {
  const { reasons } = one;
  const values = PARTS.map((part) => reasons[part]);
  const low = Math.min(0, ...values), span = Math.max(0, ...values) - low || 1;
  const add = !history.has(one.item) && h("button", { type: "button", onclick: () => act.add(one) }, "Add to the history");
  const drawn = h("details", { open: opened.has(one.item) },
    h("summary", {}, "Why", h("span", { class: "unseen" }, ` ${named(one)}`)),
    h("p", { class: "sentence" }, reasons.sentence),
    h("dl", { class: "parts" },
      PARTS.map((part) => [h("dt", {}, part), h("dd", {}, bar(part, reasons[part], low, span), score(reasons[part], 3))]),
      h("dt", { class: "sum" }, "score"), h("dd", { class: "sum" }, score(reasons.total, 3))),
    carried(reasons.carried),
    users(reasons.similar_users, act),
    add);
  drawn.addEventListener("toggle", () => (drawn.open ? opened.add(one.item) : opened.delete(one.item)));
  return drawn;
}

// A bar from zero, on an axis that all parts share.
function bar(part, value, low, span) {
  const along = (x) => `${(100 * x) / span}%`;
  const filled = h("i", { class: part });
  const made = h("span", { class: "bar", "aria-hidden": "true" }, filled);
  return styled(made, { zero: along(-low), from: along(Math.min(value, 0) - low), share: along(Math.abs(value)) });
}

function carried(items) {
  if (!items.length) return null;
  const row = (one) => {
    const share = styled(h("span", { class: "share" }, percent(one.share)), { share: percent(Math.max(one.share, 0)) });
    return h("li", {}, share, h("span", {}, named(one)));
  };
  return [h("h4", {}, "Carried by"), h("ul", { class: "carried" }, items.map(row))];
}

function users(similar, act) {
  if (!similar.length) return null;
  const links = similar.map((user) => button(`Look up user ${user}`, user, () => act.lookUp(user), { class: "link" }));
  return [h("h4", {}, "Similar users who have it"), h("p", { class: "users" }, links)];
}

// Draws `made` in place of what `place` has, and lets items glide from where they were.
export function replace(place, made) {
  const before = tops(place);
  place.replaceChildren(...made);
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  for (const [key, [row, top]] of tops(place)) {
    if (!before.has(key)) row.animate([{ opacity: 0 }, { opacity: 1 }], GLIDE);
    else if (before.get(key)[1] !== top) {
      const from = `translateY(${before.get(key)[1] - top}px)`;
      row.animate([{ transform: from }, { transform: "none" }], { duration: GLIDE, easing: "ease-out" });
    }
  }
}

function tops(place) {
  const rows = [...place.querySelectorAll("[data-item]")];
  const key = (row) => `${[...place.children].indexOf(row.closest(".pane"))} ${row.dataset.item}`;
  return new Map(rows.map((row) => [key(row), [row, row.getBoundingClientRect().top]]));
}

const sum = (values) => values.reduce((total, value) => total + value, 0);
