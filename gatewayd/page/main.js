// The page: who is logged in, which view is shown, the live stream, and what all views share.

import { html, nothing, render } from "./vendor/lit-html/lit-html.js";
import * as api from "./api.js";
import { askFirst } from "./dialog.js";
import { follow } from "./live.js";
import { icon } from "./parts.js";
import { duration } from "./words.js";
import { AuditView } from "./views/audit.js";
import { CascadeView } from "./views/cascade.js";
import { CascadesView } from "./views/cascades.js";
import { EventView } from "./views/event.js";
import { EventsView } from "./views/events.js";
import { FleetView } from "./views/fleet.js";
import { LoginView } from "./views/login.js";
import { NodeView } from "./views/node.js";
import { RolloutView } from "./views/rollout.js";
import { RolloutsView } from "./views/rollouts.js";

const REFRESH_MS = 10_000; // "3 min ago" grows older
const ROUTES = /** @type {const} */ ([
  ["", FleetView], ["nodes/:", NodeView], ["events", EventsView], ["events/:", EventView], ["rollouts", RolloutsView],
  ["rollouts/:", RolloutView], ["cascades", CascadesView], ["cascades/:", CascadeView], ["audit", AuditView],
]);
const PLACES = [["", "Fleet"], ["events", "Events"], ["rollouts", "Rollouts"], ["cascades", "Cascades"], ["audit", "Audit"]];

/** A view has `title` and `render()`; `load(signal)`, `live(name, data)` and `close()` where it needs them. */
class Page {
  session = null;
  health = null;
  connected = false;
  /** What keeps the view from being shown. @type {Error | null} */
  problem = null;
  view = null;
  loading = false;
  #path = "";
  #abort = new AbortController();
  #unfollow = () => {};
  #due = false;
  #shown = false;
  #again = 0; // the timer of reloadIn

  // ---- what views use

  get mayOperate() {
    return this.session?.scope === "operate";
  }

  /** Show what has changed, soon. */
  update() {
    if (this.#due) return;
    this.#due = true;
    requestAnimationFrame(() => {
      this.#due = false;
      render(this.#layout(), document.body);
      document.title = `${this.view?.title ?? "The fleet"} · ${this.health?.gateway ?? "gatewayd"}`;
    });
  }

  /** Tell those who cannot see that something has changed. @param {string} text */
  say(text) {
    document.querySelector("#said").textContent = text;
  }

  /** Load the view's data again. Older data stay until then, and when the gateway is away. */
  async reload() {
    const view = this.view;
    clearTimeout(this.#again);
    this.#again = 0;
    this.#abort.abort();
    this.#abort = new AbortController();
    const { signal } = this.#abort;
    this.loading = true;
    try {
      await view.load?.(signal);
      if (signal.aborted) return;
      this.problem = null;
    } catch (error) {
      if (signal.aborted) return;
      this.#failed(error);
    }
    this.loading = false;
    this.update();
  }

  /** The same in `ms`, if it is not done before. @param {number} ms */
  reloadIn(ms) {
    this.#again ||= setTimeout(() => this.reload(), ms);
  }

  /** Ask, then do something that changes the fleet; what comes of it is said. @param {import("./dialog.js").Ask} question @param {(answer: string) => Promise<any>} act */
  async order(question, act) {
    const answer = await askFirst(question);
    if (answer === null) return;
    try {
      await act(answer);
      this.say(question.done);
    } catch (error) {
      if (error instanceof api.Refused && error.status === 401) return this.#failed(error);
      await askFirst({ title: "That did not work", text: error.message, confirm: "Close", only: true });
    }
    await this.reload();
  }

  /** Keep a view's filters in the address, without a step in the history. @param {Record<string, string>} query */
  keep(query) {
    const given = Object.entries(query).filter(([, value]) => value);
    const search = given.length ? `?${new URLSearchParams(given)}` : "";
    history.replaceState(null, "", `#/${this.#path}${search}`);
  }

  // ---- from one view to the next

  async start() {
    addEventListener("hashchange", () => this.#go());
    setInterval(() => this.update(), REFRESH_MS);
    await this.enter();
  }

  /** Find out who we are, and begin. */
  async enter() {
    try {
      this.session = await api.session();
      this.#unfollow();
      this.#unfollow = follow({ message: (name, data) => this.#message(name, data), lost: () => this.#lost() });
      await this.#go();
    } catch (error) {
      this.#failed(error);
    }
  }

  async leave() {
    await api.logOut().catch(() => {});
    this.#toLogin("");
  }

  async #go() {
    if (!this.session) return;
    const [path, search] = location.hash.replace(/^#?\/?/, "").split("?");
    const parts = path.split("/").map(decodeURIComponent);
    const route = ROUTES.find(([pattern]) => {
      const wanted = pattern.split("/");
      return wanted.length === parts.length && wanted.every((part, i) => (part === ":" ? parts[i] : part === parts[i]));
    });
    this.view?.close?.();
    this.#path = path;
    this.problem = route ? null : new api.Refused(404, "There is no such page.", "");
    this.view = new (route?.[1] ?? FleetView)(this, parts[1], Object.fromEntries(new URLSearchParams(search)));
    scrollTo(0, 0);
    this.update();
    if (route) await this.reload();
    if (this.#shown) requestAnimationFrame(() => document.querySelector("h1")?.focus({ preventScroll: true }));
    this.#shown = true;
  }

  #message(name, data) {
    if (name === "hello") {
      const again = this.health !== null;
      this.health = data;
      this.connected = true;
      if (again) this.reload(); // it may have missed something
    } else if (name === "lagged") {
      this.reload();
    } else {
      this.view?.live?.(name, data);
    }
    this.update();
  }

  async #lost() {
    this.connected = false;
    this.update();
    try {
      await api.session();
    } catch (error) {
      if (error instanceof api.Refused) this.#failed(error); // else: it is away, and the stream tries again
    }
  }

  #failed(error) {
    if (error instanceof api.Refused && error.status === 401) {
      this.#toLogin(this.session ? "Your session is over. Log in again to go on." : "");
    } else {
      this.problem = error;
      this.loading = false;
      this.update();
    }
  }

  #toLogin(why) {
    this.#unfollow();
    this.view?.close?.();
    this.session = null;
    this.health = null;
    this.connected = false;
    this.problem = null;
    this.view = new LoginView(this, why);
    this.update();
    requestAnimationFrame(() => /** @type {HTMLElement} */ (document.querySelector("#token"))?.focus());
  }

  // ---- what is seen

  #layout() {
    return html`
      <button class="skip" @click=${() => document.querySelector("h1")?.focus()}>Skip to the content</button>
      <header class="top">
        <a class="brand" href="#/" aria-label="gatewayd, ${this.health?.gateway ?? ""}: the fleet">
          ${icon("mark")}<span class="brand-name">gatewayd</span><span class="brand-site">${this.health?.gateway}</span>
        </a>
        ${this.session ? this.#places() : nothing}
        <div class="top-end">${this.session ? this.#connection() : nothing}${themeButton()}${this.session ? this.#person() : nothing}</div>
      </header>
      <main aria-busy=${this.loading}>${this.#banner()}${this.problem && !this.view?.ready ? this.#obstacle() : this.view?.render()}</main>
      ${this.health ? html`<footer>gatewayd ${this.health.version} · running for ${duration(this.health.uptime_s)} · nothing leaves this site</footer>` : nothing}
      <div id="said" class="unseen" role="status" aria-live="polite"></div>
    `;
  }

  #places() {
    const here = this.#path.split("/")[0].replace("nodes", "");
    const shown = PLACES.filter(([path]) => path !== "audit" || this.mayOperate);
    return html`<nav aria-label="Main">
      ${shown.map(
        ([path, name]) => html`<a href="#/${path}" aria-current=${path === here ? "page" : nothing}>${icon(path || "fleet")}<span>${name}</span></a>`,
      )}
    </nav>`;
  }

  #connection() {
    return this.connected
      ? html`<span class="link up" title="Changes show by themselves">${icon("up")}<span>live</span></span>`
      : html`<span class="link trouble" title="Trying again">${icon("trouble")}<span>not connected</span></span>`;
  }

  #person() {
    return html`<span class="person" title="This token may ${this.mayOperate ? "read and operate" : "read"}">${this.session.name}</span>
      <button class="quiet" @click=${() => this.leave()}>Log out</button>`;
  }

  #banner() {
    if (!this.session) return nothing;
    if (this.problem instanceof api.Unreachable || (this.health && !this.connected)) {
      return html`<p class="notice trouble" role="alert">${icon("trouble")} The gateway does not answer. What you see may be old; this page goes on trying.</p>`;
    }
    const problems = this.health?.problems ?? [];
    return problems.length
      ? html`<div class="notice trouble" role="alert">${icon("trouble")}<ul>${problems.map((text) => html`<li>${text}</li>`)}</ul></div>`
      : nothing;
  }

  #obstacle() {
    const missing = this.problem instanceof api.Refused && this.problem.status === 404;
    return html`<section class="empty">
      <h1 tabindex="-1">${missing ? "Not here" : "This cannot be shown now"}</h1>
      <p>${this.problem.message}</p>
      <p><button @click=${() => (this.session ? this.reload() : this.enter())}>Try again</button> <a href="#/">To the fleet</a></p>
    </section>`;
  }
}

function themeButton() {
  const dark = document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  const next = dark ? "light" : "dark";
  return html`<button class="icon-button" aria-label="Change to ${next} colours" title="Change to ${next} colours" @click=${() => setTheme(next)}>${icon("theme")}</button>`;
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem("theme", theme);
  } catch {
    // then it holds until the page is closed
  }
  document.dispatchEvent(new Event("themechange"));
  page.update();
}

const page = new Page();
page.start();
