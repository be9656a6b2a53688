// The hosts over time, drawn by uPlot where the build has it.

import {api} from "/web/api.js";
import {byId, button, el, setAttribute, setHidden, setText, sync} from "/web/dom.js";
import * as format from "/web/format.js";

const DRAWN = 6;         // hosts, until somebody chooses others
const HEIGHT = 150;
const EVERY_MS = 10000;
const FIGURES = [
  {key: "cpu", title: "CPU in use", format: format.percent, share: true},
  {key: "pressure", title: "Waiting for CPU", format: format.percent, share: true},
  {key: "memory", title: "Memory in use", format: format.percent, share: true},
  {key: "network", title: "Network", format: format.rate, share: false},
];
const COLOURS = ["--line-1", "--line-2", "--line-3", "--line-4", "--line-5", "--line-6"];

let uPlot = null;
let chosen = null;  // a set of hosts' names; null: the busiest ones
let drawn = [];     // [{name, colour}], in the order of the lines
let asked = 0;      // the newest request; answers to older ones are dropped
let newestAt = 0;
let charts = [];

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const minutes = () => Number(byId("minutes").value);

// Whether there is a library to draw with.
export async function loadCharts() {
  try {
    uPlot = (await import("/web/uplot/uPlot.esm.js")).default;
    document.head.append(el("link", {rel: "stylesheet", href: "/web/uplot/uPlot.min.css"}));
  } catch {
    uPlot = null;
  }
  setHidden(byId("charts"), !uPlot);
  setHidden(byId("charts-none"), Boolean(uPlot));
}

// ---- figures ----

// On a common time axis; a single reading that is missing is bridged, more are a gap.
function align(histories) {
  const step = Math.max(1, ...histories.map((one) => one.step_ms / 1000));
  const at = (time) => Math.round(time / step);
  const times = histories.flatMap((one) => one.time.map(at));
  if (times.length === 0) return {x: [], rows: () => histories.map(() => [])};
  const first = times.reduce((a, b) => Math.min(a, b)), last = times.reduce((a, b) => Math.max(a, b));
  const x = Array.from({length: last - first + 1}, (_, i) => (first + i) * step);
  const rows = (key) => histories.map((one) => {
    const row = new Array(x.length).fill(null);
    one.time.forEach((time, i) => { row[at(time) - first] = one[key][i] ?? null; });
    for (let i = 1; i + 1 < row.length; i++)
      if (row[i] === null && row[i - 1] !== null && row[i + 1] !== null) row[i] = row[i - 1];
    return row;
  });
  return {x, rows};
}

// ---- drawing ----

function axis(side, values) {
  return {side, values, stroke: style("--quiet"), font: "11px system-ui, sans-serif", size: side === 3 ? 58 : 28,
    grid: {stroke: style("--line"), width: 1}, ticks: {show: false}, space: side === 3 ? 32 : 70};
}

function options(figure, width, show) {
  const top = (_, __, max) => figure.share ? [0, 1] : [0, Math.max(max ?? 0, 1000) * 1.1];
  const clock = {hour: "2-digit", minute: "2-digit", hour12: false};
  return {
    width, height: HEIGHT, legend: {show: false}, padding: [8, 30, 0, 0],
    cursor: {sync: {key: "hosts"}, y: false, drag: {x: false, y: false}},
    scales: {x: {time: true}, y: {range: top}},
    axes: [axis(2, (_, ticks) => ticks.map((tick) => new Date(tick * 1000)).map((date) => {
      const all = ticks.at(-1) - ticks[0];
      if (all > 2 * 86400) return date.toLocaleDateString(undefined, {day: "numeric", month: "short"});
      return date.toLocaleTimeString(undefined, all < 600 ? {...clock, second: "2-digit"} : clock);
    })), axis(3, (_, ticks) => ticks.map((tick) => figure.format(tick)))],
    series: [{}, ...drawn.map((one) => ({label: one.name, stroke: style(one.colour), width: 1.75, points: {show: false}}))],
    hooks: {setCursor: [(plot) => show(plot)]},
  };
}

function makeChart(figure) {
  const title = el("b", {text: figure.title}), words = el("span", {class: "sub"});
  const canvas = el("div", {class: "canvas", role: "img"});
  const node = el("figure", {}, el("figcaption", {}, title, " ", words), canvas);
  const chart = {node, figure, plot: null, key: "", data: null, words, canvas};
  new ResizeObserver(() => {
    if (chart.plot && canvas.clientWidth > 0 && chart.plot.width !== canvas.clientWidth)
      chart.plot.setSize({width: canvas.clientWidth, height: HEIGHT});
  }).observe(canvas);
  return chart;
}

// In words what is below the cursor, or newest.
function tell(chart, plot) {
  const [x, ...rows] = chart.data;
  const at = plot?.cursor.idx ?? null;
  const newest = (row) => row.findLast((value) => value !== null) ?? null;
  const texts = drawn.map((one, i) => `${one.name} ${chart.figure.format(at === null ? newest(rows[i]) : rows[i][at])}`);
  setText(chart.words, at === null ? "" : `${format.clock(x[at])}: ${texts.join(" · ")}`);
  if (at === null) setAttribute(chart.canvas, "aria-label", `${chart.figure.title}, now: ${texts.join(", ")}`);
}

function draw(chart, data, key) {
  chart.data = data;
  if (chart.plot && chart.key !== key) { chart.plot.destroy(); chart.plot = null; }
  if (chart.plot) chart.plot.setData(data);
  else chart.plot = new uPlot(options(chart.figure, chart.canvas.clientWidth || 300, (plot) => tell(chart, plot)), data, chart.canvas);
  chart.key = key;
  tell(chart, chart.plot);
}

// ---- which hosts ----

function choose(state) {
  const names = state.hosts.map((host) => host.name);
  const load = (host) => format.share(host.cpu_used, host.cpus) ?? -1;
  const busiest = [...state.hosts].sort((a, b) => load(b) - load(a)).slice(0, DRAWN).map((host) => host.name);
  const wanted = names.length <= DRAWN && !chosen ? new Set(names) : chosen ?? new Set(busiest);
  // A host keeps its colour as long as the hosts are the same.
  return names.map((name, i) => ({name, colour: COLOURS[i % COLOURS.length], on: wanted.has(name)}));
}

function makeChip(state) {
  let host;
  const mark = el("span", {class: "mark"}), text = el("span");
  const node = button("", () => {
    chosen = new Set(choose(state).filter((one) => one.on).map((one) => one.name));
    if (!chosen.delete(host.name)) chosen.add(host.name);
    newestAt = 0;
    showCharts(state);
  }, {class: "chip"});
  node.append(mark, text);
  return {
    node,
    update(item) {
      host = item;
      setText(text, host.name);
      setAttribute(node, "aria-pressed", String(host.on));
      mark.className = `mark ${host.colour.slice(2)}`;
    },
  };
}

export async function showCharts(state) {
  if (!uPlot || state.hosts.length === 0) return;
  const hosts = choose(state);
  sync(byId("legend"), hosts, (host) => host.name, () => makeChip(state));
  if (Date.now() - newestAt < EVERY_MS) return;
  newestAt = Date.now();
  const request = ++asked;
  const wanted = hosts.filter((host) => host.on);
  const answers = await Promise.allSettled(wanted.map((host) => api.history(host.name, minutes())));
  if (request !== asked) return;
  const good = wanted.map((host, i) => ({...host, history: answers[i].value})).filter((host) => host.history);
  if (good.length < wanted.length) newestAt = 0;
  if (good.length === 0 && wanted.length > 0) return;
  drawn = good;
  const {x, rows} = align(good.map((host) => host.history));
  if (charts.length === 0) {
    charts = FIGURES.map(makeChart);
    byId("chart-grid").append(...charts.map((chart) => chart.node));
  }
  const key = JSON.stringify([drawn.map((one) => one.name), minutes(), style("--line-1")]);
  for (const chart of charts) draw(chart, [x, ...rows(chart.figure.key)], key);
}

// Something that shows in the charts has changed: asks again at once.
export function redraw(state) {
  newestAt = 0;
  showCharts(state);
}
