// Asks the gateway's HTTP API. What it answers is in gatewayd/api/schemas.py.

const BASE = "api/v1";
let csrf = "";

/** The gateway answered, with no. */
export class Refused extends Error {
  /** @param {number} status @param {string} title @param {string} detail */
  constructor(status, title, detail) {
    super(detail || title);
    this.status = status;
  }
}

/** The gateway did not answer. */
export class Unreachable extends Error {}

/** @param {string} method @param {string} path @param {{ query?: object, body?: object, signal?: AbortSignal }} [more] */
async function ask(method, path, { query = {}, body, signal } = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== "" && value != null);
  const search = given.length ? `?${new URLSearchParams(given)}` : "";
  /** @type {Record<string, string>} */
  const headers = { Accept: "application/json" };
  if (body) headers["Content-Type"] = "application/json";
  if (method !== "GET" && csrf) headers["X-CSRF-Token"] = csrf;
  let response;
  try {
    response = await fetch(`${BASE}${path}${search}`, { method, headers, body: body && JSON.stringify(body), signal, cache: "no-store" });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Unreachable("The gateway does not answer.");
  }
  if (response.ok) return response.status === 204 ? null : response.json();
  const problem = await response.json().catch(() => ({}));
  throw new Refused(response.status, problem.title ?? response.statusText, problem.detail ?? "");
}

/** @param {string} path @param {object} [query] @param {AbortSignal} [signal] @returns {Promise<any>} */
export const get = (path, query, signal) => ask("GET", path, { query, signal });

/** @param {string} path @param {object} body @returns {Promise<any>} */
export const put = (path, body) => ask("PUT", path, { body });

/** @param {string} path @param {object} body @returns {Promise<any>} */
export const post = (path, body) => ask("POST", path, { body });

/** Who we are. */
export async function session() {
  return remembered(await get("/session"));
}

/** @param {string} token */
export async function logIn(token) {
  return remembered(await post("/session", { token }));
}

export async function logOut() {
  await ask("DELETE", "/session");
  csrf = "";
}

function remembered(session) {
  csrf = session.csrf;
  return session;
}

/** The address of something that the browser itself loads. @param {string} path */
export const address = (path) => `${BASE}${path}`;
