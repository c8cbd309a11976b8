// Numbers and times in words, as people read them.

const number = new Intl.NumberFormat("en");
const short = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const long = new Intl.DateTimeFormat("en-GB", {
  weekday: "short", day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit",
});
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const minute = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const NOTHING = "–";

/** @param {number | null | undefined} n */
export const count = (n) => (n == null ? NOTHING : number.format(n));

/** @param {number} n @param {string} one @param {string} [many] */
export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

/** A share of 1. @param {number | null | undefined} share */
export const percent = (share, digits = 0) => (share == null ? NOTHING : `${(share * 100).toFixed(digits)} %`);

/** A few significant digits, without an exponent where people can do without. @param {number | null | undefined} x */
export function decimal(x) {
  if (x == null) return NOTHING;
  if (x !== 0 && (Math.abs(x) >= 1e6 || Math.abs(x) < 1e-3)) return x.toExponential(1).replace("e+", "e");
  return number.format(Number(x.toPrecision(3)));
}

/** @param {number | null | undefined} n */
export function bytes(n) {
  if (n == null) return NOTHING;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = n < 1024 ? 0 : Math.min(Math.floor(Math.log2(n) / 10), units.length - 1);
  const scaled = n / 1024 ** power;
  return `${power && scaled < 10 ? scaled.toFixed(1) : Math.round(scaled)} ${units[power]}`;
}

/** A length of time, in its two largest units. @param {number | null | undefined} seconds */
export function duration(seconds) {
  if (seconds == null) return NOTHING;
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  const whole = Math.round(seconds);
  const steps = /** @type {const} */ ([["d", 86_400], ["h", 3_600], ["min", 60], ["s", 1]]);
  const first = steps.findIndex(([, size]) => whole >= size);
  const [unit, size] = steps[first];
  const rest = steps[first + 1];
  const more = rest && Math.floor((whole % size) / rest[1]);
  return `${Math.floor(whole / size)} ${unit}${more ? ` ${more} ${rest[0]}` : ""}`;
}

/** A length of time, in its largest unit. @param {number} seconds */
export const roughly = (seconds) => duration(seconds).split(" ").slice(0, 2).join(" ");

/** How long ago, in one unit. @param {number} atS */
export function ago(atS) {
  const seconds = Date.now() / 1000 - atS;
  if (atS <= 0) return "never";
  if (seconds < 5) return "now";
  const [unit, size] = /** @type {const} */ ([["d", 86_400], ["h", 3_600], ["min", 60], ["s", 1]]).find(([, s]) => seconds >= s) ?? ["s", 1];
  return `${Math.floor(seconds / size)} ${unit} ago`;
}

/** @param {number} atS */
export const moment = (atS) => long.format(atS * 1000);

/** uPlot's labels of a time axis: hours, and days where one begins. @param {number[]} at @param {number} step in seconds */
export const timeAxis = (_chart, at, _axis, _space, step) =>
  at.map((s) => (step >= 86_400 || minute.format(s * 1000) === "00:00" ? day : step < 60 ? short : minute).format(s * 1000));

/** A signal's strength, with a minus sign that is one. @param {number} dbm */
export const decibel = (dbm) => `${dbm < 0 ? "−" : ""}${Math.abs(Math.round(dbm))} dBm`;

/** A word of the protocol, for people: rolled_back, awaiting_approval. @param {string} word */
export const spoken = (word) => word.replaceAll("_", " ");
