// Small pieces for building the page: elements, keyed rows that do not flicker, sparklines.

/** An element. Properties starting with "on" are listeners; `class`, `data-*`, `aria-*` and others are attributes. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "disabled") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Sets an element's text, touching the page only where it differs. */
export function setText(element, text) {
  const wanted = String(text);
  if (element.textContent !== wanted) element.textContent = wanted;
}

/** Sets or removes an attribute, touching the page only where it differs. */
export function setAttribute(element, name, value) {
  if (value === null || value === false || value === undefined) {
    if (element.hasAttribute(name)) element.removeAttribute(name);
  } else if (element.getAttribute(name) !== String(value)) {
    element.setAttribute(name, value);
  }
}

const rowsOf = new WeakMap();

/**
 * Makes a parent's children match a list: rows stay the same elements while their key stays, so that focus,
 * selection and half-typed text survive each update.
 */
export function keyed(parent, items, keyOf, create, update) {
  const rows = rowsOf.get(parent) ?? new Map();
  rowsOf.set(parent, rows);
  const wanted = new Set();
  let place = parent.firstChild;
  for (const item of items) {
    const key = keyOf(item);
    wanted.add(key);
    let row = rows.get(key);
    if (!row) {
      row = create(item);
      rows.set(key, row);
    }
    if (row.element === place) place = place.nextSibling;
    else parent.insertBefore(row.element, place);
    update?.(row, item);
  }
  for (const [key, row] of rows) {
    if (!wanted.has(key)) {
      row.element.remove();
      rows.delete(key);
    }
  }
}

const SVG = "http://www.w3.org/2000/svg";

/** A sparkline of calls with failures below it; `draw(points)` updates it in place. */
export function sparkline(label, slots, width = 140, height = 30) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "spark");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", label);
  const area = document.createElementNS(SVG, "path");
  area.setAttribute("class", "spark-area");
  const line = document.createElementNS(SVG, "path");
  line.setAttribute("class", "spark-line");
  const failures = document.createElementNS(SVG, "path");
  failures.setAttribute("class", "spark-failures");
  svg.append(area, line, failures);
  const draw = (points) => {
    const top = Math.max(1e-9, ...points.map((point) => point.calls_per_second));
    const step = width / Math.max(1, slots - 1);
    const start = width - step * (points.length - 1);
    const x = (index) => (start + index * step).toFixed(1);
    const y = (value) => (height - 1.5 - (value / top) * (height - 4)).toFixed(1);
    const path = (of) => points.map((point, index) => `${index ? "L" : "M"}${x(index)} ${y(of(point))}`).join("");
    const calls = path((point) => point.calls_per_second);
    setAttribute(line, "d", calls);
    setAttribute(area, "d", points.length > 1 ? `${calls}L${width} ${height}L${x(0)} ${height}Z` : "");
    const failed = points.some((point) => point.failures_per_second > 0);
    setAttribute(failures, "d", failed ? path((point) => point.failures_per_second) : "");
  };
  return { element: svg, draw };
}

/** A command to copy, with its button. */
export function command(t) {
  const code = h("code", { class: "command-text" });
  const button = h("button", { type: "button", class: "quiet small", onclick: copy }, t("copy"));
  async function copy() {
    try {
      await navigator.clipboard.writeText(code.textContent);
      setText(button, t("copied"));
    } catch {
      // Without the permission the text can still be selected by hand.
      getSelection().selectAllChildren(code);
      setText(button, t("selected"));
    }
    setTimeout(() => setText(button, t("copy")), 1500);
  }
  const element = h("div", { class: "command" }, h("span", { class: "prompt", "aria-hidden": "true" }, "$"), code, button);
  return { element, set: (text) => setText(code, text) };
}

/** A table whose rows are kept by key; columns are `{ label, class }`. On narrow screens each row becomes a card. */
export function table(columns, caption) {
  const body = h("tbody");
  const element = h(
    "div",
    { class: "table-frame" },
    h(
      "table",
      {},
      h("caption", { class: "hidden" }, caption),
      h("thead", {}, h("tr", {}, columns.map((column) => h("th", { scope: "col", class: column.class }, column.label)))),
      body,
    ),
  );
  const row = (...cells) =>
    h("tr", {}, cells.map((cell, index) => h("td", { class: columns[index].class, "data-label": columns[index].label }, cell)));
  return { element, body, row };
}

/** A placeholder for what is loading, empty or broken. */
export function notice(kind, text, ...more) {
  return h("div", { class: `notice ${kind}` }, h("p", {}, text), ...more);
}
