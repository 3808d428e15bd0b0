// What the page asks the server: JSON in and out, and errors that say what to do.

const ROOT = new URL("..", import.meta.url);
const KEY = "longtail-api-key";

export class Refused extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

export async function ask(path, body, signal) {
  const headers = { Accept: "application/json" };
  const key = sessionStorage.getItem(KEY);
  if (key) headers["X-API-Key"] = key;
  if (body) headers["Content-Type"] = "application/json";
  const options = { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal };
  let answer;
  try {
    answer = await fetch(new URL(path, ROOT), options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The server does not answer. See whether `longtail serve` still runs, then try again.");
  }
  const found = await answer.json().catch(() => null);
  if (!answer.ok) throw new Refused(reason(found, answer.status), answer.status);
  return found;
}

export function keep(key) {
  sessionStorage.setItem(KEY, key);
}

function reason(found, status) {
  const detail = found?.detail;
  if (typeof detail === "string") return detail;
  if (Array.isArray(detail)) return detail.map((one) => `${(one.loc ?? []).slice(1).join(".")}: ${one.msg}`).join("; ");
  if (status === 429) return "The server has more to do than it can; try again in a moment.";
  return `The server answered with status ${status} and no reason; its log has more.`;
}

export const path = (...parts) => parts.map(encodeURIComponent).join("/");
