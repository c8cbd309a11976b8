// From samples to a picture of their spectrum over time.

/** In place, decimation in time; a power of two long. @param {Float32Array} re @param {Float32Array} im */
export function fft(re, im) {
  const n = re.length;
  for (let i = 1, j = 0; i < n; i++) {
    let bit = n >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) {
      [re[i], re[j]] = [re[j], re[i]];
      [im[i], im[j]] = [im[j], im[i]];
    }
  }
  for (let size = 2; size <= n; size *= 2) {
    const half = size / 2;
    for (let k = 0; k < half; k++) {
      const [wr, wi] = [Math.cos((2 * Math.PI * k) / size), -Math.sin((2 * Math.PI * k) / size)];
      for (let i = k; i < n; i += size) {
        const [xr, xi] = [wr * re[i + half] - wi * im[i + half], wr * im[i + half] + wi * re[i + half]];
        [re[i + half], im[i + half]] = [re[i] - xr, im[i] - xi];
        re[i] += xr;
        im[i] += xi;
      }
    }
  }
}

const FLOOR_DB = -75; // below the loudest: black

/** Rows of levels from 0 to 1, one for each moment, lowest frequency first. @param {Float32Array} samples */
export function spectrogram(samples, size = 512, step = Math.max(64, Math.floor(samples.length / 600))) {
  const hann = Float32Array.from({ length: size }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / size));
  const rows = [];
  let most = -Infinity;
  for (let from = 0; from + size <= Math.max(size, samples.length); from += step) {
    const re = Float32Array.from(hann, (weight, i) => weight * (samples[from + i] ?? 0));
    const im = new Float32Array(size);
    fft(re, im);
    const row = Array.from({ length: size / 2 }, (_, i) => 10 * Math.log10(re[i] ** 2 + im[i] ** 2 + 1e-12));
    most = row.reduce((a, b) => Math.max(a, b), most);
    rows.push(row);
  }
  return rows.map((row) => row.map((db) => Math.max(0, 1 + (most - db) / FLOOR_DB)));
}

/** Values as they are, spread over 0 to 1. @param {number[][]} rows */
export function normalised(rows) {
  const all = rows.flat();
  const [low, high] = all.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
  return rows.map((row) => row.map((value) => (value - low) / (high - low || 1)));
}

/** A picture of rows of levels: time to the right, upwards what a row holds. @param {number[][]} rows @param {string[]} colors from 0 to 1 */
export function picture(rows, colors) {
  const palette = gradient(colors);
  const canvas = Object.assign(document.createElement("canvas"), { width: rows.length, height: rows[0]?.length ?? 0 });
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const image = context.createImageData(canvas.width, canvas.height);
  rows.forEach((row, x) =>
    row.forEach((level, i) => {
      const at = 4 * Math.round(255 * level);
      image.data.set(palette.subarray(at, at + 4), 4 * ((canvas.height - 1 - i) * canvas.width + x));
    }),
  );
  context.putImageData(image, 0, 0);
  return canvas;
}

/** An image as it is. @param {number[][]} rows of bytes @param {number} channels 1: grey, 3: red, green, blue */
export function photograph(rows, channels) {
  const canvas = Object.assign(document.createElement("canvas"), { width: (rows[0]?.length ?? 0) / channels, height: rows.length, className: "photograph" });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `An image of ${canvas.width} by ${canvas.height} pixels`);
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const image = context.createImageData(canvas.width, canvas.height);
  rows.flat().forEach((value, i) => {
    const at = 4 * Math.floor(i / channels);
    if (channels === 1) image.data.fill(value, at, at + 3);
    else image.data[at + (i % channels)] = value;
    image.data[at + 3] = 255;
  });
  context.putImageData(image, 0, 0);
  return canvas;
}

/** 256 colours, four bytes each. */
function gradient(colors) {
  const canvas = Object.assign(document.createElement("canvas"), { width: 256, height: 1 });
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const fill = context.createLinearGradient(0, 0, 256, 0);
  colors.forEach((color, i) => fill.addColorStop(i / (colors.length - 1), color));
  context.fillStyle = fill;
  context.fillRect(0, 0, 256, 1);
  return context.getImageData(0, 0, 256, 1).data;
}
