// Figures in words.  null and undefined are what is not known.

export const UNKNOWN = "–";
const isKnown = (value) => typeof value === "number" && Number.isFinite(value);

function scaled(value, step, units) {
  let unit = 0;
  while (Math.abs(value) >= step && unit < units.length - 1) { value /= step; unit++; }
  const digits = unit > 0 && Math.abs(value) < 9.95 ? 1 : 0;
  return `${value.toFixed(digits)} ${units[unit]}`;
}

export const bytes = (value) => isKnown(value) ? scaled(value, 1024, ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]) : UNKNOWN;
// What goes over a link is told in powers of ten, as links are.
export const sent = (value) => isKnown(value) ? scaled(value, 1000, ["B", "kB", "MB", "GB", "TB"]) : UNKNOWN;
export const rate = (value) => isKnown(value) ? scaled(value, 1000, ["B/s", "kB/s", "MB/s", "GB/s"]) : UNKNOWN;

export function percent(share) {
  if (!isKnown(share)) return UNKNOWN;
  const value = share * 100;
  return `${value.toFixed(value >= 0.05 && value < 9.95 ? 1 : 0)} %`;
}

export const number = (value, digits = 1) => isKnown(value) ? value.toFixed(digits).replace(/\.0+$/, "") : UNKNOWN;

export function duration(ms) {
  if (!isKnown(ms)) return UNKNOWN;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const s = Math.round(ms / 1000);
  if (s < 60) return `${ms < 9950 ? (ms / 1000).toFixed(1) : s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor(s % 3600 / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor(s % 86400 / 3600)} h`;
}

export const seconds = (ms) => duration(Math.max(0, Math.round(ms / 1000) * 1000)).replace(".0 s", " s");

// Seconds since 1970.
export function clock(time) {
  if (!isKnown(time)) return UNKNOWN;
  const date = new Date(time * 1000);
  const today = new Date().toDateString() === date.toDateString();
  return today ? date.toLocaleTimeString(undefined, {hour12: false}) : date.toLocaleString(undefined, {hour12: false});
}

export const plural = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;
export const share = (part, whole) => isKnown(part) && isKnown(whole) && whole > 0 ? part / whole : null;
