// What is asked before something is done.  Each says what will happen, and shows in place why it did not.

import {api, dropToken, setToken} from "/web/api.js";
import {byId, button, el, setText} from "/web/dom.js";
import * as format from "/web/format.js";

let done = () => {};
let asking = false; // for a token

// *refresh*: called after something was done.
export function onDone(refresh) { done = refresh; }

export function say(text) { setText(byId("said"), text); }

// Shows a dialog until it is closed.  *run*() does it and gives the sentence that is said then.  *also*: {label, run} of
// a second button, for which nothing has to be filled in.
export function ask({title, body, label, danger = false, run, also = null}) {
  const problem = el("p", {class: "problem", role: "alert", hidden: true});
  const go = el("button", {type: "submit", text: label, class: danger ? "danger" : "primary"});
  const other = also && button(also.label, () => attempt(also.run), {class: "danger"});
  const form = el("form", {method: "dialog"},
    el("h2", {id: "dialog-title", text: title}), el("div", {class: "dialog-body"}, body), problem,
    el("div", {class: "dialog-buttons"}, button("Leave it", () => dialog.close()), other, go));
  const dialog = el("dialog", {"aria-labelledby": "dialog-title"}, form);
  const allow = (allowed) => { for (const one of [go, other]) if (one) one.disabled = !allowed; };
  const attempt = async (act) => {
    allow(false);
    problem.hidden = true;
    try {
      say(await act());
      dialog.close();
      done();
    } catch (error) {
      setText(problem, error.message);
      problem.hidden = false;
      allow(true);
      if (error.status === 401 && !asking) askToken();
    }
  };
  form.addEventListener("submit", (event) => { event.preventDefault(); attempt(run); });
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  return {dialog, go};
}

export const p = (text, kind) => el("p", {text, class: kind});

export function askFreezeAll() {
  ask({
    title: "Freeze the engine?", label: "Freeze", danger: true,
    body: [p("The engine begins no move by itself any more, and takes no further step of a drain, until it is thawed."),
      p("Moves under way go on. Moves that a user orders still work. It goes on watching and planning.")],
    run: async () => { await api.freeze(null); return "The engine is frozen."; },
  });
}

export function askThawAll(plan) {
  const count = plan?.moves?.length ?? 0;
  ask({
    title: "Thaw the engine?", label: "Thaw",
    body: [p("The engine moves guests by itself again."),
      count > 0 && p(`Its plan has ${format.plural(count, "move")} now: it begins at once.`)],
    run: async () => { await api.thaw(null); return "The engine is thawed."; },
  });
}

export function askFreeze(guest) {
  ask({
    title: `Freeze ${guest.name}?`, label: "Freeze",
    body: [p(`The engine leaves ${guest.name} on ${guest.host}, whatever happens there; a drain of ${guest.host} cannot empty it then.`),
      p("A move of it that is under way goes on.")],
    run: async () => { await api.freeze(guest.name); return `${guest.name} is frozen.`; },
  });
}

export function askThaw(guest) {
  ask({
    title: `Thaw ${guest.name}?`, label: "Thaw",
    body: [p(`The engine may move ${guest.name} again where that helps.`),
      guest.frozen_why && p(`It is frozen now: ${guest.frozen_why}.`)],
    run: async () => { await api.thaw(guest.name); return `${guest.name} is thawed.`; },
  });
}

export function askMove(guest, hosts) {
  // The one with the most idle CPUs first; those that take nobody last.
  const takes = (host) => host.usable && !host.drained;
  const idle = (host) => takes(host) ? host.cpus - host.cpu_used : -Infinity;
  const places = hosts.filter((host) => host.name !== guest.host).sort((a, b) => idle(b) - idle(a) || 0);
  const select = el("select", {id: "move-to", required: true}, places.map((host) => {
    const why = !host.usable ? "not usable" : host.drained ? "drained"
      : `CPU ${format.percent(format.share(host.cpu_used, host.cpus))}, ${format.bytes(host.memory_available_bytes)} free`;
    return el("option", {value: host.name, text: `${host.name} (${why})`, disabled: !takes(host)});
  }));
  const none = !places.some(takes);
  const {go} = ask({
    title: `Move ${guest.name}?`, label: "Move",
    body: [el("p", {}, el("label", {for: "move-to", text: `From ${guest.host} to `}), select),
      p(`Its memory (${format.bytes(guest.memory_bytes)}) is copied while it runs; then it stands still for a moment and goes on at the other host.`),
      p("The engine refuses what cannot work: memory, rules, a drained host. Where it fails the guest stays where it is.")],
    run: async () => {
      await api.move(guest.name, select.value);
      return `${guest.name} moves to ${select.value}.`;
    },
  });
  if (none) go.disabled = true;
}

export function askCancel(move) {
  ask({
    title: `Call off the move of ${move.guest}?`, label: "Call it off", danger: true,
    body: [p(`${move.guest} stays on ${move.from} and runs on there; what was copied to ${move.to} is dropped.`),
      p("A move in its last step, that has handed the guest over, ends at the destination all the same."),
      move.ordered_by !== "user" && p("Where its reason stays, the engine may plan another move.")],
    run: async () => { await api.cancel(move.id); return `The move of ${move.guest} is called off.`; },
  });
}

function stays(answer) {
  if (answer.cannot_leave.length === 0) return p("Every guest there can leave.", "good");
  return el("div", {class: "warn"},
    p(`${format.plural(answer.cannot_leave.length, "guest")} cannot leave, and the host does not get empty:`),
    el("ul", {class: "stays"}, answer.cannot_leave.map((one) =>
      el("li", {}, el("b", {text: one.guest}), ` ${one.why}`))));
}

function leaves(answer) {
  if (answer.moves.length === 0) return p("No guest would be moved.");
  return el("div", {}, p(`${format.plural(answer.moves.length, "guest")} would leave, in this order:`),
    el("ol", {class: "leaves"}, answer.moves.slice(0, 100).map((one) =>
      el("li", {}, el("b", {text: one.guest}), ` to ${one.to}`,
        one.cost?.ms !== null && one.cost?.ms !== undefined && ` (about ${format.duration(one.cost.ms)})`))),
    answer.moves.length > 100 && p(`and ${answer.moves.length - 100} more`));
}

export async function askDrain(host, frozen) {
  let answer;
  try {
    answer = await api.drain(host.name, true);
  } catch (error) {
    say(`${host.name} cannot be drained: ${error.message}`);
    return;
  }
  ask({
    title: `Drain ${host.name}?`, label: `Drain ${host.name}`, danger: true,
    body: [stays(answer), leaves(answer),
      answer.problem && p(`Of ${host.name} nothing is known now: ${answer.problem}.`, "warn"),
      frozen && p("The engine is frozen: nothing leaves until it is thawed.", "warn"),
      p(`${host.name} stays empty, and nothing is moved there, until it takes guests again.`)],
    run: async () => { await api.drain(host.name, false); return `${host.name} is drained.`; },
  });
}

export function askUndrain(host) {
  ask({
    title: `Let ${host.name} take guests again?`, label: "Take guests",
    body: [p(`The engine may move guests to ${host.name} where that helps. Nothing is brought back by itself.`),
      p("Moves of the drain that are under way go on.")],
    run: async () => { await api.undrain(host.name); return `${host.name} takes guests again.`; },
  });
}

export function askToken() {
  if (asking) return;
  asking = true;
  const input = el("input", {id: "token", type: "password", autocomplete: "off", required: true});
  const {dialog} = ask({
    title: "Who are you?", label: "Go on",
    body: [p("The engine wants a certificate of the cluster's CA, or its token. The token is kept for this tab only."),
      el("p", {}, el("label", {for: "token", text: "Token "}), input)],
    run: async () => {
      setToken(input.value.trim());
      try {
        await api.cluster();
      } catch (error) {
        dropToken(); // else every look would be refused, also one that needs none
        throw error;
      }
      return "The engine has taken the token.";
    },
  });
  dialog.addEventListener("close", () => { asking = false; });
}
