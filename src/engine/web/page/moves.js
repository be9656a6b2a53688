// Moves under way, moves that have ended, and the plan.

import {engineNow} from "/web/api.js";
import {askCancel} from "/web/dialogs.js";
import {button, byId, el, setAttribute, setHidden, setTags, setText, sync} from "/web/dom.js";
import * as format from "/web/format.js";

const PAST_SHOWN = 30;
const OPEN = new Set(["intended", "under-way"]);
const PHASES = {
  connect: "connecting", disks: "copying disks", precopy: "copying memory", memory: "first epoch",
  store: "filling the store", stopped: "stopped for the last round", switchover: "switching over",
  postcopy: "runs there, memory follows", done: "done",
};
const BY = {engine: "by the engine", drain: "for a drain", user: "by a user", "somebody else": "by somebody else"};

const by = (move) => BY[move.ordered_by] ?? move.ordered_by;
const triggerOf = (move) => move.explanation?.trigger?.text ?? "";
const explain = (move) => move.explanation?.text ?? "";

// All that was weighed, folded up: {node, update(move)}.
function explanation() {
  const text = el("p", {class: "what"});
  const node = el("details", {}, el("summary", {text: "Why"}), text);
  return {
    node,
    update(move) {
      setText(text, explain(move));
      setHidden(node, !explain(move));
    },
  };
}

// ---- under way ----

function shareOf(progress) {
  const disks = progress?.phase === "disks";
  return format.share(progress?.[disks ? "disk_bytes_done" : "round_bytes_done"],
    progress?.[disks ? "disk_bytes" : "round_bytes"]);
}

function describe(move) {
  const progress = move.progress;
  if (!progress) return move.state === "intended" ? "about to begin" : "under way";
  const words = [PHASES[progress.phase] ?? String(progress.phase)];
  if (progress.phase === "precopy" && typeof progress.round === "number") words.push(`round ${progress.round + 1}`);
  if (progress.bytes_per_second > 0) words.push(format.rate(progress.bytes_per_second));
  if (progress.run_share < 1) words.push(`guest slowed to ${format.percent(progress.run_share)}`);
  return words.join(", ");
}

// What is left by the forecast that the move began with.
function left(move) {
  const began = move.ordered_at ?? move.made_at;
  const forecast = move.forecast?.ms;
  if (typeof began !== "number") return "";
  const taken = Math.max(0, (engineNow() - began) * 1000);
  const so = `for ${format.seconds(taken)}`;
  if (typeof forecast !== "number") return so;
  if (taken > forecast) return `${so}, ${format.seconds(forecast)} were expected`;
  return `${so}, about ${format.seconds(forecast - taken)} left`;
}

function makeOpen(state) {
  let move;
  const name = el("b"), way = el("span"), tags = el("span", {class: "tags"});
  const bar = el("progress", {max: 1}), text = el("p", {class: "figure"}), reason = el("p", {class: "what"});
  const why = explanation();
  const cancel = button("Cancel…", () => askCancel(move));
  return {
    node: el("li", {class: "card move"}, el("div", {class: "name"}, name, way, tags, cancel), bar, text, reason, why.node),
    update(item) {
      move = item;
      const share = shareOf(move.progress);
      setText(name, move.guest);
      setText(way, `${move.from ?? "?"} → ${move.to ?? "?"}`);
      setTags(tags, [[by(move), ""]]);
      if (share === null) bar.removeAttribute("value");
      else bar.value = share;
      setAttribute(bar, "aria-label", `Move of ${move.guest}: ${move.progress?.phase ?? move.state}`);
      setText(text, [share === null ? "" : format.percent(share), describe(move), left(move)].filter(Boolean).join(" · "));
      setText(reason, [triggerOf(move), move.problem].filter(Boolean).join(" · "));
      setHidden(reason, !reason.textContent);
      why.update(move);
      setAttribute(cancel, "aria-label", `Cancel the move of ${move.guest}`);
      cancel.disabled = !state.reached;
      setHidden(cancel, move.ordered_by === "somebody else");
    },
  };
}

// ---- ended ----

function outcomeOf(move) {
  const words = [];
  if (typeof move.outcome?.total_ms === "number") words.push(`took ${format.duration(move.outcome.total_ms)}`);
  if (typeof move.forecast?.ms === "number") words.push(`${format.duration(move.forecast.ms)} expected`);
  if (typeof move.outcome?.downtime_ms === "number") words.push(`pause ${format.duration(move.outcome.downtime_ms)}`);
  if (move.hit !== null && move.hit !== undefined) words.push(move.hit ? "it helped as expected" : "it did not help as expected");
  return words.join(", ");
}

function makeDone() {
  const name = el("b"), way = el("span"), tags = el("span", {class: "tags"}), when = el("span", {class: "sub"});
  const text = el("p", {class: "what"}), why = explanation();
  return {
    node: el("li", {}, el("div", {class: "name"}, name, way, tags, when), text, why.node),
    update(move) {
      setText(name, move.guest);
      setText(way, `${move.from ?? "?"} → ${move.to ?? "?"}`);
      setTags(tags, [[move.state, move.state === "completed" ? "good" : "bad"], [by(move), ""]]);
      setText(when, format.clock(move.ended_at ?? move.made_at));
      setText(text, [outcomeOf(move), move.problem].filter(Boolean).join(" · "));
      why.update(move);
    },
  };
}

export function showMoves(state) {
  const open = state.moves.filter((move) => OPEN.has(move.state));
  const past = state.moves.filter((move) => !OPEN.has(move.state));
  sync(byId("moves-open"), open, (move) => move.id, () => makeOpen(state));
  setText(byId("moves-none"), "No guest moves.");
  setHidden(byId("moves-none"), open.length > 0);
  sync(byId("moves-done"), past.slice(0, PAST_SHOWN), (move) => move.id, makeDone);
  setHidden(byId("moves-done-none"), past.length > 0);
}

// ---- the plan ----

function costOf(cost) {
  const words = [];
  if (typeof cost?.ms === "number") words.push(format.duration(cost.ms));
  if (typeof cost?.bytes === "number") words.push(format.sent(cost.bytes));
  if (typeof cost?.pause_ms === "number") words.push(`a pause of ${format.duration(cost.pause_ms)}`);
  return words.length === 0 ? "not known" : `${words.join(", ")}${cost.guessed ? " (guessed)" : ""}`;
}

const LOADS = [["cpu", "CPU"], ["memory", "Memory"], ["link", "Link"]];

function loadTable() {
  const cells = LOADS.map(() => [el("td"), el("td")]);
  const names = [el("th", {scope: "col"}), el("th", {scope: "col"})];
  const table = el("table", {class: "loads"},
    el("caption", {class: "unseen", text: "Both hosts, before and after the move"}),
    el("thead", {}, el("tr", {}, el("td"), names)),
    el("tbody", {}, LOADS.map(([, label], i) => el("tr", {}, el("th", {scope: "row", text: label}), cells[i]))));
  return {
    node: table,
    update(move) {
      setText(names[0], move.from);
      setText(names[1], move.to);
      LOADS.forEach(([key], i) => ["source", "destination"].forEach((side, j) => setText(cells[i][j],
        `${format.percent(move[`${side}_before`]?.[key])} → ${format.percent(move[`${side}_after`]?.[key])}`)));
    },
  };
}

function runnerUp() {
  const node = el("li");
  return {node, update: (other) => setText(node, `${other.guest} to ${other.to}: ${other.why}`)};
}

function makePlanned() {
  const name = el("b"), way = el("span"), tags = el("span", {class: "tags"}), text = el("p", {class: "what"});
  const trigger = el("dd"), gain = el("dd"), cost = el("dd"), rules = el("dd"), loads = loadTable();
  const others = el("ul", {class: "lines"}), more = el("details", {}, el("summary", {text: "What else was weighed"}), others);
  const node = el("li", {class: "card"}, el("div", {class: "name"}, name, way, tags),
    el("div", {class: "reasoning"},
      el("dl", {}, el("dt", {text: "Why"}), trigger, el("dt", {text: "Gain"}), gain, el("dt", {text: "Costs"}), cost,
        el("dt", {text: "Rules"}), rules), loads.node),
    el("details", {}, el("summary", {text: "In full"}), text), more);
  return {
    node,
    update(move) {
      setText(name, move.guest);
      setText(way, `${move.from} → ${move.to}`);
      setTags(tags, [move.swap && ["swap", "note"], typeof move.after === "number" && [`after step ${move.after + 1}`, "note"]].filter(Boolean));
      setText(trigger, move.trigger?.text ?? format.UNKNOWN);
      setText(gain, `${format.number(move.gain, 2)}, against a burden of ${format.number(move.burden, 2)}`);
      setText(cost, costOf(move.cost));
      setText(rules, move.rules?.length ? move.rules.join(", ") : "none bears on it");
      loads.update(move);
      setText(text, move.text ?? "");
      sync(others, move.runners_up ?? [], (other) => `${other.guest} ${other.to}`, runnerUp);
      setHidden(more, !move.runners_up?.length);
    },
  };
}

function age(plan) {
  if (typeof plan?.made_at !== "number") return "";
  const left = (plan.expires_at - engineNow()) * 1000;
  return left > 0 ? `made ${format.clock(plan.made_at)}` : `made ${format.clock(plan.made_at)}, expired`;
}

export function showPlan(state) {
  const moves = state.plan?.moves ?? [];
  sync(byId("plan-moves"), moves, (move) => `${move.guest} ${move.from} ${move.to}`, makePlanned);
  setText(byId("plan-when"), age(state.plan));
  setText(byId("plan-none"), state.plan?.nothing ? `No move: ${state.plan.nothing}.` : "No move is planned.");
  setHidden(byId("plan-none"), moves.length > 0);
}
