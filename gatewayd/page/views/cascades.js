// Cascades: the pairs of models, on how many nodes they run, and how good the nodes' halves are in the field.

import { html } from "../vendor/lit-html/lit-html.js";
import { get } from "../api.js";
import { badge, empty, fact, heading, shares } from "../parts.js";
import { count, percent } from "../words.js";

export class CascadesView {
  title = "Cascades";
  #cascades = null;

  get ready() {
    return this.#cascades !== null;
  }

  async load(signal) {
    this.#cascades = await get("/cascades", {}, signal);
  }

  render() {
    if (!this.#cascades) return heading("Cascades");
    return html`${heading("Cascades")}
      ${this.#cascades.length ? html`<div class="cards">${this.#cascades.map(card)}</div>` : empty("No cascade", "The configuration names none: see [cascades] in gatewayd.toml.")}`;
  }
}

export const readiness = (cascade) =>
  cascade.judge ? (cascade.ready ? badge("yes", "judging") : badge("trouble", "its larger model is not up")) : badge("unknown", "no larger model");

/** Which versions how many nodes run. */
export const versions = (cascade) =>
  shares(Object.entries(cascade.models).sort().map(([version, n], i) => [`s-${i % 6}`, n, `on ${version}`]), "Nodes by version");

const card = (cascade) => html`<article class="card">
  <div class="card-head"><h2><a href="#/cascades/${encodeURIComponent(cascade.name)}">${cascade.title || cascade.name}</a></h2>${readiness(cascade)}</div>
  <p class="soft">${cascade.name} ${cascade.version}${cascade.judge ? `, judged by ${cascade.judge}` : ""}, from a ${cascade.source}</p>
  <dl class="facts">
    ${fact("Nodes", count(cascade.nodes))}${fact("Agreed, a day", percent(cascade.agreement_1d))}${fact("Agreed, a week", percent(cascade.agreement_7d))}
    ${fact("Missed, a week", percent(cascade.missed_7d, 1))}
  </dl>
  ${versions(cascade)}
</article>`;
