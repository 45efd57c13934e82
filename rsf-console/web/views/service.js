// One service: its instances and methods, edited live, and who runs which revision.

import { api, policyOrNull } from "/api.js";
import { command, h, keyed, notice, setAttribute, setText, sparkline, table } from "/dom.js";
import { milliseconds, moment, pathKey, rate, shellWord } from "/format.js";
import { t } from "/i18n.js";
import { seen } from "/views/overview.js";

const POINTS = 300;

export function service(key) {
  const scope = `service/${key}`;
  let loaded = false;
  let revision = 0;
  let points = [];
  const state = h("div", {}, notice("loading", t("loading")));
  const content = h("div", { hidden: true });
  const changes = changeBar(scope, () => revision, () => page.refresh());

  const tiles = ["instances", "callsPerSecond", "failuresPerSecond", "p99"].map((name) => {
    const value = h("strong", {}, "–");
    return { value, element: h("div", { class: "tile" }, h("span", {}, name === "p99" ? "p99" : t(name)), value) };
  });
  const spark = sparkline(t("callsPerSecond"), POINTS, 600, 60);
  const instances = instanceTable(changes);
  const methods = methodTable(changes);
  const running = runningPanel();
  const removed = table([{ label: t("instance") }, { label: t("cause") }, { label: t("when"), class: "number" }], t("removed"));
  const removedSection = h("section", {}, h("h2", {}, t("removed")), removed.element);

  content.append(
    h("div", { class: "tiles" }, tiles.map((tile) => tile.element)),
    h("div", { class: "panel chart-panel" }, h("span", { class: "muted" }, t("lastFiveMinutes")), spark.element),
    h("section", {}, h("h2", {}, t("instances")), instances.element),
    h("section", {}, h("h2", {}, t("timeouts")), h("p", { class: "muted" }, t("timeoutsHelp")), methods.element),
    running.element,
    removedSection,
    changes.element,
  );

  const page = {
    title: key,
    element: h(
      "div",
      {},
      h("p", { class: "crumbs" }, h("a", { href: "#/" }, t("overview")), " / ", t("service")),
      h("div", { class: "heading" }, h("h1", { class: "key" }, key), h("a", { class: "button", href: `#/policies/${encodeURIComponent(scope)}` }, t("policy"))),
      state,
      content,
    ),
    loaded: () => loaded,
    fail: (element) => state.replaceChildren(element),
    async refresh() {
      const [found, stats, policy] = await Promise.all([
        api.service(key),
        api.stats(loaded ? 10 : POINTS, key),
        policyOrNull(scope),
      ]);
      const acknowledged = await api.acknowledgements(scope).catch((error) => ({ error, instances: [] }));
      loaded = true;
      revision = policy?.revision ?? 0;
      content.hidden = false;
      state.replaceChildren();
      const live = stats.services[key.split(":")[0]];
      const figures = seen(live);
      const up = found.instances.filter((instance) => instance.state === "up").length;
      const values = [up, rate(figures?.calls_per_second), rate(figures?.failures_per_second), milliseconds(figures?.p99_ms)];
      tiles.forEach((tile, index) => setText(tile.value, values[index]));
      tiles[2].value.className = figures?.failures_per_second > 0 ? "bad" : "";
      const newest = points.at(-1)?.at_unix_ms ?? 0;
      points.push(...(live?.points ?? []).filter((point) => point.at_unix_ms > newest));
      points = points.slice(-POINTS);
      spark.draw(points);
      instances.update(found.instances, live, acknowledged, policy);
      methods.update(live, policy);
      running.update(acknowledged);
      removedSection.hidden = found.removed.length === 0;
      const create = () => {
        const cells = [h("span"), h("span"), h("span")];
        return { cells, element: removed.row(...cells) };
      };
      keyed(removed.body, found.removed.slice(0, 10), (one) => one.instance + one.at_unix_ms, create, (row, one) => {
        setText(row.cells[0], one.instance);
        setText(row.cells[1], t(`cause_${one.cause}`));
        setText(row.cells[2], moment(one.at_unix_ms));
      });
    },
  };
  return page;
}

/** Edits that were typed and not yet published, with the command that does the same. */
function changeBar(scope, revision, published) {
  const pending = new Map();
  const resets = new Map();
  const cli = command(t);
  const comment = h("input", { type: "text", maxlength: 500, placeholder: t("commentHint"), "aria-label": t("comment") });
  const result = h("div", { class: "problem", role: "alert" });
  const publish = h("button", { type: "submit", class: "primary" }, t("publish"));
  const element = h(
    "form",
    {
      class: "change-bar",
      hidden: true,
      onsubmit: async (event) => {
        event.preventDefault();
        publish.disabled = true;
        try {
          const assignments = [...pending].map(([path, value]) => `${path}=${value}`);
          const accepted = await api.patch(scope, { assignments, expected_revision: base, comment: comment.value });
          clear();
          if (accepted.message) setText(result, accepted.message);
          element.hidden = !accepted.message;
          await published();
        } catch (error) {
          problems(result, error);
          // After a conflict the author has been told; what is published next is meant to stand on what is there now.
          if (error.status === 409) base = revision();
        } finally {
          publish.disabled = false;
        }
      },
    },
    h("div", { class: "change-text" }, h("strong", {}, t("unpublished")), cli.element),
    h("div", { class: "change-actions" }, comment, h("button", { type: "button", class: "quiet", onclick: discard }, t("discard")), publish),
    result,
  );
  let base = 0;

  function draw() {
    element.hidden = pending.size === 0;
    setText(result, "");
    cli.set(`rsf policy set ${scope} ${[...pending].map(([path, value]) => shellWord(`${path}=${value}`)).join(" ")}`);
  }
  function clear() {
    pending.clear();
    for (const reset of resets.values()) reset();
    resets.clear();
    comment.value = "";
    draw();
  }
  function discard() {
    clear();
  }
  return {
    element,
    /** Notes that `path` shall hold `value`; `reset` runs when the edit is gone, published or not. */
    set(path, value, reset) {
      if (pending.size === 0) base = revision();
      pending.set(path, value);
      resets.set(path, reset);
      draw();
    },
    unset(path) {
      pending.delete(path);
      resets.delete(path);
      draw();
    },
    has: (path) => pending.has(path),
  };
}

/** Shows what is wrong with a change, each place by itself. */
export function problems(element, error) {
  const details = (error.details ?? []).map((detail) => h("li", {}, h("code", {}, detail.path), " ", detail.problem));
  element.replaceChildren(h("p", {}, error.message ?? t("unreachable")), details.length ? h("ul", {}, details) : "");
}

/** A number that can be edited; empty means "as inherited". */
function numberField(changes, path, label, bounds) {
  const input = h("input", { type: "number", min: bounds[0], max: bounds[1], step: 1, inputmode: "numeric", "aria-label": label });
  let current = "";
  const reset = () => {
    input.value = current;
    input.classList.remove("edited");
  };
  input.addEventListener("input", () => {
    if (input.value === current || !input.validity.valid) changes.unset(path);
    else changes.set(path, input.value, reset);
    input.classList.toggle("edited", input.value !== current);
  });
  return {
    element: input,
    update(value, inherited) {
      current = value === undefined || value === null ? "" : String(value);
      setAttribute(input, "placeholder", inherited);
      if (!changes.has(path) && document.activeElement !== input && input.value !== current) reset();
    },
  };
}

function instanceTable(changes) {
  const shown = table(
    [
      { label: t("instance") },
      { label: t("zone") },
      { label: t("state") },
      { label: t("callsPerSecond"), class: "number" },
      { label: t("revision"), class: "number" },
      { label: t("weight"), class: "field" },
      { label: t("action"), class: "field" },
    ],
    t("instances"),
  );
  const create = (item) => {
    const path = `instances[${item.instance}]`;
    const cells = Object.fromEntries(["address", "zone", "state", "calls", "revision"].map((name) => [name, h("span")]));
    const weight = numberField(changes, `${path}.weight`, `${t("weight")} ${item.instance}`, [0, 10000]);
    const toggle = h("button", { type: "button", class: "small" });
    const row = { cells, weight, toggle, disabled: false };
    const reset = () => toggle.classList.remove("edited");
    toggle.addEventListener("click", () => {
      if (changes.has(`${path}.disabled`)) {
        changes.unset(`${path}.disabled`);
        return reset();
      }
      changes.set(`${path}.disabled`, row.disabled ? "" : "true", reset);
      toggle.classList.add("edited");
    });
    cells.address.className = "muted address";
    row.element = shown.row(
      h("div", {}, h("span", { class: "id" }, item.instance), cells.address),
      cells.zone, cells.state, cells.calls, cells.revision, weight.element, toggle,
    );
    return row;
  };
  const update = (row, { item, calls, acknowledged, rule }) => {
    setText(row.cells.address, item.address);
    setText(row.cells.zone, item.zone || "–");
    const word = item.disabled ? "disabled" : item.effective_weight === 0 ? "idle" : item.state;
    setText(row.cells.state, t(`state_${word}`));
    row.cells.state.className = `badge ${word}`;
    setText(row.cells.calls, rate(calls));
    setText(row.cells.revision, acknowledged?.revision || "–");
    row.weight.update(rule?.weight, item.effective_weight);
    row.disabled = item.disabled;
    setText(row.toggle, item.disabled ? t("enable") : t("disable"));
    setAttribute(row.toggle, "aria-label", `${row.toggle.textContent} ${item.instance}`);
  };
  return {
    element: shown.element,
    update(instances, live, acknowledged, policy) {
      const heard = new Map(acknowledged.instances.map((one) => [one.instance, one]));
      const rules = policy?.document?.instances ?? [];
      const ruleFor = (id) =>
        rules.find((rule) => rule.instance === id && !rule.zone && !rule.tags && !rule.expires_unix_ms);
      const items = instances.map((item) => ({
        instance: item.instance,
        address: item.address,
        item,
        calls: live?.instances?.[item.instance] ?? 0,
        acknowledged: heard.get(item.instance),
        rule: ruleFor(item.instance),
      }));
      keyed(shown.body, items, (item) => item.instance, create, update);
    },
  };
}

function methodTable(changes) {
  const shown = table(
    [
      { label: t("method") },
      { label: t("callsPerSecond"), class: "number" },
      { label: t("failuresPerSecond"), class: "number" },
      { label: "p99", class: "number" },
      { label: t("timeoutMs"), class: "field" },
    ],
    t("timeouts"),
  );
  const create = ({ name }) => {
    const path = name ? `methods${pathKey(name)}.timeout_ms` : "call.timeout_ms";
    const cells = [h("span"), h("span"), h("span")];
    const field = numberField(changes, path, `${t("timeoutMs")} ${name || t("wholeService")}`, [1, 3600000]);
    const label = h("span", { class: name ? "id" : "" }, name || t("wholeService"));
    return { cells, field, element: shown.row(label, ...cells, field.element) };
  };
  const update = (row, { figures, timeout, inherited }) => {
    setText(row.cells[0], rate(figures?.calls_per_second));
    setText(row.cells[1], rate(figures?.failures_per_second));
    row.cells[1].className = figures?.failures_per_second > 0 ? "bad" : "muted";
    setText(row.cells[2], milliseconds(figures?.p99_ms));
    row.field.update(timeout, inherited);
  };
  return {
    element: shown.element,
    update(live, policy) {
      const document = policy?.document ?? {};
      const own = document.methods ?? {};
      const names = [...new Set([...Object.keys(live?.methods ?? {}), ...Object.keys(own)])].sort();
      const whole = document.call?.timeout_ms;
      const items = names.map((name) => ({
        name,
        figures: seen(live?.methods?.[name]),
        timeout: own[name]?.timeout_ms,
        inherited: whole ?? t("inherited"),
      }));
      items.unshift({ name: "", figures: seen(live), timeout: whole, inherited: t("inherited") });
      keyed(shown.body, items, (item) => item.name, create, update);
    },
  };
}

/** Who runs which revision, live. */
export function runningPanel() {
  const summary = h("p", {});
  const bar = h("div", { class: "progress", role: "progressbar", "aria-valuemin": 0, "aria-label": t("whoRuns") }, h("div"));
  const list = h("ul", { class: "running" });
  const element = h("section", {}, h("h2", {}, t("whoRuns")), h("div", { class: "panel" }, summary, bar, list));
  const create = () => {
    const row = { id: h("span", { class: "id" }), revision: h("span", { class: "muted" }), state: h("span"), why: h("span", { class: "bad" }) };
    row.element = h("li", {}, row.id, row.revision, row.state, row.why);
    return row;
  };
  const update = (row, one) => {
    setText(row.id, one.instance);
    setText(row.revision, one.revision ? `@${one.revision}` : "");
    setText(row.state, t(`running_${one.state}`));
    row.state.className = `badge ${one.state}`;
    setText(row.why, one.refusal);
  };
  return {
    element,
    update(acknowledged) {
      if (acknowledged.error) {
        setText(summary, acknowledged.error.message ?? t("unreachable"));
        return;
      }
      const all = acknowledged.instances;
      const current = all.filter((one) => one.state === "current").length;
      element.hidden = acknowledged.revision === 0;
      setText(summary, t("runs", { current, all: all.length, revision: acknowledged.revision }));
      bar.firstChild.style.width = `${all.length ? (100 * current) / all.length : 0}%`;
      setAttribute(bar, "aria-valuemax", all.length);
      setAttribute(bar, "aria-valuenow", current);
      // The ones that need a look first; a fleet of thousands is not listed whole.
      const order = ["refused", "older", "waiting", "current"];
      const sorted = [...all].sort((a, b) => order.indexOf(a.state) - order.indexOf(b.state) || a.instance.localeCompare(b.instance));
      keyed(list, sorted.slice(0, 60), (one) => one.instance, create, update);
    },
  };
}
