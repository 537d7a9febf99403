// What happened to a pod: the answer, what to do, and each step of its calls on a time line.

import { clock, duration, el, table } from "./dom.js";

/** Return the elements that show a `why`. */
export function showWhy(why) {
  const shown = [el("p", { class: "answer" }, why.answer)];
  if (why.failure) {
    const { error, details, count, first, last } = why.failure;
    shown.push(el("p", { class: "bad" }, error), details ? el("pre", {}, details) : "");
    if (count > 1) shown.push(el("p", {}, `${count} times, from ${clock(first)} to ${clock(last)}`));
  }
  if (why.advice.length) shown.push(el("h3", {}, "What to do"), el("ul", {}, why.advice.map((each) => el("li", {}, each))));
  if (why.networks.length) {
    const rows = why.networks.map((each) => [each.network, each.interface || "–", each.state]);
    shown.push(el("h3", {}, "Requested networks"), table(["Network", "Interface", "State"], rows));
  }
  if (why.devices.length) {
    const rows = why.devices.map((each) => [each.resource, each.devices.join(" ")]);
    shown.push(el("h3", {}, "Devices that the kubelet allocated"), table(["Resource", "Devices"], rows));
  }
  shown.push(...why.faults.map((fault) => el("p", {}, `not known: ${fault}`)));
  const calls = [...why.calls].reverse();
  return [...shown, ...calls.map((call, number) => drawCall(call, number === 0))];
}

function drawCall(call, open) {
  const outcome = call.code ? `failed with code ${call.code}` : "succeeded";
  const head = `${clock(call.at)}  ${call.verb} ${call.ifname}: ${outcome} after ${duration(call.seconds)}`;
  const steps = (call.steps ?? []).map((step) => drawStep(step, call));
  const made = el("details", { class: call.code ? "call bad" : "call" }, el("summary", {}, head), el("ol", { class: "steps" }, steps));
  made.open = open;
  return made;
}

function drawStep(step, call) {
  const whole = Math.max(call.seconds, 1e-6);
  const about = Object.entries(step.about ?? {}).map(([name, value]) => ` ${name}=${value}`);
  const bar = el("span", { class: step.error ? "bar bad" : "bar" });
  const part = (seconds) => `${Math.min(100, Math.max(0, (seconds / whole) * 100)).toFixed(2)}%`;
  bar.style.setProperty("margin-inline-start", part(step.began));
  bar.style.setProperty("inline-size", part(step.seconds));
  const name = el("span", { class: "step" }, `${step.name}${about.join("")}`);
  name.style.setProperty("padding-inline-start", `${depth(step, call.steps)}em`);
  const time = el("span", { class: "time" }, step.seconds < 0 ? "did not end" : duration(step.seconds));
  return el("li", {}, name, el("span", { class: "lane" }, bar), time, step.error ? el("span", { class: "bad" }, step.error) : null);
}

function depth(step, steps) {
  let found = 0;
  while ((step.parent ?? -1) >= 0) {
    step = steps[step.parent];
    found += 1;
  }
  return found;
}
