// The hosts: what suffers and why, and what each uses.

import {askDrain, askUndrain} from "/web/dialogs.js";
import {button, byId, el, gauge, setAttribute, setHidden, setTags, setText, sync} from "/web/dom.js";
import * as format from "/web/format.js";

const HOT_SHARE = 0.85; // a bar is drawn as full from there on

export const isOld = (host) => host.stale || !host.usable;

function tagsOf(host) {
  const tags = [];
  if (host.hot.length > 0) tags.push(["hot", "bad"]);
  if (!host.usable) tags.push(["not usable", "bad"]);
  if (isOld(host)) tags.push([host.age_ms === null ? "never seen" : `old: ${format.seconds(host.age_ms)}`, "old"]);
  if (host.drained) tags.push([host.guests > 0 ? "drained, not empty yet" : "drained, empty", "note"]);
  return tags;
}

function figure(host, gauges) {
  const memory = host.memory_bytes === null || host.memory_available_bytes === null ? null
    : host.memory_bytes - host.memory_available_bytes;
  const cpu = format.share(host.cpu_used, host.cpus);
  const used = format.share(memory, host.memory_bytes);
  const link = format.share(host.network_bytes_per_s, host.link_bytes_per_s);
  gauges.cpu.update(cpu, `${format.percent(cpu)} of ${format.number(host.cpus)}`, cpu >= HOT_SHARE);
  gauges.pressure.update(host.cpu_pressure, format.percent(host.cpu_pressure), host.cpu_pressure >= 0.1);
  gauges.memory.update(used, `${format.bytes(memory)} of ${format.bytes(host.memory_bytes)}`, used >= HOT_SHARE);
  gauges.network.update(link, format.rate(host.network_bytes_per_s), link >= HOT_SHARE);
}

function memoryTrouble(host) {
  const words = [];
  if (host.memory_pressure > 0.005) words.push(`waiting for memory ${format.percent(host.memory_pressure)}`);
  if (host.swap_out_bytes_per_s > 0) words.push(`swaps out ${format.rate(host.swap_out_bytes_per_s)}`);
  return words.join(", ");
}

const cell = (label, ...children) => el("td", {"data-label": label}, ...children);

function makeRow(state) {
  let host;
  const name = el("b"), address = el("span", {class: "sub"}), tags = el("span", {class: "tags"});
  const why = el("span", {class: "why"}), notes = el("span", {class: "why quiet"}), guests = el("span"), trouble = el("span", {class: "sub"});
  const gauges = {cpu: gauge("CPU in use"), pressure: gauge("Time in which something waited for a CPU"),
    memory: gauge("Memory in use"), network: gauge("Network, of its link")};
  const drain = button("", () => host.drained ? askUndrain(host) : askDrain(host, state.cluster?.frozen));
  const row = el("tr", {},
    el("th", {scope: "row"}, el("div", {class: "name"}, name, tags), address, why, notes),
    cell("CPU", gauges.cpu.node), cell("Waiting for CPU", gauges.pressure.node),
    cell("Memory", gauges.memory.node, trouble), cell("Network", gauges.network.node),
    cell("Guests", guests), el("td", {class: "buttons"}, drain));
  return {
    node: row,
    update(item) {
      host = item;
      setText(name, host.name);
      setText(address, host.address);
      setTags(tags, tagsOf(host));
      setText(why, [host.problem, ...host.hot].filter(Boolean).join("; "));
      setText(notes, host.notes ?? "");
      setText(trouble, memoryTrouble(host));
      setText(guests, String(host.guests));
      setText(drain, host.drained ? "Take guests…" : "Drain…");
      setAttribute(drain, "aria-label", host.drained ? `Let ${host.name} take guests again` : `Drain ${host.name}`);
      drain.disabled = !state.reached;
      figure(host, gauges);
      row.classList.toggle("stale", isOld(host));
    },
  };
}

export function showHosts(state) {
  sync(byId("host-rows"), state.hosts, (host) => host.name, () => makeRow(state));
}

// ---- what suffers ----

// One entry for each hot host, with what is done about it, and one for each of which nothing is known.
function listTrouble(state) {
  const hot = (state.plan?.hot ?? []).map((answer) => ({
    key: `hot ${answer.host}`, host: answer.host, kind: answer.under_way ? "being relieved" : answer.trigger?.early ? "busy" : "hot",
    why: state.hosts.find((host) => host.name === answer.host)?.hot ?? [], first: answer.trigger?.text,
    what: answer.text}));
  const named = new Set(hot.map((one) => one.host));
  const others = state.hosts.filter((host) => host.hot.length > 0 && !named.has(host.name)).map((host) => ({
    key: `hot ${host.name}`, host: host.name, kind: "hot", why: host.hot, what: ""}));
  const unusable = state.hosts.filter((host) => !host.usable).map((host) => ({
    key: `bad ${host.name}`, host: host.name, kind: "not usable", why: [],
    first: host.problem ?? "nothing is known of it", what: "Nothing is moved there or away until its figures can be used."}));
  return [...hot, ...others, ...unusable];
}

function makeTrouble() {
  const name = el("b"), tags = el("span", {class: "tags"}), why = el("ul", {class: "reasons"}), what = el("p", {class: "what"});
  return {
    node: el("li", {class: "card trouble"}, el("div", {class: "name"}, name, tags), why, what),
    update(one) {
      const reasons = one.why.length > 0 ? one.why : [one.first].filter(Boolean);
      setText(name, one.host);
      setTags(tags, [[one.kind, one.kind === "being relieved" || one.kind === "busy" ? "note" : "bad"]]);
      sync(why, reasons, (text) => text, () => {
        const node = el("li");
        return {node, update: (text) => setText(node, text)};
      });
      setText(what, one.what);
      setHidden(what, !one.what);
    },
  };
}

export function showTrouble(state) {
  const trouble = listTrouble(state);
  sync(byId("hot-list"), trouble, (one) => one.key, makeTrouble);
  setText(byId("hot-none"), "Nothing suffers.");
  setHidden(byId("hot-none"), trouble.length > 0);
}
