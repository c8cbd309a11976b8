// The small things that views are made of.

import { html, nothing, svg } from "./vendor/lit-html/lit-html.js";
import { ago, count, moment, percent, plural, spoken } from "./words.js";

/** @param {string} name of a symbol in icons.svg */
export const icon = (name) => html`<svg class="icon icon-${name}" aria-hidden="true"><use href="page/icons.svg#${name}"></use></svg>`;

/** @param {number} atS */
export const when = (atS) => html`<time datetime=${new Date(atS * 1000).toISOString()} title=${moment(atS)}>${ago(atS)}</time>`;

/** The heading that gets the focus when a view is shown. */
export const heading = (text, more = nothing) => html`<div class="heading"><h1 tabindex="-1">${text}</h1>${more}</div>`;

/** A word with a sign and a colour. @param {string} kind up, trouble, down, new, sleeping, yes, no, unknown @param {string} text */
export const badge = (kind, text) => html`<span class="badge ${kind}">${icon(kind)}${text}</span>`;

/** A term and what it is, in a <dl>. */
export const fact = (term, value) => html`<div><dt>${term}</dt><dd>${value}</dd></div>`;

/** @param {any} node a NodeRow */
export function nodeState(node) {
  if (!node.enrolled) return badge("new", "new");
  if (node.up && node.trouble.length) return badge("trouble", "trouble");
  if (node.up && node.state === "sleeping") return badge("sleeping", "asleep");
  return node.up ? badge("up", "up") : badge("down", node.state === "disconnected" ? "off" : "down");
}

export const nodeLink = (id) => html`<a class="id" href="#/nodes/${encodeURIComponent(id)}"><bdi>${id}</bdi></a>`;

export const cascadeLink = (name) => html`<a href="#/cascades/${encodeURIComponent(name)}"><bdi>${name}</bdi></a>`;

const ENDS = { done: "yes", halted: "no", aborted: "no", rolled_back: "no", rolling_back: "trouble", paused: "trouble", awaiting_approval: "new" };

/** @param {any} rollout a RolloutRow */
export const rolloutState = ({ state }) => badge(ENDS[state] ?? "up", spoken(state));

/** A share of 1 as a small bar; the number stands beside it. */
export const meter = (share, kind = "") =>
  html`<span class="meter ${kind}" aria-hidden="true"><svg preserveAspectRatio="none" viewBox="0 0 100 1"><rect width=${100 * Math.min(1, Math.max(0, share))} height="1" /></svg></span>`;

export const battery = (share) =>
  share == null ? html`<span class="soft">–</span>` : html`<span class="gauge">${meter(share, share < 0.2 ? "down" : "")}${percent(share)}</span>`;

/** What one of the two models thinks. @param {"node" | "gateway"} whose @param {any} opinion */
export function opinion(whose, opinion) {
  if (!opinion) return html`<span class="soft">not judged</span>`;
  const sign = opinion.accepted === null ? nothing : opinion.accepted ? icon("yes") : icon("no");
  const accepted = opinion.accepted === false ? html`<span class="unseen">not </span>` : nothing;
  return html`<span class="opinion ${whose} ${opinion.accepted === false ? "refused" : ""}">${sign}${accepted}<bdi>${opinion.label || "–"}</bdi>
    ${opinion.score == null ? nothing : html`<span class="score">${opinion.score.toFixed(2)}</span>`}</span>`;
}

/** @param {boolean | null} agreed */
export const agreement = (agreed) =>
  agreed == null ? html`<span class="soft">–</span>` : agreed ? badge("yes", "agreed") : badge("no", "disagreed");

/** Parts of a whole as one bar, with its legend as a list. @param {[kind: string, n: number, name: string][]} parts */
export function shares(parts, label) {
  const shown = parts.filter(([, n]) => n);
  const total = shown.reduce((sum, [, n]) => sum + n, 0);
  let x = 0;
  return html`<div class="shares">
    <svg role="img" aria-label=${`${label}: ${shown.map(([, n, name]) => `${n} ${name}`).join(", ") || "none"}`} viewBox="0 0 100 1" preserveAspectRatio="none">
      ${shown.map(([kind, n]) => {
        const from = x;
        x += (100 * n) / total;
        return svg`<rect class="part ${kind}" x=${from} width=${x - from} height="1"></rect>`;
      })}
    </svg>
    <ul aria-hidden="true">${shown.map(([kind, n, name]) => html`<li class=${kind}>${count(n)} ${name}</li>`)}</ul>
  </div>`;
}

/** A histogram from 0 to 1. @param {number[]} bins */
export function histogram(bins, label) {
  const most = Math.max(1, ...bins);
  const words = bins.map((n, i) => (n ? `${plural(n, "score")} from ${i / bins.length} on` : "")).filter(Boolean);
  return html`<svg class="histogram" role="img" aria-label=${`${label}: ${words.join(", ") || "none"}`} viewBox="0 0 ${10 * bins.length} 32" preserveAspectRatio="none">
    ${bins.map((n, i) => svg`<rect x=${10 * i + 1} width="8" y=${32 - (30 * n) / most - 1} height=${(30 * n) / most + 1}></rect>`)}
  </svg>`;
}

/** What happened to something, newest first. @param {any[]} notes NodeNotes */
export const notes = (notes, none, linked = false) =>
  notes.length
    ? html`<ol class="notes">${notes.map((note) => html`<li>${when(note.at_s)} <span><bdi>${note.text}</bdi>${linked && note.rollout ? html` · <a href="#/rollouts/${encodeURIComponent(note.rollout)}">rollout ${note.rollout}</a>` : nothing}</span></li>`)}</ol>`
    : html`<p class="soft">${none}</p>`;

/** A table that becomes a list of cards where it is narrow. @param {string} caption @param {string[]} columns */
export const table = (caption, columns, rows, kind = "") =>
  html`<div class="table ${kind}"><table><caption class="unseen">${caption}</caption>
    <thead><tr>${columns.map((name) => html`<th scope="col">${name}</th>`)}</tr></thead><tbody>${rows}</tbody></table></div>`;

/** Why a list is empty, and what to do. */
export const empty = (title, text) => html`<div class="empty"><p class="empty-title">${title}</p><p>${text}</p></div>`;

/** @param {any} row an EventRow, as one short line */
export const eventLine = (row) => html`<a class="event-line" href="#/events/${row.id}">
  <span class="event-line-top"><bdi class="id">${row.node}</bdi>${when(row.at_s)}</span>
  <span>${opinion("node", row.suspicion)} <span class="soft" aria-hidden="true">→</span> ${opinion("gateway", row.verdict)}</span>
</a>`;

