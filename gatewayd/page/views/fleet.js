// The fleet at a glance, and the list of its nodes: searched, sorted and paged by the gateway.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { repeat } from "../vendor/lit-html/directives/repeat.js";
import { get } from "../api.js";
import { battery, cascadeLink, empty, eventLine, fact, heading, nodeLink, nodeState, shares, table, when } from "../parts.js";
import { bytes, count, decibel, plural, spoken } from "../words.js";

const PAGE = 50;
const LATEST = 8;
const SETTLE_MS = 250; // of typing
const COUNT_AGAIN_MS = 2_000; // after nodes have changed, and a millisecond more for each: of many, the list costs the gateway more
const COLUMNS = ["State", "Node", "Models", "Heard over", "Battery", "Signal", "Last heard", "Trouble"];
const SORTS = { id: "name", last_seen: "last heard", battery: "battery" };

export class FleetView {
  title = "Fleet";
  #page;
  #query;
  /** @type {any} */
  #list = null;
  #events = [];
  #rollouts = [];
  #cascades = [];
  #timer = 0;

  constructor(page, _, query) {
    this.#page = page;
    this.#query = { q: "", state: "", cascade: "", sort: "id", offset: "0", ...query };
  }

  get ready() {
    return this.#list !== null;
  }

  async load(signal) {
    const [list, events, rollouts, cascades] = await Promise.all([
      this.#nodes(signal),
      get("/events", { limit: LATEST }, signal),
      get("/rollouts", {}, signal),
      get("/cascades", {}, signal),
    ]);
    this.#list = list;
    this.#events = events.items;
    this.#rollouts = rollouts.filter((rollout) => !rollout.closed);
    this.#cascades = cascades;
  }

  live(name, data) {
    if (name === "event") this.#events = [data, ...this.#events].slice(0, LATEST);
    if (name === "rollout") this.#rollouts = [data, ...this.#rollouts.filter(({ id }) => id !== data.id)].filter(({ closed }) => !closed);
    if (name === "node" && this.#list) {
      this.#list.items = this.#list.items.map((row) => (row.id === data.id ? data : row));
      this.#timer ||= setTimeout(() => this.#again(), COUNT_AGAIN_MS + this.#list.fleet.total);
    }
  }

  close() {
    clearTimeout(this.#timer);
  }

  #nodes(signal) {
    return get("/nodes", { ...this.#query, limit: PAGE }, signal);
  }

  async #again() {
    this.#timer = 0;
    try {
      this.#list = await this.#nodes();
    } catch {
      return; // the page says itself when the gateway is away
    }
    this.#page.update();
  }

  /** Ask with other words. */
  #change(change, wait = 0) {
    this.#query = { ...this.#query, offset: "0", ...change };
    const { sort, offset, ...rest } = this.#query;
    this.#page.keep({ ...rest, sort: sort === "id" ? "" : sort, offset: offset === "0" ? "" : offset });
    clearTimeout(this.#timer);
    this.#timer = setTimeout(async () => {
      this.#timer = 0;
      await this.#page.reload();
      this.#page.say(plural(this.#list.total, "node matches", "nodes match"));
    }, wait);
    this.#page.update();
  }

  render() {
    if (!this.#list) return heading("Fleet");
    const { fleet } = this.#list;
    return html`
      ${heading("Fleet")}
      ${fleet.total ? html`${this.#glance(fleet)}
        <div class="columns">
          <section class="card main-column" aria-labelledby="nodes-title">
            <div class="card-head"><h2 id="nodes-title">Nodes</h2>${this.#filters()}</div>
            ${this.#list.items.length ? this.#table() : empty("No node matches", "Try fewer letters, or another state.")}
            ${this.#pager()}
          </section>
          <div class="side-column">${this.#rolloutCards()}${this.#latest()}</div>
        </div>` : this.#first()}`;
  }

  #first() {
    return html`<section class="card empty">
      <p class="empty-title">No nodes yet</p>
      <p>Make one known to the gateway and its broker, and give the node what this prints:</p>
      <pre><code>gatewayctl node add kitchen-1</code></pre>
      <p>It shows here as soon as the gateway hears it.</p>
    </section>`;
  }

  #glance(fleet) {
    const { health } = this.#page;
    const down = fleet.total - fleet.up;
    const tile = (state, n, name) => html`<button class="tile ${state || "all"}" aria-pressed=${this.#query.state === state}
      @click=${() => this.#change({ state: this.#query.state === state ? "" : state })}><strong>${count(n)}</strong><span>${name}</span></button>`;
    return html`<section class="glance" aria-label="At a glance">
      <div class="tiles" role="group" aria-label="Show only nodes that are">
        ${tile("", fleet.total, fleet.total === 1 ? "node" : "nodes")}${tile("up", fleet.up, "up")}${tile("trouble", fleet.trouble, "in trouble")}
        ${tile("down", down, "down")}${tile("new", fleet.total - fleet.enrolled, "new")}
      </div>
      ${health ? html`<dl class="facts">
        ${fact("Broker", health.broker_connected ? "connected" : "away")}${fact("Events kept", count(health.events))}
        ${fact("Windows kept", `${count(health.clips)} · ${bytes(health.clip_bytes)}`)}${fact("Wait for the larger models", count(health.escalation_queue))}
        ${fact("Wait for the disk", count(health.store_queue))}
      </dl>` : nothing}
    </section>`;
  }

  #filters() {
    return html`<search class="filters">
      <label><span class="unseen">Search nodes</span><input type="search" placeholder="Name, label or board" .value=${this.#query.q}
        @input=${(event) => this.#change({ q: event.target.value }, SETTLE_MS)} /></label>
      <label><span class="unseen">Cascade</span><select @change=${(event) => this.#change({ cascade: event.target.value })}>
        <option value="">every cascade</option>
        ${this.#cascades.map(({ name }) => html`<option value=${name} ?selected=${name === this.#query.cascade}>${name}</option>`)}
      </select></label>
      <label><span class="unseen">Sort</span><select @change=${(event) => this.#change({ sort: event.target.value })}>
        ${Object.entries(SORTS).map(([value, name]) => html`<option value=${value} ?selected=${value === this.#query.sort}>by ${name}</option>`)}
      </select></label>
    </search>`;
  }

  #table() {
    return table("Nodes", COLUMNS, repeat(this.#list.items, ({ id }) => id, nodeRow), "compact");
  }

  #pager() {
    const { total, items } = this.#list;
    const offset = Number(this.#query.offset);
    if (total <= PAGE && !offset) return html`<p class="pager">${plural(total, "node")}</p>`;
    return html`<nav class="pager" aria-label="Pages of nodes">
      <button ?disabled=${!offset} @click=${() => this.#change({ offset: String(Math.max(0, offset - PAGE)) })}>Previous</button>
      <span>${count(offset + (items.length && 1))} to ${count(offset + items.length)} of ${count(total)}</span>
      <button ?disabled=${offset + items.length >= total} @click=${() => this.#change({ offset: String(offset + PAGE) })}>Next</button>
    </nav>`;
  }

  #rolloutCards() {
    return this.#rollouts.map(
      (rollout) => html`<section class="card" aria-label="Rollout ${rollout.id}">
        <h2><a href="#/rollouts/${rollout.id}">${rollout.cascade} ${rollout.version}</a> <span class="soft">${spoken(rollout.state)}</span></h2>
        ${shares(Object.entries(rollout.counts).map(([state, n]) => [`u-${state}`, n, spoken(state)]), "Nodes")}
      </section>`,
    );
  }

  #latest() {
    return html`<section class="card" aria-labelledby="latest-title">
      <h2 id="latest-title">Latest events</h2>
      ${this.#events.length ? html`<ul class="plain">${repeat(this.#events, ({ id }) => id, (row) => html`<li>${eventLine(row)}</li>`)}</ul>
        <p><a href="#/events">All events</a></p>` : html`<p class="soft">None yet.</p>`}
    </section>`;
  }
}

function nodeRow(node) {
  return html`<tr>
    <td data-name="State">${nodeState(node)}</td>
    <th scope="row">${nodeLink(node.id)}<span class="labels">${node.labels.map((label) => html`<span class="label">${label}</span>`)}</span></th>
    <td data-name="Models">${node.models.length ? node.models.map((model) => html`<span class="model">${cascadeLink(model.cascade)} ${model.version}${model.state === "test" ? html` <em>on trial</em>` : nothing}</span>`) : html`<span class="soft">–</span>`}</td>
    <td data-name="Heard over" class="extra">${node.transports.join(", ") || html`<span class="soft">–</span>`}</td>
    <td data-name="Battery">${battery(node.battery)}</td>
    <td data-name="Signal" class="number extra">${node.rssi_dbm == null ? html`<span class="soft">–</span>` : decibel(node.rssi_dbm)}</td>
    <td data-name="Last heard">${when(node.last_seen_s)}</td>
    <td data-name="Trouble" class="words">${node.trouble.join("; ")}</td>
  </tr>`;
}
