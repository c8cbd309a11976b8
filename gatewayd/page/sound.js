// <sound-clip>: a recording that plays, its waveform and its spectrogram.

import { html, render } from "./vendor/lit-html/lit-html.js";
import { color } from "./charts.js";
import { picture, spectrogram } from "./spectrogram.js";
import { duration } from "./words.js";

const COLUMNS = 900; // of the waveform
export const HEAT = ["--heat-0", "--heat-1", "--heat-2", "--heat-3"];

/** Samples from -1 to 1 of a WAV of 16-bit PCM; of several channels the first. @param {ArrayBuffer} buffer */
export function wav(buffer) {
  const view = new DataView(buffer);
  const name = (at) => String.fromCharCode(...new Uint8Array(buffer, at, 4));
  let [rate, channels] = [0, 1];
  for (let at = 12; at + 8 <= view.byteLength; ) {
    const size = view.getUint32(at + 4, true);
    if (name(at) === "fmt ") [channels, rate] = [view.getUint16(at + 10, true), view.getUint32(at + 12, true)];
    if (name(at) === "data") {
      const frames = Math.floor(Math.min(size, view.byteLength - at - 8) / (2 * channels));
      return { rate, samples: Float32Array.from({ length: frames }, (_, i) => view.getInt16(at + 8 + 2 * channels * i, true) / 32_768) };
    }
    at += 8 + size + (size % 2);
  }
  throw new Error("The recording cannot be read.");
}

/** Lowest and highest sample of each column. @param {Float32Array} samples @param {number} rate */
function envelope(samples, rate) {
  const step = Math.max(1, Math.ceil(samples.length / COLUMNS));
  const starts = Array.from({ length: Math.ceil(samples.length / step) }, (_, i) => i * step);
  const parts = starts.map((from) => samples.subarray(from, from + step));
  return { x: starts.map((from) => from / rate), low: parts.map((part) => Math.min(...part)), high: parts.map((part) => Math.max(...part)) };
}

/** uPlot's hook that fills the plot with a picture; drawn anew when the colours change. @param {number[][]} levels from 0 to 1 */
export function painter(levels, smooth = true) {
  return ({ ctx, bbox }) => {
    ctx.imageSmoothingEnabled = smooth;
    ctx.drawImage(picture(levels, HEAT.map(color)), bbox.left, bbox.top, bbox.width, bbox.height);
  };
}

export class SoundClip extends HTMLElement {
  #url = "";
  #frame = 0;

  /** @param {string} url */
  set src(url) {
    if (url === this.#url) return;
    this.#url = url;
    this.#load();
  }

  disconnectedCallback() {
    cancelAnimationFrame(this.#frame);
  }

  async #load() {
    render(html`<p class="soft">Loading the recording …</p>`, this);
    try {
      const answer = await fetch(this.#url);
      if (!answer.ok) throw new Error("The recording is no longer kept.");
      this.#show(wav(await answer.arrayBuffer()));
    } catch (error) {
      render(html`<p class="notice">${error.message}</p>`, this);
    }
  }

  #show({ rate, samples }) {
    const { x, low, high } = envelope(samples, rate);
    const seconds = samples.length / rate;
    const seek = (at) => {
      this.querySelector("audio").currentTime = at;
    };
    const both = { showX: (at) => `${Number(at.toFixed(2))} s`, sync: this.#url, seek };
    const wave = {
      ...both, x, height: 120, range: [-1, 1], band: [1, 0], show: (level) => String(level),
      lines: [{ name: "lowest", values: low, color: "--node", kind: "none" }, { name: "highest", values: high, color: "--node", kind: "none" }],
    };
    const spectrum = {
      ...both, x: [0, seconds], height: 200, range: [0, rate / 2], paint: painter(spectrogram(samples)), show: (hz) => `${hz / 1000} kHz`,
      lines: [{ name: "frequency", values: [null, null], color: "--ink", kind: "none" }],
    };
    const loudest = high.reduce((most, level, i) => Math.max(most, level, -low[i]), 0);
    const peak = `${duration(seconds)} at ${rate / 1000} kHz, peak ${Math.round(20 * Math.log10(loudest || 1e-5))} dB`;
    render(
      html`<audio controls preload="auto" src=${this.#url} @play=${() => this.#follow()} @seeked=${() => this.#place()}></audio>
        <figure class="chart"><figcaption>Waveform <span class="soft">${peak}</span></figcaption>
          <line-plot role="img" aria-label="Waveform: ${peak}" .plot=${wave}></line-plot></figure>
        <figure class="chart"><figcaption>Spectrogram</figcaption>
          <line-plot role="img" aria-label="Spectrogram: the spectrum of the recording over time, up to ${rate / 2000} kHz" .plot=${spectrum}></line-plot></figure>`,
      this,
    );
  }

  #place() {
    const audio = this.querySelector("audio");
    for (const plot of this.querySelectorAll("line-plot")) plot.at = audio.currentTime;
    return audio;
  }

  #follow() {
    cancelAnimationFrame(this.#frame);
    const step = () => {
      if (!this.#place().paused) this.#frame = requestAnimationFrame(step);
    };
    step();
  }
}

customElements.define("sound-clip", SoundClip);
