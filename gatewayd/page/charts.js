// <line-plot>: uPlot as an element, in the page's colours, as wide as its place; and what a chart says without being seen.

import { html, nothing } from "./vendor/lit-html/lit-html.js";
import uPlot from "./vendor/uplot/dist/uPlot.esm.js";
import { moment, timeAxis } from "./words.js";

/** @typedef {object} Line
 * @property {string} name
 * @property {(number | null)[]} values
 * @property {string} color name of a custom property: "--node"
 * @property {"line" | "bars" | "none"} [kind]
 * @property {boolean} [fill]
 */

/** @typedef {object} Plot
 * @property {number[]} x Unix seconds where `time`, else any numbers
 * @property {Line[]} lines
 * @property {boolean} [time]
 * @property {(value: number) => string} [show] a value in words
 * @property {(value: number) => string} [showX]
 * @property {[number | null, number | null]} [range] of y; null: from the data
 * @property {number} [height]
 * @property {boolean} [binary] y in powers of two
 * @property {[number, number]} [band] two lines, upper and lower, the area between which is filled
 * @property {string} [sync] plots with the same word show the same x
 * @property {(plot: uPlot) => void} [paint] draws below the lines
 * @property {(x: number) => void} [seek] somebody pointed at x
 */

const POWERS = Array.from({ length: 40 }, (_, i) => 2 ** i);

/** The colour that a custom property has in this theme. */
export const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export class LinePlot extends HTMLElement {
  /** @type {Plot | null} */ #plot = null;
  /** @type {uPlot | null} */ #chart = null;
  #at = /** @type {number | null} */ (null);
  #resized = new ResizeObserver(() => this.#chart?.setSize({ width: this.clientWidth, height: this.#plot?.height ?? 150 }));
  #recolored = () => this.#draw();

  /** @param {Plot} plot */
  set plot(plot) {
    const same = this.#plot && !plot.paint && String(plot.lines.map(({ name }) => name)) === String(this.#plot.lines.map(({ name }) => name));
    this.#plot = plot;
    if (same) this.#chart?.setData(columns(plot)); // whoever points at it goes on to
    else if (this.isConnected) this.#draw();
  }

  /** Where a line across stands, like the place in a recording. @param {number | null} x */
  set at(x) {
    this.#at = x;
    this.#chart?.redraw(false, false);
  }

  connectedCallback() {
    document.addEventListener("themechange", this.#recolored);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", this.#recolored);
    this.#resized.observe(this);
    this.#draw();
  }

  disconnectedCallback() {
    document.removeEventListener("themechange", this.#recolored);
    matchMedia("(prefers-color-scheme: dark)").removeEventListener("change", this.#recolored);
    this.#resized.disconnect();
    this.#chart?.destroy();
    this.#chart = null;
  }

  #draw() {
    if (!this.#plot) return;
    this.#chart?.destroy();
    this.#chart = new uPlot(this.#options(this.#plot), columns(this.#plot), this);
  }

  /** @param {Plot} plot @returns {uPlot.Options} */
  #options(plot) {
    const { x, lines, time = false, show = String, showX = String, range = [null, null], height = 150, binary, band, sync, paint, seek } = plot;
    const alone = time ? 43_200 : 1; // beside a point that is the only one
    const axis = { stroke: color("--soft"), grid: { show: !paint, stroke: color("--line"), width: 1 }, ticks: { show: false }, font: `11px ${color("--sans")}`, labelFont: "" };
    return {
      width: this.clientWidth || 300,
      height,
      padding: [8, 18, 0, 0],
      scales: {
        x: { time, range: (_, low, high) => (low === high ? [low - alone, high + alone] : [low, high]) },
        y: { range: (_, low, high) => spread(range[0] ?? low, range[1] ?? high, range) },
      },
      axes: [
        { ...axis, grid: { show: false }, size: 24, gap: 4, values: time ? timeAxis : (_, at) => at.map(showX) },
        { ...axis, size: 58, gap: 6, space: 28, ...(binary ? { incrs: POWERS } : {}), values: (_, at) => at.map((value) => (value == null ? "" : show(value))) },
      ],
      series: [
        { label: time ? "at" : "x", value: (_, value) => (value == null ? "–" : time ? moment(value) : showX(value)) },
        ...lines.map((line) => series(line, show, x.length)),
      ],
      bands: band ? [{ series: [band[0] + 1, band[1] + 1], fill: color(lines[band[0]].color) }] : [],
      legend: { show: !paint && !band, live: true },
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 7 }, ...(sync ? { sync: { key: sync } } : {}) },
      hooks: {
        drawClear: paint ? [paint] : [],
        draw: [(chart) => this.#drawAt(chart)],
        ready: seek ? [(chart) => chart.over.addEventListener("click", (event) => seek(chart.posToVal(event.offsetX, "x")))] : [],
      },
    };
  }

  #drawAt(chart) {
    if (this.#at === null) return;
    const { ctx, bbox } = chart;
    const x = chart.valToPos(this.#at, "x", true);
    ctx.fillStyle = color("--ink");
    ctx.fillRect(x, bbox.top, 2 * devicePixelRatio, bbox.height);
  }
}

/** @param {Line} line */
function series({ name, color: property, kind = "line", fill = false }, show, points) {
  const stroke = color(property);
  return {
    label: name,
    stroke,
    width: kind === "none" ? 0 : 1.75,
    fillTo: (chart) => chart.scales.y.min,
    fill: kind === "bars" ? stroke : fill ? `color-mix(in srgb, ${stroke} 14%, transparent)` : undefined,
    paths: kind === "bars" ? uPlot.paths.bars({ size: [0.7, 40] }) : undefined,
    points: { show: kind === "line" && points < 2, size: 5 },
    spanGaps: false,
    value: (_, value) => (value == null ? "–" : show(value)),
  };
}

/** @param {Plot} plot */
const columns = ({ x, lines }) => [x, ...lines.map((line) => line.values)];

/** A scale that shows even what does not change. */
function spread(low, high, [fixedLow, fixedHigh]) {
  if (low == null || high == null) return [0, 1];
  const room = (high - low || Math.abs(high) || 1) * 0.1;
  return [fixedLow ?? low - room, fixedHigh ?? high + room];
}

customElements.define("line-plot", LinePlot);

const ROWS = 12;

/** A chart with its title, what it says in words, and its numbers as a table. @param {string} title @param {Plot} plot */
export function chart(title, plot) {
  const { lines, show = String, time } = plot;
  const said = lines.map((line) => summary(line, show)).join(". ");
  const pictured = lines.every(({ kind }) => kind === "none");
  return html`<figure class="chart ${lines.length === 1 ? "single" : ""}">
    <figcaption>${title}${lines.length === 1 && time ? html` <strong>${last(lines[0], show)}</strong>` : nothing}</figcaption>
    <line-plot role="img" aria-label=${pictured ? title : `${title}. ${said}`} .plot=${plot}></line-plot>
    ${pictured ? nothing : html`<details><summary>Numbers<span class="unseen"> of ${title}</span></summary>${numbers(title, plot)}</details>`}
  </figure>`;
}

const last = (line, show) => {
  const known = line.values.filter((value) => value !== null);
  return known.length ? show(known[known.length - 1]) : "–";
};

/** @param {Line} line */
function summary(line, show) {
  const known = line.values.filter((value) => value !== null);
  if (!known.length) return `${line.name}: nothing known`;
  const [low, high] = known.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
  return `${line.name}: ${show(low)} to ${show(high)}, at the end ${last(line, show)}`;
}

/** At most so many rows, evenly chosen. @param {Plot} plot */
function numbers(title, { x, lines, time, show = String, showX = String }) {
  const step = Math.max(1, Math.ceil(x.length / ROWS));
  const rows = x.map((_, i) => i).filter((i) => (x.length - 1 - i) % step === 0);
  return html`<table><caption class="unseen">${title}</caption>
    <thead><tr><th scope="col">${time ? "At" : ""}</th>${lines.map((line) => html`<th scope="col">${line.name}</th>`)}</tr></thead>
    <tbody>${rows.map((i) => html`<tr><th scope="row">${time ? moment(x[i]) : showX(x[i])}</th>${lines.map((line) => html`<td class="number">${line.values[i] == null ? "–" : show(line.values[i])}</td>`)}</tr>`)}</tbody>
  </table>`;
}
