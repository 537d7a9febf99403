// The drawing of the topology: PFs and switches as boxes, their functions and ports as boxes inside.

import { el, podButton, svg } from "./dom.js";

/** Draw a topology. `ask` is called with a pod that is clicked. */
export function drawTopology(topology, ask) {
  return [...topology.pfs.map((pf) => drawPf(pf, ask)), ...topology.switches.map((each) => drawSwitch(each, ask))];
}

function drawPf(pf, ask) {
  const lit = pf.carrier ? "up" : "down";
  const facts = [
    pf.address,
    pf.model,
    pf.driver,
    pf.numaNode >= 0 ? `NUMA ${pf.numaNode}` : "",
    pf.speed ? `${pf.speed / 1000} Gbit/s` : pf.carrier ? "" : "no link",
    pf.mtu ? `MTU ${pf.mtu}` : "",
    pf.eswitch === "switchdev" ? "switchdev" : "",
    pf.totalVfs ? `${pf.functions.filter((each) => each.kind === "VF").length} of ${pf.totalVfs} VFs` : "",
  ];
  return el("article", { class: `box ${lit}` }, title("PF", pf.name || pf.address, facts), tiles(pf.functions.map(
    (each) => drawFunction(pf, each, ask),
  )));
}

function drawFunction(pf, each, ask) {
  const pod = each.pod;
  const settings = each.settings ?? {};
  const facts = [
    each.address,
    each.driver || "no driver",
    each.interface ? `${each.interface.name}${each.interface.inPod ? " in the pod" : ""}` : "",
    each.interface?.mac || settings.mac || "",
    settings.vlan ? `VLAN ${settings.vlan}` : "",
    each.rdma?.length ? `RDMA ${each.rdma.join(" ")}` : "",
    each.vdpa ? `vDPA ${each.vdpa}` : "",
    each.representor ? `${each.representor}${each.bridge ? ` on ${each.bridge}` : ""}` : "",
    each.pool ? `pool ${each.pool}` : "in no pool",
  ];
  const owner = each.user ? [each.user] : [];
  const key = `${each.kind === "VF" ? `${pf.name || pf.address}#${each.index}` : each.address}`;
  return tile(`${each.kind} ${each.index}`, facts, pod, owner, { kind: each.kind, name: key }, ask);
}

function drawSwitch(each, ask) {
  const facts = [each.datapath, ...each.others.map((name) => `port ${name}`)];
  const ports = each.ports.map((port) => {
    const facts = [
      port.kind,
      port.role,
      port.state,
      port.vlan === null || port.vlan === undefined ? "" : `VLAN ${port.vlan}`,
      port.trunk?.length ? `trunk ${port.trunk.join(" ")}` : "",
      port.mtu ? `MTU ${port.mtu}` : "",
      port.socket,
    ];
    return tile(port.name, facts, port.pod, [], { kind: "vhost-user", name: port.name }, ask);
  });
  return el("article", { class: "box" }, title(each.kind, each.bridge || "no bridge", facts), tiles(ports));
}

function title(kind, name, facts) {
  return el("header", {}, el("h3", {}, el("span", { class: "kind" }, kind), ` ${name}`), list(facts));
}

function tiles(each) {
  return el("ul", { class: "tiles" }, each);
}

function tile(name, facts, pod, others, port, ask) {
  const owner = pod ? [podButton(pod.pod && `${pod.namespace}/${pod.pod}`, pod.container, `tile ${port.name}`, ask)] : [];
  if (pod?.ifname) owner.push(` ${pod.ifname}`);
  const line = el("span", { class: "live", "data-kind": port.kind, "data-port": port.name });
  return el(
    "li",
    { class: pod ? "tile used" : others.length ? "tile other" : "tile" },
    el("strong", {}, name),
    el("span", { class: "owner" }, owner, others),
    line,
    list(facts),
  );
}

function list(facts) {
  return el("span", { class: "facts" }, facts.filter(Boolean).map((fact) => el("span", {}, fact)));
}

/** Draw the last values of two series, as lines from 0 to the greatest of both. */
export function drawLines(received, sent) {
  const most = Math.max(1, ...received, ...sent);
  const line = (values, name) => {
    const points = values.map((value, number) => `${(number * 120) / 59},${31 - (value / most) * 30}`);
    return svg("polyline", { points: points.join(" "), class: name, fill: "none" });
  };
  const picture = svg("svg", { viewBox: "0 0 120 32", class: "lines", "aria-hidden": "true" });
  picture.append(line(received, "rx"), line(sent, "tx"));
  return picture;
}
