// What users want of the engine: rules, and what guests are promised.

import {api} from "/web/api.js";
import {ask, p} from "/web/dialogs.js";
import {button, byId, el, setAttribute, setHidden, setTags, setText, sync} from "/web/dom.js";
import * as format from "/web/format.js";

const SUGGESTED = 8;
const KINDS = {
  together: {label: "Guests stay together", guests: 2, text: (names) => `${names} stay on one host`},
  apart: {label: "Guests stay apart", guests: 2, text: (names) => `no two of ${names} on one host`},
  hosts: {label: "Guests stay on some hosts", guests: 1, text: (names, hosts) => `${names} on ${hosts} only`},
  never: {label: "Guests are never moved", guests: 1, text: (names) => `the engine does not move ${names}`},
};

function describe(rule) {
  const names = rule.guests.join(", ");
  return KINDS[rule.kind]?.text(names, rule.hosts.join(", ")) ?? `${rule.kind}: ${names}`;
}

// What a guest is promised, in words; "" where that is nothing.
export function promised(sla) {
  const words = [];
  if (sla?.cpu_wait > 0) words.push(`waits at most ${format.percent(sla.cpu_wait)}`);
  if (sla?.network_bytes_per_s > 0) words.push(format.rate(sla.network_bytes_per_s));
  if (sla?.no_swap) words.push("no swap");
  return words.join(", ");
}

// ---- names ----

const split = (text) => text.split(/[\s,]+/).filter(Boolean);

// An input for several names, and those that are known and may be meant: {node, names()}.
function namesField(id, label, known) {
  const input = el("input", {id, autocomplete: "off", spellcheck: "false", required: true, "aria-describedby": `${id}-hint`});
  const suggestions = el("div", {class: "suggestions", role: "group", "aria-label": `${label} that are known`});
  const suggest = () => {
    const given = split(input.value);
    // The last word is still being written, unless something ends it.
    const begun = /[\s,]$/.test(input.value) ? "" : (given.pop() ?? "");
    const fitting = known.filter((name) => !given.includes(name) && name !== begun && name.startsWith(begun));
    suggestions.replaceChildren(...fitting.slice(0, SUGGESTED).map((name) => button(name, () => {
      input.value = [...given, name].join(", ") + ", ";
      input.focus();
      suggest();
    }, {class: "chip"})), fitting.length > SUGGESTED ? `and ${fitting.length - SUGGESTED} more` : "");
  };
  input.addEventListener("input", suggest);
  suggest();
  return {
    node: el("div", {class: "field"}, el("label", {for: id, text: label}), input,
      el("span", {id: `${id}-hint`, class: "sub", text: "names, with commas between them"}), suggestions),
    input,
    names: () => split(input.value),
  };
}

const namesOf = (list) => [...new Set(list.map((one) => one.name))].sort((a, b) => a.localeCompare(b, undefined, {numeric: true}));

// ---- rules ----

export function askAddRule(state) {
  const kind = el("select", {id: "rule-kind"},
    Object.entries(KINDS).map(([value, {label}]) => el("option", {value, text: label})));
  const guests = namesField("rule-guests", "Guests", namesOf(state.guests));
  const hosts = namesField("rule-hosts", "Hosts", namesOf(state.hosts));
  const preferred = el("input", {id: "rule-preferred", type: "checkbox"});
  const show = () => {
    const named = kind.value === "hosts";
    setHidden(hosts.node, !named);
    hosts.input.required = named;
  };
  kind.addEventListener("change", show);
  show();
  ask({
    title: "Add a rule", label: "Add it",
    body: [el("div", {class: "field"}, el("label", {for: "rule-kind", text: "What it says"}), kind), guests.node, hosts.node,
      el("p", {}, preferred, el("label", {for: "rule-preferred", text: " only a wish: it may be broken where nothing else helps"})),
      p("It binds from now on, also guests that are not there yet. Nothing is moved because of it alone: a guest that breaks it already stays where it is.", "quiet")],
    run: async () => {
      const rule = await api.addRule({kind: kind.value, guests: guests.names(), strict: !preferred.checked,
        hosts: kind.value === "hosts" ? hosts.names() : []});
      return `Rule ${rule.id} is in force.`;
    },
  });
}

function askRemoveRule(rule) {
  ask({
    title: `Remove rule ${rule.id}?`, label: "Remove it", danger: true,
    body: [p(`It says: ${describe(rule)}.`), p("Nothing is moved by this; from now on the engine may.")],
    run: async () => { await api.removeRule(rule.id); return `Rule ${rule.id} is removed.`; },
  });
}

function makeRule(state) {
  let rule;
  const id = el("b"), text = el("span", {class: "grow"}), tags = el("span", {class: "tags"});
  const remove = button("Remove…", () => askRemoveRule(rule));
  return {
    node: el("li", {}, el("div", {class: "name"}, id, text, tags, remove)),
    update(item) {
      rule = item;
      setText(id, rule.id);
      setText(text, describe(rule));
      setTags(tags, rule.strict ? [] : [["a wish", "note"]]);
      setAttribute(remove, "aria-label", `Remove rule ${rule.id}`);
      remove.disabled = !state.reached;
    },
  };
}

// ---- promises ----

const NOTHING = {cpu_wait: 0, network_bytes_per_s: 0, no_swap: false};

async function setSla(guest, sla) {
  await api.setSla(guest, sla);
  return promised(sla) ? `${guest} is promised: ${promised(sla)}.` : `${guest} is promised nothing any more.`;
}

function numberField(id, label, unit, value, most) {
  const input = el("input", {id, type: "number", min: 0, max: most, step: "any", value: value > 0 ? String(Number(value.toPrecision(6))) : null});
  return {
    node: el("div", {class: "field"}, el("label", {for: id, text: label}), el("span", {class: "with-unit"}, input, ` ${unit}`)),
    value: () => Number(input.value) || 0,
  };
}

// *name*: of a guest, which need not be there; *sla*: what it is promised now.
export function askSla(name, sla) {
  const wait = numberField("sla-wait", "Its vCPUs wait for a CPU at most", "% of the time", (sla?.cpu_wait ?? 0) * 100, 100);
  const network = numberField("sla-network", "It can send and receive, both together", "Mbit/s", (sla?.network_bytes_per_s ?? 0) * 8 / 1e6);
  const noSwap = el("input", {id: "sla-swap", type: "checkbox", checked: Boolean(sla?.no_swap)});
  ask({
    title: `What is ${name} promised?`, label: "Promise it",
    also: promised(sla) ? {label: "Promise nothing", run: () => setSla(name, NOTHING)} : null,
    body: [wait.node, network.node,
      el("p", {}, noSwap, el("label", {for: "sla-swap", text: " none of its memory is swapped out"})),
      p("What is left empty is not promised. Where a promise is not kept for a while, the engine looks for a move that helps.", "quiet")],
    run: () => setSla(name, {cpu_wait: wait.value() / 100, network_bytes_per_s: Math.round(network.value() * 1e6 / 8), no_swap: noSwap.checked}),
  });
}

function makeAbsent(state) {
  let one;
  const name = el("b"), text = el("span", {class: "grow"}), change = button("SLA…", () => askSla(one.name, one.sla));
  return {
    node: el("li", {}, el("div", {class: "name"}, name, text, change)),
    update(item) {
      one = item;
      setText(name, one.name);
      setText(text, promised(one.sla));
      setAttribute(change, "aria-label", `SLA of ${one.name}`);
      change.disabled = !state.reached;
    },
  };
}

export function showWishes(state) {
  const present = new Set(state.guests.map((guest) => guest.name));
  const absent = Object.entries(state.slas).map(([name, sla]) => ({name, sla}))
    .filter((one) => !present.has(one.name) && promised(one.sla)).sort((a, b) => a.name.localeCompare(b.name));
  sync(byId("rule-list"), state.rules, (rule) => rule.id, () => makeRule(state));
  setText(byId("rules-none"), "There are no rules.");
  setHidden(byId("rules-none"), state.rules.length > 0);
  sync(byId("absent-list"), absent, (one) => one.name, () => makeAbsent(state));
  setHidden(byId("absent"), absent.length === 0);
  byId("add-rule").disabled = !state.reached;
}
