// One node: what it is, how it fares, what it runs, what happened to it.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { get, put } from "../api.js";
import { chart } from "../charts.js";
import { battery, cascadeLink, eventLine, fact, heading, histogram, nodeState, notes, table, when } from "../parts.js";
import { bytes, count, decibel, decimal, duration, percent, roughly } from "../words.js";

const HOURS = { 1: "hour", 6: "6 hours", 24: "day", 168: "week" };
const AGAIN_MS = 5_000; // at most so often after news of the node
const LABEL = /^[a-z0-9][a-z0-9-]{0,30}$/;

export class NodeView {
  title;
  #page;
  #path;
  #id;
  #hours;
  /** @type {any} */
  #detail = null;
  #plots = [];
  #events = [];

  constructor(page, id, { hours = "24" }) {
    this.#page = page;
    this.#id = id;
    this.#path = `/nodes/${encodeURIComponent(id)}`;
    this.#hours = hours in HOURS ? hours : "24";
    this.title = id;
  }

  get ready() {
    return this.#detail !== null;
  }

  async load(signal) {
    const [detail, vitals, events] = await Promise.all([
      get(this.#path, {}, signal), get(`${this.#path}/vitals`, { hours: this.#hours }, signal), get("/events", { node: this.#id, limit: 8 }, signal),
    ]);
    this.#detail = detail;
    this.#plots = plots(vitals);
    this.#events = events.items;
  }

  live(name, data) {
    if (name === "event" && data.node === this.#id) this.#events = [data, ...this.#events].slice(0, 8);
    if (name !== "node" || data.id !== this.#id || !this.#detail) return;
    this.#detail = { ...this.#detail, node: data };
    this.#page.reloadIn(AGAIN_MS);
  }

  render() {
    if (!this.#detail) return heading(this.#id);
    const { node, work, slots, history } = this.#detail;
    return html`
      <p class="crumbs"><a href="#/">Fleet</a></p>
      ${heading(html`<bdi>${node.id}</bdi>`, html`${nodeState(node)}${this.#actions(node)}`)}
      ${node.trouble.length || this.#detail.crash ? html`<div class="notice trouble"><ul>${node.trouble.map((text) => html`<li>${text}</li>`)}
        ${this.#detail.crash ? html`<li>It crashed before its last start: <code>${this.#detail.crash}</code></li>` : nothing}</ul></div>` : nothing}
      <div class="columns">
        <div class="main-column">
          <section class="card" aria-labelledby="vitals-title">
            <div class="card-head"><h2 id="vitals-title">Vitals</h2>${this.#span()}</div>
            ${this.#plots.length ? html`<div class="charts">${this.#plots.map(([title, plot]) => chart(title, plot))}</div>`
              : html`<p class="soft">It has said nothing of itself in this time.</p>`}
          </section>
          <section class="card" aria-labelledby="work-title"><h2 id="work-title">Models</h2>
            ${work.length ? workTable(work) : html`<p class="soft">It has not said yet what it runs.</p>`}
            <h3>Image slots</h3>${slots.length ? slotTable(slots) : html`<p class="soft">Not asked yet.</p>`}
          </section>
        </div>
        <div class="side-column">
          <section class="card" aria-label="Facts">${this.#facts()}</section>
          <section class="card"><h2>Updates</h2>${notes(history, "No update yet.", true)}</section>
          <section class="card"><h2>Latest events</h2>
            ${this.#events.length ? html`<ul class="plain">${this.#events.map((row) => html`<li>${eventLine(row)}</li>`)}</ul>
              <p><a href="#/events?node=${encodeURIComponent(node.id)}">All its events</a></p>` : html`<p class="soft">None yet.</p>`}
          </section>
        </div>
      </div>`;
  }

  #actions(node) {
    const labels = html`<span class="labels">${node.labels.map((label) => html`<span class="label">${label}</span>`)}</span>`;
    if (!this.#page.mayOperate) return labels;
    return html`${labels}<div class="buttons">
      <button @click=${() => this.#label(node)}>Edit labels</button>
      ${node.enrolled ? html`<button class="danger" @click=${() => this.#enrol(false)}>Dismiss</button>` : html`<button class="primary" @click=${() => this.#enrol(true)}>Enrol</button>`}
    </div>`;
  }

  #enrol(enrolled) {
    const question = enrolled
      ? { title: `Enrol ${this.#id}?`, text: "Its events are judged and stored, and rollouts reach it.", confirm: "Enrol", done: "Enrolled" }
      : { title: `Dismiss ${this.#id}?`, text: "Its events are no longer taken, and no rollout reaches it. What is stored stays.", confirm: "Dismiss", danger: true, done: "Dismissed" };
    this.#page.order(question, () => put(`${this.#path}/enrolment`, { enrolled }));
  }

  #label(node) {
    const hint = "Separated by spaces; small letters, digits and hyphens.";
    const question = { title: `Labels of ${this.#id}`, text: "Rollouts and searches can choose nodes by label.", confirm: "Save", field: { label: "Labels", value: node.labels.join(" "), hint, maxlength: 400 }, done: "Labels saved" };
    this.#page.order(question, (answer) => {
      const labels = answer.split(/[\s,]+/).filter(Boolean);
      const wrong = labels.find((label) => !LABEL.test(label));
      if (wrong) throw new Error(`“${wrong}” is no label. ${hint}`);
      return put(`${this.#path}/labels`, { labels: [...new Set(labels)] });
    });
  }

  #span() {
    return html`<div class="choice" role="group" aria-label="Time span">
      ${Object.entries(HOURS).map(([hours, name]) => html`<button aria-pressed=${hours === this.#hours} @click=${() => this.#look(hours)}>${name}</button>`)}
    </div>`;
  }

  #look(hours) {
    this.#hours = hours;
    this.#page.keep({ hours: hours === "24" ? "" : hours });
    this.#page.reload();
  }

  #facts() {
    const { node, ...more } = this.#detail;
    const known = (value, show = (it) => it) => (value == null || value === "" ? html`<span class="soft">–</span>` : show(value));
    return html`<dl class="facts stacked">
      ${fact("Last heard", when(node.last_seen_s))}${fact("First heard", known(more.first_seen_s, when))}
      ${fact("Heard over", known(node.transports.join(", ")))}${fact("Spoken to over", known(node.route))}
      ${more.pairing ? fact("Pairing", more.pairing) : nothing}
      ${fact("Battery", battery(node.battery))}${fact("Signal", known(node.rssi_dbm, decibel))}
      ${fact("Board", known(node.board))}${fact("Hardware", known(more.hardware))}${fact("Firmware", known(node.firmware))}
      ${fact("Running for", known(more.uptime_s, duration))}${fact("Last reset", known(more.reset_reason))}${fact("Reboots seen", count(node.reboots))}
      ${fact("Events that wait in it", count(more.queued))}${fact("Dropped by it", count(more.dropped))}${fact("Lost on the way", count(node.lost))}
      ${fact("Heap free", bytes(more.heap_free_bytes))}${fact("Stack free", bytes(more.stack_free_bytes))}
      ${fact("Clock against ours", known(more.clock_skew_s, (skew) => `${skew > 0 ? "+" : ""}${skew.toFixed(2)} s`))}${fact("Session", known(more.session, String))}
    </dl>`;
  }
}

function workTable(work) {
  const row = (one) => html`<tr>
    <th scope="row">${cascadeLink(one.cascade)}</th>
    <td data-name="Inferences" class="number">${count(one.invokes)}</td><td data-name="Each takes" class="number">${decimal(one.invoke_us / 1000)} ms</td>
    <td data-name="Arena" class="number">${bytes(one.arena_bytes)}</td><td data-name="Mean score" class="number">${one.mean.toFixed(3)}</td>
    <td data-name="Scores">${histogram(one.histogram, "Scores")}</td></tr>`;
  return table("Models", ["Cascade", "Inferences", "Each takes", "Arena", "Mean score", "Scores, 0 to 1"], work.map(row));
}

function slotTable(slots) {
  const row = (slot) => html`<tr>
    <th scope="row">${slot.image}.${slot.slot}</th><td data-name="State">${slot.state}${slot.rejected ? html` <em>rejected: <bdi>${slot.rejected}</bdi></em>` : nothing}</td>
    <td data-name="Holds">${slot.cascade ? html`${cascadeLink(slot.cascade)} ${slot.version}` : html`<span class="soft">–</span>`}</td>
    <td data-name="Size" class="number">${slot.size_bytes === null ? "" : `${bytes(slot.size_bytes)} of `}${bytes(slot.capacity_bytes)}</td></tr>`;
  return table("Image slots", ["Slot", "State", "Holds", "Size"], slots.map(row));
}

/** Columns with a hole wherever nothing was heard for three times as long as usual. */
function holed({ at_s, ...columns }) {
  const steps = at_s.map((at, i) => at - (at_s[i - 1] ?? at)).slice(1);
  const usual = [...steps].sort((a, b) => a - b)[Math.floor(steps.length / 2)];
  const holes = steps.map((step, i) => (step > 3 * usual ? i + 1 : 0)).filter(Boolean);
  const fill = (values, filler) => values.flatMap((value, i) => (holes.includes(i) ? [filler(i), value] : [value]));
  const filled = Object.entries(columns).map(([name, values]) => [name, fill(values, () => null)]);
  return { at_s: fill(at_s, (i) => at_s[i - 1] + usual), ...Object.fromEntries(filled) };
}

/** Of what the node has said, one plot each. */
function plots(said) {
  const vitals = holed(said);
  const all = [
    ["Battery", vitals.battery, percent, [0, 1], "--up"], ["Signal", vitals.rssi_dbm, decibel, [null, null], "--gateway"],
    ["Time of an inference", vitals.invoke_us, (us) => `${decimal(us / 1000)} ms`, [0, null], "--node"],
    ["Heap free", vitals.heap_free_bytes, bytes, [0, null], "--gateway"], ["Stack free", vitals.stack_free_bytes, bytes, [0, null], "--gateway"],
    ["Events that wait in it", vitals.queued, (n) => count(Math.round(n)), [0, null], "--trouble"],
    ["Running for", vitals.uptime_s, roughly, [0, null], "--soft"],
  ];
  return all
    .filter(([, values]) => values.some((value) => value !== null))
    .map(([title, values, show, range, color]) => [
      title, { x: vitals.at_s, time: true, lines: [{ name: title, values, color, fill: true }], show, range, binary: show === bytes, sync: "vitals" },
    ]);
}
