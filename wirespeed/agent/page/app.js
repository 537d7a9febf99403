// The node's page: asks the agent for its views while it is visible, and shows them; what is old is shown as old.

import { get, Refusal, setToken } from "./api.js";
import { clock, duration, el, podButton, rate, show, table } from "./dom.js";
import { drawLines, drawTopology } from "./drawing.js";
import { showWhy } from "./why.js";

// Seconds between two questions for a view, and what shows it. Views that the agent does not have are not asked for.
const VIEWS = {
  status: [5, showStatus],
  topology: [10, showTopology],
  rates: [1, showRates],
  doctor: [60, showFindings],
};
const KEPT = 60; // samples of each port's rates
const SEVERITIES = ["error", "warning", "unknown", "info", "ok"];

const $ = (id) => document.getElementById(id);
const shown = {}; // the text of each view as it is shown, without what always changes
const answered = {}; // when each view was answered last, in milliseconds
const failed = {}; // the error of each view that was not answered since
const history = new Map(); // the last rates of each port
let timers = [];

// Asking

async function begin() {
  stop();
  try {
    const index = await get("");
    $("login").hidden = true;
    $("main").hidden = false;
    $("node").textContent = index.node;
    document.title = `${index.node}: wirespeed`;
    for (const view of index.views.filter((name) => name in VIEWS)) poll(view);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    refuse(error);
    if (error.status === 0 || error.status >= 500) timers.push(setTimeout(begin, 2000));
  }
}

function stop() {
  timers.forEach(clearTimeout);
  timers = [];
}

async function poll(view) {
  const [seconds, showView] = VIEWS[view];
  const generation = timers;
  if (!document.hidden) {
    try {
      const value = await get(view);
      if (generation !== timers) return;
      answered[view] = Date.now();
      delete failed[view];
      showView(value);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      if (generation !== timers) return;
      failed[view] = error;
      if (error.status === 401) {
        stop();
        refuse(error);
        return;
      }
    }
    showState();
  }
  generation.push(setTimeout(poll, seconds * 1000, view));
}

/** Show that the API does not answer this caller: ask for a token, or say why not. */
function refuse(error) {
  const unknown = error.status === 401;
  $("login").hidden = !(unknown || error.status === 403);
  $("refusal").textContent = sessionStorage.length || !unknown ? error.message : "";
  $("state").textContent = unknown ? "a token is needed" : error.message;
  $("state").className = "stale";
  if (unknown) $("main").hidden = true;
  if (!$("login").hidden) $("token").focus();
}

/** Say whether what is shown is what is now. */
function showState() {
  const [view] = Object.keys(failed).sort((one, other) => (answered[one] ?? 0) - (answered[other] ?? 0));
  const state = $("state");
  document.body.classList.toggle("stale", view !== undefined);
  state.className = view === undefined ? "live" : "stale";
  if (view === undefined) {
    state.textContent = "live";
  } else {
    const since = answered[view] ? `; shown is what was at ${clock(answered[view] / 1000)}` : "";
    state.textContent = `${view}: ${failed[view].message}${since}`;
  }
}

/** Whether a part of a view has changed since it was shown. */
function changed(name, value) {
  const text = JSON.stringify(value);
  const differs = shown[name] !== text;
  shown[name] = text;
  return differs;
}

// Showing

function showStatus(status) {
  const agent = status.agent;
  $("agent").textContent = agent ? `agent ${agent.version}, running for ${duration(agent.seconds)}` : "no agent";
  showProblems(status);
  showRunning(agent?.calls ?? []);
  if (changed("attachments", status.attachments)) showAttachments(status.attachments);
  if (changed("pools", status.pools)) showPools(status.pools);
  if (changed("errors", status.errors)) showErrors(status.errors);
}

function showProblems(status) {
  const problems = [
    ...status.faults.map((fault) => el("li", {}, fault)),
    ...status.attachments.filter((each) => each.problem).map((each) =>
      el("li", {}, podButton(each.pod, each.container, "problem", ask), ` ${each.interface}: ${each.problem}`),
    ),
  ];
  if (changed("problems", problems.map((each) => each.textContent))) show($("problems"), ...problems);
}

function showRunning(calls) {
  const rows = calls.map((call) => [
    call.verb,
    podButton(call.pod, call.container, "running", ask),
    duration(call.seconds),
    call.step || "waits for other calls",
  ]);
  show($("running"), ...(rows.length ? [table(["Call", "Pod", "Since", "Step"], rows)] : []));
}

function showAttachments(attachments) {
  const rows = attachments.map((each) => [
    podButton(each.pod, each.container, `attachment ${each.interface}`, ask),
    each.interface,
    each.network,
    each.device || "–",
    el("span", { class: each.problem ? "bad" : "good" }, each.problem ? "problem" : each.step),
    each.ips.join(" ") || "–",
  ]);
  const columns = ["Pod", "Interface", "Network", "Device", "State", "Addresses"];
  show($("attachments"), rows.length ? table(columns, rows) : el("p", {}, "no attachments"));
}

function showPools(pools) {
  const rows = pools.map((pool) => {
    const unhealthy = pool.unhealthy.map((fault) => el("div", {}, `${fault.device}: ${fault.reason}`));
    const meter = el("meter", { min: 0, max: Math.max(1, pool.devices), value: pool.allocated ?? 0 });
    meter.setAttribute("aria-label", `${pool.allocated ?? "?"} of ${pool.devices} allocated`);
    return [pool.resource, pool.devices, el("span", {}, pool.allocated ?? "?", " ", meter), pool.free ?? "?", [unhealthy]];
  });
  show($("pools"), ...(rows.length ? [table(["Pool", "Devices", "Allocated", "Free", "Unhealthy"], rows)] : []));
}

function showErrors(errors) {
  const rows = errors.map((each) => [
    clock(each.at),
    each.verb,
    podButton(each.pod, each.container, `error ${each.trace}`, ask),
    each.error + (each.count > 1 ? ` (${each.count} times)` : ""),
  ]);
  show($("errors"), ...(rows.length ? [table(["Last at", "Call", "Pod", "Error"], rows)] : []));
}

function showTopology(topology) {
  if (!changed("topology", topology)) return;
  const faults = topology.faults.map((fault) => el("p", { class: "bad" }, fault));
  show($("topology"), ...faults, ...drawTopology(topology, ask));
  document.querySelectorAll(".live").forEach(fill);
}

function showRates(interval) {
  const names = new Set();
  for (const port of interval.ports) {
    const name = `${port.kind} ${port.name}`;
    names.add(name);
    const series = history.get(name) ?? { rx: [], tx: [] };
    series.port = port;
    series.rx = [...series.rx, port.rates.rxBits ?? 0].slice(-KEPT);
    series.tx = [...series.tx, port.rates.txBits ?? 0].slice(-KEPT);
    history.set(name, series);
  }
  for (const name of history.keys()) if (!names.has(name)) history.delete(name);
  if (changed("ports", [interval.faults, [...history.values()].map(({ port }) => [port.name, port.pod])])) {
    const rows = [...history.values()].map(({ port }) => [
      port.name,
      port.pod ? podButton(port.pod.pod && `${port.pod.namespace}/${port.pod.pod}`, port.pod.container, `rate ${port.name}`, ask) : "–",
      ...["rx", "tx", "drops", "lines"].map((what) => el("span", { "data-rate": what, "data-name": `${port.kind} ${port.name}` })),
    ]);
    const columns = ["Port", "Pod", "Received", "Sent", "Drops, errors", "Last minute"];
    show($("ports"), ...interval.faults.map((fault) => el("p", { class: "bad" }, fault)), ...(rows.length ? [table(columns, rows)] : []));
  }
  for (const cell of document.querySelectorAll("[data-rate]")) {
    const series = history.get(cell.dataset.name);
    cell.replaceChildren(series ? cellOf(cell.dataset.rate, series) : "–");
  }
  document.querySelectorAll(".live").forEach(fill);
}

function cellOf(what, { port, rx, tx }) {
  const rates = port.rates;
  if (what === "lines") return drawLines(rx, tx);
  if (what === "drops") {
    const counted = [rates.rxDrops, rates.txDrops, rates.rxErrors, rates.txErrors].filter((each) => each != null);
    return counted.length ? rate(counted.reduce((sum, each) => sum + each, 0), "/s") : "–";
  }
  return `${rate(rates[`${what}Bits`], "bit/s")}, ${rate(rates[`${what}Packets`], "pkt/s")}`;
}

/** Write the rates of a function into its box of the topology. */
function fill(line) {
  const series = history.get(`${line.dataset.kind} ${line.dataset.port}`);
  const rates = series?.port.rates;
  const known = rates && rates.rxBits != null && rates.txBits != null;
  line.textContent = known ? `↓ ${rate(rates.rxBits, "bit/s")} ↑ ${rate(rates.txBits, "bit/s")}` : "";
}

function showFindings(value) {
  const findings = Array.isArray(value) ? value : value.findings;
  if (!changed("findings", findings)) return;
  const order = (each) => SEVERITIES.indexOf(each.severity);
  const sorted = [...findings].sort((one, other) => order(one) - order(other));
  const bad = sorted.filter((each) => each.severity !== "ok");
  const good = sorted.filter((each) => each.severity === "ok");
  const rest = good.length ? [el("details", {}, el("summary", {}, `${good.length} checks found nothing wrong`), good.map(finding))] : [];
  show($("findings"), ...bad.map(finding), ...rest);
}

function finding(each) {
  const line = (name, text) => (text ? [el("dt", {}, name), el("dd", {}, text)] : []);
  const what = [each.thing, each.found].filter(Boolean).join(": ");
  return el(
    "details",
    { class: `finding ${SEVERITIES.includes(each.severity) ? each.severity : ""}` },
    el("summary", { "data-key": `finding ${each.id} ${each.thing}` }, el("span", { class: "kind" }, each.severity), ` ${each.subject}: ${what}`),
    el("dl", {}, line("Expected", each.expected), line("Why", each.why), line("Fix", each.fix), line("Source", each.source), line("Check", each.id)),
  );
}

// Pods

async function ask(pod) {
  const dialog = $("why");
  const body = dialog.querySelector(":scope > div");
  $("why-title").textContent = pod;
  body.replaceChildren(el("p", {}, "asking the agent"));
  if (!dialog.open) dialog.showModal();
  try {
    body.replaceChildren(...showWhy(await get("why", { pod })));
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    body.replaceChildren(el("p", { class: "bad" }, error.message));
  }
}

$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  setToken($("token").value.trim());
  $("token").value = "";
  begin();
});
$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const pod = $("pod").value.trim();
  ask(pod.includes("/") ? pod : `default/${pod}`);
});
document.addEventListener("visibilitychange", () => document.hidden || begin());
begin();
