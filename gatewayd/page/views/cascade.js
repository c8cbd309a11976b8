// One cascade: how often its larger model agreed with the nodes, day by day, and what its card says.

import { html } from "../vendor/lit-html/lit-html.js";
import { get } from "../api.js";
import { chart } from "../charts.js";
import { fact, heading } from "../parts.js";
import { bytes, count, decimal, percent } from "../words.js";
import { readiness, versions } from "./cascades.js";

const DAYS = { 7: "week", 28: "4 weeks", 90: "90 days" };
const COLORS = ["--gateway", "--node", "--new", "--trouble", "--soft"];

export class CascadeView {
  title;
  #page;
  #path;
  #days;
  /** @type {any} */
  #detail = null;
  #plots = [];

  constructor(page, name, { days = "28" }) {
    this.#page = page;
    this.#path = `/cascades/${encodeURIComponent(name)}`;
    this.#days = days in DAYS ? days : "28";
    this.title = name;
  }

  get ready() {
    return this.#detail !== null;
  }

  async load(signal) {
    this.#detail = await get(this.#path, { days: this.#days }, signal);
    this.#plots = plots(this.#detail.quality);
  }

  render() {
    if (!this.#detail) return heading(this.title);
    const { cascade, actions, labels, cutoff, arena_bytes, card } = this.#detail;
    return html`
      <p class="crumbs"><a href="#/cascades">Cascades</a></p>
      ${heading(cascade.title || cascade.name, readiness(cascade))}
      <div class="columns">
        <div class="main-column">
          <section class="card" aria-labelledby="quality-title">
            <div class="card-head"><h2 id="quality-title">Quality in the field</h2>${this.#span()}</div>
            ${this.#plots.length ? html`<div class="charts wide">${this.#plots.map(([title, plot]) => chart(title, plot))}</div>` : html`<p class="soft">Nothing was judged in this time.</p>`}
          </section>
          <section class="card" aria-labelledby="card-title"><h2 id="card-title">Its card</h2><pre class="document" tabindex="0" aria-labelledby="card-title">${card}</pre></section>
        </div>
        <div class="side-column">
          <section class="card" aria-label="Facts"><dl class="facts stacked">
            ${fact("Name", cascade.name)}${fact("Version here", cascade.version)}${fact("From a", cascade.source)}${fact("Larger model", cascade.judge || "none")}
            ${fact("Nodes", count(cascade.nodes))}${fact("Agreed, a day", percent(cascade.agreement_1d, 1))}${fact("Agreed, a week", percent(cascade.agreement_7d, 1))}
            ${fact("Missed in audits, a week", percent(cascade.missed_7d, 1))}${fact("Labels", labels.join(", "))}${fact("Cutoff on the node", decimal(cutoff))}
            ${fact("Arena on the node", bytes(arena_bytes))}</dl></section>
          <section class="card"><h2>Versions on nodes</h2>${versions(cascade)}</section>
          <section class="card"><h2>Actions</h2><dl class="facts stacked">${Object.entries(actions).map(([word, action]) => fact(word, html`<code>${action}</code>`))}</dl></section>
        </div>
      </div>`;
  }

  #span() {
    return html`<div class="choice" role="group" aria-label="Time span">
      ${Object.entries(DAYS).map(([days, name]) => html`<button aria-pressed=${days === this.#days} @click=${() => this.#look(days)}>${name}</button>`)}
    </div>`;
  }

  #look(days) {
    this.#days = days;
    this.#page.keep({ days: days === "28" ? "" : days });
    this.#page.reload();
  }
}

/** @param {any[]} quality */
function plots(quality) {
  if (!quality.length) return [];
  const days = [...new Set(quality.map(({ day }) => day))].sort();
  const models = [...new Set(quality.map(({ model }) => model))];
  const version = Object.fromEntries(quality.map((row) => [row.model, row.version]));
  const name = (model) => {
    const alike = models.filter((other) => version[other] === version[model]).length > 1; // another build of it
    return version[model] && !alike ? version[model] : `${version[model]} ${model.slice(0, 8)}`.trim();
  };
  const x = days.map((day) => Date.parse(`${day}T00:00`) / 1000);
  const lines = (value, kind = "line") =>
    models.map((model, i) => ({
      name: name(model), kind, color: COLORS[i % COLORS.length],
      values: days.map((day) => {
        const found = quality.find((row) => row.day === day && row.model === model);
        return found ? value(found) : null;
      }),
    }));
  const share = (part, whole) => (whole ? part / whole : null);
  const rest = { x, time: true, sync: "quality" };
  return [
    ["Agreed with the node, of what was judged", { ...rest, height: 220, range: [0, 1], show: percent, lines: lines((row) => share(row.agreed, row.judged)) }],
    ["Judged a day", { ...rest, range: [0, null], show: (n) => count(Math.round(n)), lines: lines((row) => row.judged) }],
    ["Missed, of the audits", { ...rest, range: [0, null], show: (part) => percent(part, 1), lines: lines((row) => share(row.missed, row.audits)) }],
  ];
}
