// Events, newest first: what nodes suspected, and what became of it.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { repeat } from "../vendor/lit-html/directives/repeat.js";
import { get } from "../api.js";
import { agreement, cascadeLink, empty, heading, icon, nodeLink, opinion, table, when } from "../parts.js";
import { plural } from "../words.js";

const PAGE = 50;
const MOST = 200; // rows that a page which is left open grows to
const SETTLE_MS = 250;
const COLUMNS = ["When", "Node", "Cascade", "Node suspects", "Gateway judges", "Agreed", "Action", "Heard", "Answer in", "Window"];
const REASONS = { trigger: "trigger", audit: "audit: no suspicion, asked anyway", follow: "follow: listening on" };

export class EventsView {
  title = "Events";
  #page;
  #query;
  #items = null;
  #next = null;
  #cascades = [];
  #waiting = [];
  #paused = false;
  #timer = 0;

  constructor(page, _, query) {
    this.#page = page;
    this.#query = { node: "", cascade: "", reason: "", agreed: "", before: "", ...query };
  }

  get ready() {
    return this.#items !== null;
  }

  async load(signal) {
    const [list, cascades] = await Promise.all([get("/events", { ...this.#query, limit: PAGE }, signal), get("/cascades", {}, signal)]);
    this.#items = list.items;
    this.#next = list.next;
    this.#cascades = cascades;
    this.#waiting = [];
  }

  live(name, data) {
    if (name !== "event" || !this.#items || this.#query.before || !this.#fits(data)) return;
    this.#waiting = [data, ...this.#waiting].slice(0, MOST);
    if (!this.#paused && !document.activeElement?.closest(".table")) this.#let();
  }

  close() {
    clearTimeout(this.#timer);
  }

  #fits(row) {
    const { node, cascade, reason, agreed } = this.#query;
    return (!node || row.node === node) && (!cascade || row.cascade === cascade) && (!reason || row.reason === reason) && (!agreed || String(row.agreed) === agreed);
  }

  /** Show what came in the meantime. */
  #let() {
    this.#items = [...this.#waiting, ...this.#items].slice(0, MOST);
    this.#waiting = [];
  }

  #change(change, wait = 0) {
    this.#query = { ...this.#query, before: "", ...change };
    this.#page.keep(this.#query);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(async () => {
      await this.#page.reload();
      this.#page.say(this.#items.length ? `${plural(this.#items.length, "event")} shown` : "No event matches");
    }, wait);
    this.#page.update();
  }

  render() {
    if (!this.#items) return heading("Events");
    return html`
      ${heading("Events", this.#query.before ? nothing : this.#flow())}
      <section class="card" aria-label="Events">
        ${this.#filters()}
        ${this.#items.length
          ? table("Events, newest first", COLUMNS, repeat(this.#items, ({ id }) => id, eventRow))
          : empty("No event here", "Nothing was suspected, or nothing that fits these filters.")}
        <nav class="pager" aria-label="Pages of events">
          ${this.#query.before ? html`<button @click=${() => this.#change({})}>Newest</button>` : nothing}
          <button ?disabled=${this.#next === null} @click=${() => this.#change({ before: String(this.#next) })}>Older</button>
        </nav>
      </section>`;
  }

  #flow() {
    return html`<div class="buttons">
      ${this.#waiting.length ? html`<button class="primary" @click=${() => { this.#let(); this.#page.update(); }}>Show ${plural(this.#waiting.length, "new event")}</button>` : nothing}
      <button aria-pressed=${this.#paused} @click=${() => { this.#paused = !this.#paused; this.#page.update(); }}>Hold still</button>
    </div>`;
  }

  #filters() {
    const choice = (key, name, options) => html`<label><span class="unseen">${name}</span><select @change=${(event) => this.#change({ [key]: event.target.value })}>
      ${options.map(([value, text]) => html`<option value=${value} .selected=${value === this.#query[key]}>${text}</option>`)}</select></label>`;
    return html`<search class="filters">
      <label><span class="unseen">Node</span><input type="search" placeholder="Node" .value=${this.#query.node} @input=${(event) => this.#change({ node: event.target.value.trim() }, SETTLE_MS)} /></label>
      ${choice("cascade", "Cascade", [["", "every cascade"], ...this.#cascades.map(({ name }) => [name, name])])}
      ${choice("reason", "Reason", [["", "every reason"], ...Object.entries(REASONS)])}
      ${choice("agreed", "Agreement", [["", "agreed or not"], ["true", "both agreed"], ["false", "disagreed"]])}
    </search>`;
  }
}

function eventRow(row) {
  return html`<tr>
    <th scope="row"><a href="#/events/${row.id}">${when(row.at_s)}</a>${row.reason === "trigger" ? nothing : html` <span class="label">${row.reason}</span>`}</th>
    <td data-name="Node">${nodeLink(row.node)}</td><td data-name="Cascade">${cascadeLink(row.cascade)}</td>
    <td data-name="Node suspects">${opinion("node", row.suspicion)}</td>
    <td data-name="Gateway judges">${opinion("gateway", row.verdict)}${row.basis && row.basis !== "gateway" ? html` <span class="label">${row.basis}</span>` : nothing}</td>
    <td data-name="Agreed">${agreement(row.agreed)}</td><td data-name="Action"><bdi>${row.action}</bdi></td>
    <td data-name="Heard" class="words"><bdi>${row.heard}</bdi></td><td data-name="Answer in" class="number">${Math.round(row.latency_ms)} ms</td>
    <td data-name="Window">${row.window ? html`<span title=${row.window}>${icon(/pcm/.test(row.window) ? "sound" : "series")}<span class="unseen">${row.window}</span></span>` : html`<span class="soft">–</span>`}</td>
  </tr>`;
}
