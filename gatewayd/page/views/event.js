// One event: its window, what node and gateway made of it side by side, and where the time went.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { address, get } from "../api.js";
import { chart } from "../charts.js";
import { agreement, badge, cascadeLink, fact, heading, meter, nodeLink, shares, when } from "../parts.js";
import { painter } from "../sound.js";
import { normalised, photograph, spectrogram } from "../spectrogram.js";
import { decimal, moment, spoken } from "../words.js";

const COLORS = ["--node", "--gateway", "--trouble", "--new"];
const POINTS = 20_000; // the most that the gateway gives: windows are seldom longer
const SOUND = /pcm/;
const BASES = { gateway: "the gateway's model", node: "the node's model alone", timeout: "the node's, as the gateway's took too long", overload: "the node's, as too much waited" };

export class EventView {
  title;
  #id;
  /** @type {any} */
  #detail = null;
  #window = null;

  constructor(_, id) {
    this.#id = id;
    this.title = `Event ${id}`;
  }

  get ready() {
    return this.#detail !== null;
  }

  async load(signal) {
    const path = `/events/${encodeURIComponent(this.#id)}`;
    const detail = await get(path, {}, signal);
    if (detail.event.window && !detail.clip) this.#window ??= shown(await get(`${path}/series`, { points: POINTS }, signal), detail.channels ?? 1);
    this.#detail = detail;
  }

  render() {
    if (!this.#detail) return heading(this.title);
    const { event } = this.#detail;
    return html`
      <p class="crumbs"><a href="#/events">Events</a></p>
      ${heading(html`${event.heard && SOUND.test(event.window ?? "") ? html`“<bdi>${event.heard}</bdi>”` : html`<bdi>${event.verdict?.label || event.suspicion.label}</bdi>`} at ${nodeLink(event.node)}`, html`<span class="label">${event.reason}</span>`)}
      <p class="lead">${moment(event.at_s)} (${when(event.at_s)}), ${cascadeLink(event.cascade)}${this.#detail.follows === null ? nothing : html`, follows <a href="#/events/${this.#detail.follows}">event ${this.#detail.follows}</a>`}</p>
      <section class="opinions" aria-label="Opinions">
        ${event.reason === "follow" ? html`<article class="card side node"><h2>The node</h2><p>It was asked to go on listening, and suspects nothing here.</p></article>`
          : side("node", "The node suspects", event.suspicion)}
        <div class="between">${agreement(event.agreed)}</div>
        ${side("gateway", "The gateway judges", event.verdict, event.heard)}
      </section>
      <section class="card" aria-labelledby="window-title"><h2 id="window-title">What it was about</h2>${this.#what(event)}</section>
      <section class="card" aria-labelledby="then-title"><h2 id="then-title">What was done</h2>
        <dl class="facts">${fact("Action", html`<bdi>${event.action || "none"}</bdi>`)}${fact("Decided by", BASES[event.basis] ?? (event.basis ? spoken(event.basis) : "nobody"))}
          ${fact("Answered in", `${decimal(event.latency_ms)} ms`)}${fact("Event", `${this.#detail.seq} of session ${this.#detail.session}`)}</dl>
        ${this.#time()}
      </section>`;
  }

  #what(event) {
    const { clip, rate_hz, channels, shape } = this.#detail;
    const about = [event.window && spoken(event.window), rate_hz && `${decimal(rate_hz)} Hz`, channels && channels > 1 && `${channels} channels`, !clip && shape && shape.length > 1 && shape.join(" × ")];
    if (!event.window) return html`<p class="soft">Its window is no longer kept, or was not asked for.</p>`;
    return html`<p class="soft">${about.filter(Boolean).join(" · ")}</p>
      ${clip ? html`<sound-clip .src=${address(`/events/${event.id}/clip.wav`)}></sound-clip>` : this.#window}`;
  }

  /** Where the time went, from the event's arrival to its verdict. */
  #time() {
    const { stages, wait_ms, model_ms, event } = this.#detail;
    if (!stages.length && !model_ms) return nothing;
    const named = stages.map(([name, seconds]) => [name, seconds * 1000]);
    const inStages = named.reduce((sum, [, ms]) => sum + ms, 0);
    const parts = [["waiting", wait_ms], ...(named.length ? named : [["the model", model_ms]]), ["the rest", event.latency_ms - wait_ms - Math.max(inStages, named.length ? inStages : model_ms)]];
    return html`<h3>Where the time went</h3>${shares(parts.filter(([, ms]) => ms >= 0.5).map(([name, ms], i) => [`s-${i % 6}`, Math.round(ms), `ms ${spoken(name)}`]), "Milliseconds")}`;
  }
}

/** @param {"node" | "gateway"} whose */
function side(whose, title, opinion, heard = "") {
  return html`<article class="card side ${whose}"><h2>${title}</h2>
    ${opinion ? html`<p class="said"><bdi>${opinion.label || "–"}</bdi> ${opinion.accepted === null ? nothing : opinion.accepted ? badge("yes", "accepted") : badge("no", "refused")}</p>
      ${opinion.score === null ? nothing : html`<p class="gauge wide">${meter(opinion.score, whose)} score ${opinion.score.toFixed(3)}</p>`}
      ${heard ? html`<p><bdi>${heard}</bdi></p>` : nothing}
      <p class="soft">Model <code>${opinion.model || "–"}</code></p>` : html`<p class="soft">It was not judged.</p>`}
  </article>`;
}

/** A series as what can be seen: lines for signals, a picture for what has two dimensions. */
function shown({ kind, rate_hz, names, values, every }, channels) {
  if (kind.startsWith("image")) return photograph(values, kind === "image_rgb8" ? 3 : channels);
  if (kind === "features") return featurePlot(values);
  const x = Array.from({ length: values[0]?.length ?? 0 }, (_, i) => (rate_hz ? (i * every) / rate_hz : i));
  const showX = rate_hz ? (at) => `${decimal(at)} s` : decimal;
  const lines = names.map((name, i) => ({ name, values: values[i], color: COLORS[i % COLORS.length] }));
  const signal = chart(kind === "tabular" ? "Values" : "Signal", { x, showX, show: decimal, height: 220, lines });
  const whole = kind === "vibration" && every === 1; // thinned, it would show a spectrum that it has not
  return [signal, ...(whole ? [spectrumPlot(Float32Array.from(values[0]), rate_hz, showX)] : [])];
}

/** @param {number[][]} rows one for each moment */
function featurePlot(rows) {
  return imagePlot("Features", { x: [0, rows.length], showX: decimal, show: decimal, range: [0, rows[0]?.length ?? 1], paint: painter(normalised(rows), false) });
}

function spectrumPlot(samples, rate_hz, showX) {
  const range = /** @type {[number, number]} */ ([0, rate_hz / 2]);
  return imagePlot("Spectrogram", { x: [0, samples.length / rate_hz], showX, show: (hz) => `${decimal(hz)} Hz`, range, paint: painter(spectrogram(samples, 256)) });
}

const imagePlot = (title, plot) => chart(title, { height: 220, lines: [{ name: title, values: [null, null], color: "--ink", kind: "none" }], ...plot });
