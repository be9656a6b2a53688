// The engine's page: asks every two seconds, and shows what it hears.

import {api} from "/web/api.js";
import {loadCharts, redraw, showCharts} from "/web/charts.js";
import {askFreezeAll, askThawAll, askToken, onDone} from "/web/dialogs.js";
import {byId, el, setAttribute, setHidden, setText, sync} from "/web/dom.js";
import * as format from "/web/format.js";
import {showGuests} from "/web/guests.js";
import {showHosts, showTrouble} from "/web/hosts.js";
import {showMoves, showPlan} from "/web/moves.js";
import {askAddRule, showWishes} from "/web/wishes.js";

const EVERY_MS = 2000;
const HIDDEN_EVERY_MS = 15000;

const state = {cluster: null, hosts: [], guests: [], plan: null, moves: [], rules: [], slas: {}, reached: false, heardAt: null, problem: null};

// ---- asking ----

async function look() {
  try {
    const [cluster, hosts, guests, plan, moves, rules, slas] =
      await Promise.all([api.cluster(), api.hosts(), api.guests(), api.plan(), api.moves(), api.rules(), api.slas()]);
    Object.assign(state, {cluster, hosts: hosts.hosts, guests: guests.guests, plan, moves: moves.moves, rules: rules.rules,
      slas: slas.slas, reached: true, heardAt: Date.now(), problem: null});
  } catch (error) {
    state.reached = false;
    state.problem = error.message;
    if (error.status === 401) askToken();
  }
  show();
}

let timer = 0, looking = false, again = false;

// One look at a time; what is asked meanwhile is one more look.
async function run() {
  if (looking) { again = true; return; }
  clearTimeout(timer);
  looking = true;
  try {
    do { again = false; await look(); } while (again);
  } finally {
    looking = false;
    timer = setTimeout(run, document.hidden ? HIDDEN_EVERY_MS : EVERY_MS);
  }
}

// ---- showing ----

function facts(cluster) {
  const bad = (wrong) => wrong ? "bad" : "";
  const rate = cluster.hit_rate;
  const usable = cluster.usable ?? cluster.hosts;
  return [
    [cluster.leader ? "leads" : cluster.led_by ? `stands by: ${cluster.led_by} leads` : "stands by", cluster.leader ? "good" : "note"],
    cluster.automatic === false && ["moves nothing by itself", "note"],
    cluster.frozen && [`frozen: ${cluster.hold ?? "by a user"}`, "bad"],
    !cluster.frozen && !cluster.led_by && cluster.hold && [cluster.hold, "bad"],
    [usable === cluster.hosts ? format.plural(cluster.hosts, "host") : `${usable} of ${format.plural(cluster.hosts, "host")} usable`, bad(usable < cluster.hosts)],
    [format.plural(cluster.guests, "guest"), ""],
    [`${cluster.hot} hot`, bad(cluster.hot > 0)],
    [`${format.plural(cluster.moves, "move")} under way`, ""],
    rate?.of > 0 && [`${rate.hits} of ${rate.of} forecasts came true`, ""],
  ].filter(Boolean);
}

function showFacts() {
  if (!state.cluster) return;
  setText(byId("engine-name"), state.cluster.engine);
  document.title = `${state.cluster.hot > 0 ? `(${state.cluster.hot} hot) ` : ""}${state.cluster.engine} – vmferry`;
  sync(byId("facts"), facts(state.cluster), ([text]) => text, () => {
    const node = el("li", {class: "tag"});
    return {node, update([text, kind]) { setText(node, text); setAttribute(node, "class", `tag ${kind}`); }};
  });
  // Held by a user, or by what no user can change here.
  const frozen = state.cluster.frozen;
  setText(byId("freeze-all"), frozen ? "Thaw…" : "Freeze…");
  setAttribute(byId("freeze-all"), "aria-label", frozen ? "Thaw the engine" : "Freeze the engine");
  byId("freeze-all").disabled = !state.reached;
}

function showAge() {
  const age = state.heardAt === null ? null : Date.now() - state.heardAt;
  const old = !state.reached || age > 3 * EVERY_MS + HIDDEN_EVERY_MS;
  setText(byId("age"), age === null ? "" : old ? `as of ${format.clock(state.heardAt / 1000)}` : "live");
  byId("age").classList.toggle("old", old);
  document.body.classList.toggle("stale", old && age !== null);
}

function showBanner() {
  const banner = byId("banner");
  setHidden(banner, state.reached || state.problem === null);
  if (state.reached) return;
  setText(banner, state.heardAt === null ? `${state.problem ?? ""} It is asked again every ${EVERY_MS / 1000} s.`
    : `${state.problem} What is below is as of ${format.clock(state.heardAt / 1000)} and may be wrong now.`);
}

// The page asks its own engine; if that answers something else than was agreed, it says so instead of going blind.
function show() {
  try {
    showFacts();
    if (state.cluster) {
      showTrouble(state);
      showMoves(state);
      showPlan(state);
      showHosts(state);
      showGuests(state);
      showWishes(state);
    }
  } catch (error) {
    console.error(error);
    state.reached = false;
    state.problem = "The engine's answer is not what this page knows; is the page older than the engine? Reload it.";
  }
  showBanner();
  showAge();
  if (state.reached) showCharts(state);
}

byId("freeze-all").addEventListener("click", () => state.cluster?.frozen ? askThawAll(state.plan) : askFreezeAll());
byId("add-rule").addEventListener("click", () => askAddRule(state));
byId("find").addEventListener("input", () => showGuests(state));
byId("only").addEventListener("change", () => showGuests(state));
byId("minutes").addEventListener("change", () => redraw(state));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraw(state));
document.addEventListener("visibilitychange", () => { if (!document.hidden) run(); });
onDone(run);
setInterval(showAge, 1000);
run();
loadCharts().then(() => showCharts(state));
