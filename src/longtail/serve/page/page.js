// The page: what is asked for, when, and where the answers are drawn.

import { adding } from "./adding.js";
import { ask, keep, path } from "./api.js";
import { at, counted, debounced, h, problem } from "./elements.js";
import { History } from "./history.js";
import { empty, facts, failed, list, pane, replace, waiting } from "./results.js";
import { combobox } from "./search.js";

const WAIT = 120; // milliseconds after a slider stood still
const PLAIN = "plain list"; // the same bundle, with the dials as trained
let bundles = [], panes = [], tail = null; // tail: null as trained
const fresh = new Set(), opened = new Set();

const served = (name) => bundles.find((one) => one.name === name);
const history = new History(() => recommend(), () => at("bundle").value);
const act = { add: (item) => history.add(item), lookUp: (user) => history.lookUp(user) };

// The lists to be shown: [{title, body}], the one of the dials first.
function wanted() {
  const name = at("bundle").value, beside = at("compare").value;
  const all = [{ name, dialled: true }];
  if (beside === PLAIN) all.push({ name, dialled: false });
  else if (beside) all.push({ name: beside.slice(1), dialled: true });
  return all.map(({ name, dialled }) => ({
    title: beside === PLAIN ? (dialled ? "With the dials" : "As trained") : name,
    body: { ...history.asked(), bundle: name, k: Number(at("k").value), explain: true, ...(dialled && dials(name)) },
  }));
}

function dials(name) {
  const diversity = at("diversity").valueAsNumber;
  const reranker = document.querySelector("[name=reranker]:checked").value;
  return {
    ...(diversity > 0 && { diversity, reranker }),
    ...(tail !== null && served(name).dial && { tail }),
  };
}

async function recommend() {
  remember();
  const place = at("panes");
  panes.forEach((one) => one.asking.abort());
  panes = [];
  const asked = history.asked();
  document.body.classList.toggle("asked", Boolean(asked));
  if (!asked) return place.replaceChildren(empty());
  panes = wanted().map((one) => ({ ...one, asking: new AbortController() }));
  const mine = panes;
  place.setAttribute("aria-busy", "true");
  if (place.querySelectorAll(".list").length !== mine.length)
    place.replaceChildren(...mine.map((one) => pane({ name: one.title }, waiting(one.body.k))));
  await Promise.all(mine.map(async (one) => {
    try {
      one.found = await ask("recommend", one.body, one.asking.signal);
    } catch (error) {
      one.error = error;
    }
  }));
  if (mine !== panes) return; // asked for again meanwhile
  place.removeAttribute("aria-busy");
  draw();
}

function draw() {
  const drawn = panes.map((one, position) => {
    if (one.error) return pane({ name: one.title }, failed(one.error, recommend), keyField(one.error));
    const other = panes[1 - position]?.found ?? null;
    return pane({ name: one.title, facts: facts(one.found) }, list(one.found, { other, fresh, act, opened, history }));
  });
  replace(at("panes"), drawn);
  at("told").textContent = panes.map((one) => (one.found ? `${one.title}: ${counted(one.found.items.length, "item")}` : "")).join(". ");
}

// A server may want a key.
function keyField(error) {
  if (error.status !== 401) return null;
  const field = h("input", { type: "password", "aria-label": "API key", placeholder: "API key", autocomplete: "off" });
  const submit = (event) => {
    event.preventDefault();
    keep(field.value);
    location.reload();
  };
  return h("form", { class: "beside", onsubmit: submit }, field, h("button", { type: "submit" }, "Use this key"));
}

// The address says what is shown, so that it can be kept and shared.
function remember() {
  const said = new URLSearchParams();
  if (history.user) said.set("user", history.user);
  else history.items.forEach((one) => said.append("item", one.item));
  if (at("diversity").valueAsNumber) said.set("diversity", at("diversity").value);
  if (document.querySelector("[value=dpp]").checked) said.set("reranker", "dpp");
  if (tail !== null) said.set("tail", tail);
  if (at("k").value !== "10") said.set("k", at("k").value);
  if (at("compare").value) said.set("beside", at("compare").value);
  if (at("bundle").selectedIndex > 0) said.set("bundle", at("bundle").value);
  window.history.replaceState(null, "", said.size ? `#${said}` : location.pathname);
}

async function recall() {
  const said = new URLSearchParams(location.hash.slice(1));
  if (said.has("bundle") && served(said.get("bundle"))) at("bundle").value = said.get("bundle");
  offer();
  if (said.has("diversity")) at("diversity").value = said.get("diversity");
  if (said.get("reranker") === "dpp") document.querySelector("[value=dpp]").checked = true;
  if (said.has("tail")) tail = at("tail").valueAsNumber = Math.min(Math.max(Number(said.get("tail")) || 0, 0), 1);
  for (const [name, field] of [["k", "k"], ["beside", "compare"]])
    if ([...at(field).options].some((one) => one.value === said.get(name))) at(field).value = said.get(name);
  show();
  if (said.has("user")) await history.lookUp(said.get("user"));
  else if (said.has("item")) await history.restore(said.getAll("item"));
  if (!history.asked()) history.draw(), at("panes").replaceChildren(empty());
}

// What there is to compare with, and the dials there are.
function offer() {
  const name = at("bundle").value, kept = at("compare").value;
  const others = bundles.filter((one) => one.name !== name);
  at("compare").replaceChildren(
    h("option", { value: "" }, "nothing"), h("option", { value: PLAIN }, "the list as trained"),
    ...others.map((one) => h("option", { value: `=${one.name}` }, one.name)));
  if ([...at("compare").options].some((one) => one.value === kept)) at("compare").value = kept;
  const has = bundles.some((one) => one.dial);
  at("tail").disabled = !has;
  if (!has) at("tail-hint").textContent = "No served bundle has a tail dial.";
}

function show() {
  const diversity = at("diversity").valueAsNumber;
  at("diversity-value").textContent = diversity ? diversity.toFixed(2) : "none";
  at("tail-value").textContent = tail === null ? "as trained" : tail.toFixed(2);
  at("rerankers").disabled = !diversity;
  at("reset").hidden = !diversity && tail === null;
  for (const slider of [at("diversity"), at("tail")]) slider.style.setProperty("--share", `${100 * slider.valueAsNumber}%`);
  at("tail").classList.toggle("untouched", tail === null);
}

function listen() {
  const later = debounced(recommend, WAIT);
  at("diversity").addEventListener("input", () => (show(), later()));
  at("tail").addEventListener("input", () => ((tail = at("tail").valueAsNumber), show(), later()));
  at("rerankers").addEventListener("change", recommend);
  at("reset").addEventListener("click", () => {
    at("diversity").value = at("tail").value = 0;
    tail = null;
    show();
    recommend();
    at("diversity").focus();
  });
  at("bundle").addEventListener("change", () => (offer(), recommend()));
  for (const field of ["compare", "k"]) at(field).addEventListener("change", recommend);
  const find = async (words, signal) =>
    (await ask(`items?${new URLSearchParams({ search: words, k: 12, bundle: at("bundle").value })}`, null, signal)).items;
  combobox(at("search"), at("found"), at("search-status"), find, act.add);
  const shown = () => [...new Set([at("bundle").value, ...wanted().map((one) => one.body.bundle)])];
  const asked = () => history.asked() && wanted()[0].body;
  const added = ({ item }) => (fresh.add(item), recommend());
  adding({ bundles: shown, asked, added, act });
}

async function start() {
  try {
    ({ bundles } = await ask("bundles"));
  } catch (error) {
    at("served").textContent = "";
    at("panes").replaceChildren(problem(error, () => location.reload()), keyField(error) ?? "");
    return;
  }
  at("bundle").replaceChildren(...bundles.map((one) => h("option", {}, one.name)));
  at("bundle-field").hidden = bundles.length < 2;
  const each = bundles.map((one) =>
    `${one.name}: ${one.method} on ${one.backbone}, ${counted(one.items, "item")}, ${counted(one.users, "user")}`);
  at("served").textContent = each.join(" · ");
  listen();
  await recall();
}

start();
