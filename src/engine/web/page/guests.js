// The guests and their promises.

import {askFreeze, askMove, askThaw} from "/web/dialogs.js";
import {button, byId, el, setAttribute, setHidden, setTags, setText, sync} from "/web/dom.js";
import * as format from "/web/format.js";
import {askSla, promised} from "/web/wishes.js";

const SHOWN = 200;

function tagsOf(guest) {
  const tags = [];
  if (guest.moving) tags.push(["moving", "note"]);
  if (guest.frozen) tags.push(["frozen", "note"]);
  if (guest.stuck && !guest.moving) tags.push(["cannot move", "note"]);
  if (guest.stale) tags.push(["old", "old"]);
  if (guest.state !== "running" && !(guest.moving && guest.state === "migrating")) tags.push([guest.state, ""]);
  return tags;
}

function whyOf(guest) {
  const words = [];
  if (guest.frozen) words.push(`frozen: ${guest.frozen_why ?? "by a user"}`);
  if (guest.stuck && !guest.moving) words.push(`cannot move: ${guest.stuck}`);
  if (guest.cooldown_ms > 0) words.push(`not moved again for ${format.seconds(guest.cooldown_ms)}`);
  if (guest.rules.length > 0) words.push(`${guest.rules.length === 1 ? "rule" : "rules"} ${guest.rules.join(", ")}`);
  return words.join("; ");
}

function slaTag(guest) {
  if (!promised(guest.sla)) return [["none", ""]];
  if (guest.sla_met === null || guest.stale) return [["not known", "old"]];
  return guest.sla_met ? [["met", "good"]] : [["missed", "bad"]];
}

function makeRow(state) {
  let guest;
  const name = el("b"), tags = el("span", {class: "tags"}), why = el("span", {class: "why quiet"});
  const sla = el("span", {class: "tags"}), promise = el("span", {class: "sub"});
  const host = el("td", {"data-label": "Host"}), cpu = el("td", {"data-label": "CPU"});
  const wait = el("td", {"data-label": "Waiting for CPU"}), network = el("td", {"data-label": "Network"});
  const memory = el("span"), swapped = el("span", {class: "sub"});
  const move = button("Move…", () => askMove(guest, state.hosts));
  const freeze = button("", () => guest.frozen ? askThaw(guest) : askFreeze(guest));
  const change = button("SLA…", () => askSla(guest.name, guest.sla));
  const row = el("tr", {},
    el("th", {scope: "row"}, el("div", {class: "name"}, name, tags), why),
    host, el("td", {"data-label": "SLA"}, el("div", {}, sla, promise)), cpu, wait,
    el("td", {"data-label": "Memory"}, el("div", {}, memory, swapped)), network,
    el("td", {class: "buttons"}, move, freeze, change));
  return {
    node: row,
    update(item) {
      guest = item;
      setText(name, guest.name);
      setTags(tags, tagsOf(guest));
      setText(why, whyOf(guest));
      setText(host, guest.host);
      setTags(sla, slaTag(guest));
      setText(promise, promised(guest.sla));
      setText(cpu, `${format.number(guest.cpu_used, 2)} of ${guest.vcpus > 0 ? guest.vcpus : format.UNKNOWN}`);
      setText(wait, format.percent(guest.cpu_wait));
      setText(memory, format.bytes(guest.memory_bytes));
      setText(swapped, guest.swapped_bytes > 0 ? `${format.bytes(guest.swapped_bytes)} swapped out` : "");
      setText(network, format.rate(guest.network_bytes_per_s));
      setText(freeze, guest.frozen ? "Thaw…" : "Freeze…");
      setAttribute(move, "aria-label", `Move ${guest.name}`);
      setAttribute(change, "aria-label", `SLA of ${guest.name}`);
      setAttribute(freeze, "aria-label", `${guest.frozen ? "Thaw" : "Freeze"} ${guest.name}`);
      move.disabled = !state.reached || guest.moving;
      freeze.disabled = change.disabled = !state.reached;
      row.classList.toggle("stale", Boolean(guest.stale));
    },
  };
}

const kinds = {
  missed: (guest) => guest.sla_met === false,
  moving: (guest) => guest.moving,
  frozen: (guest) => guest.frozen,
};

// Those first that miss their promise, then by name.
function order(a, b) {
  return (a.sla_met === false ? 0 : 1) - (b.sla_met === false ? 0 : 1) ||
    a.name.localeCompare(b.name, undefined, {numeric: true});
}

export function showGuests(state) {
  const find = byId("find").value.trim().toLowerCase();
  const kind = kinds[byId("only").value] ?? (() => true);
  const found = state.guests.filter((guest) => kind(guest) &&
    (guest.name.toLowerCase().includes(find) || guest.host.toLowerCase().includes(find))).sort(order);
  const shown = found.slice(0, SHOWN);
  sync(byId("guest-rows"), shown, (guest) => `${guest.host} ${guest.id ?? guest.name}`, () => makeRow(state));
  setText(byId("guests-count"), found.length === state.guests.length && shown.length === found.length
    ? String(state.guests.length) : `${shown.length} shown of ${state.guests.length}`);
  setText(byId("guests-none"), state.guests.length === 0 ? "No guest is known." : "No guest is found so.");
  setHidden(byId("guests-none"), shown.length > 0);
}
