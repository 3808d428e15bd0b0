// Making elements, and what is used to show numbers and messages. Text is only ever set as text, never as HTML.

export const at = (id) => document.getElementById(id);

export function h(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children.flat(Infinity).filter((child) => child != null && child !== false && child !== ""));
  return made;
}

// A custom property of CSS: the policy of this page allows no style attributes.
export function styled(element, values) {
  for (const [name, value] of Object.entries(values)) element.style.setProperty(`--${name}`, value);
  return element;
}

export function button(label, glyph, onclick, properties = {}) {
  return h("button", { type: "button", "aria-label": label, title: label, onclick, ...properties }, glyph);
}

export function problem(error, again) {
  const retry = again && h("button", { type: "button", onclick: again }, "Try again");
  return h("div", { class: "problem", role: "alert" }, h("p", {}, error.message), retry);
}

export function debounced(run, wait) {
  let timer;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => run(...values), wait);
  };
}

export const named = (one) => one.title || one.item;
export const score = (value, digits = 2) => (value < 0 ? "−" : "") + Math.abs(value).toFixed(digits);
export const percent = (value) => `${Math.round(100 * value)}%`;
export const counted = (n, one, many = `${one}s`) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
