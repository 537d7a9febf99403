// Elements and texts. Whatever comes from the node becomes text nodes: no name in it can be markup.

/** Create an element: attributes by name, `on` functions by event, children that are elements or texts. */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  set(made, attributes);
  made.append(...children.flat().filter((child) => child !== null && child !== undefined).map(node));
  return made;
}

/** Create an element of a drawing. */
export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  set(made, attributes);
  made.append(...children);
  return made;
}

function set(made, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") made.addEventListener("click", value);
    else if (name === "class") made.setAttribute("class", value);
    else if (value !== null && value !== undefined) made.setAttribute(name, String(value));
  }
}

function node(child) {
  return child instanceof Node ? child : document.createTextNode(String(child));
}

/** Replace what a section shows. The element that had the focus has it again, if it is still there. */
export function show(section, ...children) {
  const box = section.querySelector(":scope > div, :scope > ul");
  const focused = box.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  box.replaceChildren(...children.map(node));
  section.hidden = children.length === 0;
  if (focused !== undefined) {
    const again = [...box.querySelectorAll("[data-key]")].find((each) => each.dataset.key === focused);
    if (again) again.focus();
  }
}

/** A table: the names of its columns, and rows of cells (texts or elements). */
export function table(columns, rows) {
  const head = el("tr", {}, columns.map((name) => el("th", { scope: "col" }, name)));
  const body = rows.map((cells) =>
    el("tr", {}, cells.map((cell, number) => el("td", { "data-label": columns[number] }, cell))),
  );
  return el("table", {}, el("thead", {}, head), el("tbody", {}, body));
}

/** A button that shows what happened to a pod; the bare name of a container that has no pod. */
export function podButton(pod, container, key, ask) {
  if (!pod) return el("span", {}, container ? `container ${container.slice(0, 12)}` : "");
  return el("button", { class: "pod", type: "button", "data-key": `${key} ${pod}`, onclick: () => ask(pod) }, pod);
}

/** A rate per second: 12.3 M, with the unit after it. */
export function rate(value, unit) {
  if (value === null || value === undefined) return "–";
  const steps = ["", "k", "M", "G", "T"];
  let step = 0;
  while (value >= 999.95 && step < steps.length - 1) {
    value /= 1000;
    step += 1;
  }
  const digits = step === 0 || value >= 100 ? 0 : 1;
  return `${value.toFixed(digits)} ${steps[step]}${unit}`;
}

export function duration(seconds) {
  if (seconds < 1) return `${(seconds * 1000).toFixed(1)} ms`;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const parts = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = parts.findIndex(([, size]) => seconds >= size);
  const [[big, bigSize], [small, smallSize]] = [parts[first], parts[first + 1] ?? ["", 1]];
  return `${Math.floor(seconds / bigSize)} ${big} ${Math.floor((seconds % bigSize) / smallSize)} ${small}`;
}

/** A time in seconds since 1970, in UTC as the commands and the agent's log show it. */
export function clock(at) {
  return `${new Date(at * 1000).toISOString().slice(0, 19)}Z`;
}
