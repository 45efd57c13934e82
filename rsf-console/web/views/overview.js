// All services with their live figures.

import { api } from "/api.js";
import { h, keyed, notice, setText, sparkline, table } from "/dom.js";
import { milliseconds, rate } from "/format.js";
import { t } from "/i18n.js";

const POINTS = 120;

/** What a service's callers see, or its providers where no caller is known. */
export function seen(stats) {
  const client = stats?.client;
  return client && (client.calls_per_second > 0 || client.p99_ms !== null) ? client : stats?.server;
}

export function overview() {
  const tiles = ["services", "instances", "callsPerSecond", "failuresPerSecond"].map((name) => {
    const value = h("strong", {}, "–");
    return { name, value, element: h("div", { class: "tile" }, h("span", {}, t(name)), value) };
  });
  const services = table(
    [
      { label: t("service") },
      { label: t("instances"), class: "number" },
      { label: t("callsPerSecond"), class: "number" },
      { label: t("failuresPerSecond"), class: "number" },
      { label: "p99", class: "number" },
      { label: t("lastMinutes"), class: "chart" },
    ],
    t("services"),
  );
  const state = h("div", {}, notice("loading", t("loading")));
  const scrapes = h("p", { class: "footnote" });
  const cli = h("p", { class: "footnote" }, t("sameAs"), " ", h("code", {}, "rsf nodes"));
  services.element.hidden = true;
  let loaded = false;

  const create = (item) => {
    const cells = Object.fromEntries(["instances", "calls", "failures", "p99"].map((name) => [name, h("span")]));
    const spark = sparkline(`${item.service}: ${t("callsPerSecond")}`, POINTS);
    const [packageName, shortName] = split(item.service);
    const link = h(
      "a",
      { href: `#/service/${encodeURIComponent(item.service)}`, class: "service-name" },
      h("span", { class: "package" }, packageName),
      shortName,
    );
    const applications = h("span", { class: "muted" });
    const element = services.row(h("div", {}, link, applications), cells.instances, cells.calls, cells.failures, cells.p99, spark.element);
    return { element, cells, spark, applications, points: [] };
  };

  const update = (row, { summary, stats }) => {
    const figures = seen(stats);
    setText(row.applications, summary.applications.join(", "));
    const draining = summary.draining ? ` + ${summary.draining} ${t("draining")}` : "";
    setText(row.cells.instances, `${summary.up}${draining}`);
    row.cells.instances.className = summary.up === 0 ? "bad" : "";
    setText(row.cells.calls, rate(figures?.calls_per_second));
    setText(row.cells.failures, rate(figures?.failures_per_second));
    row.cells.failures.className = figures?.failures_per_second > 0 ? "bad" : "muted";
    setText(row.cells.p99, milliseconds(figures?.p99_ms));
    const newest = row.points.at(-1)?.at_unix_ms ?? 0;
    row.points.push(...(stats?.points ?? []).filter((point) => point.at_unix_ms > newest));
    row.points.splice(0, row.points.length - POINTS);
    row.spark.draw(row.points);
  };

  return {
    title: t("overview"),
    element: h("div", {}, h("h1", {}, t("overview")), h("div", { class: "tiles" }, tiles.map((tile) => tile.element)), services.element, state, scrapes, cli),
    loaded: () => loaded,
    fail: (element) => state.replaceChildren(element),
    async refresh() {
      // The whole curve once, then only its end: a few seconds cover a late answer.
      const [summaries, stats] = await Promise.all([api.services(), api.stats(loaded ? 10 : POINTS)]);
      loaded = true;
      const figures = (key) => stats.services[key.split(":")[0]];
      const items = summaries.map((summary) => ({ service: summary.service, summary, stats: figures(summary.service) }));
      const all = Object.values(stats.services).map(seen);
      const sum = (name) => all.reduce((total, one) => total + (one?.[name] ?? 0), 0);
      const values = [
        summaries.length,
        stats.scrapes.answered + stats.scrapes.failures + stats.scrapes.left_out,
        rate(sum("calls_per_second")),
        rate(sum("failures_per_second")),
      ];
      tiles.forEach((tile, index) => setText(tile.value, values[index]));
      tiles[3].value.className = sum("failures_per_second") > 0 ? "bad" : "";
      services.element.hidden = items.length === 0;
      state.replaceChildren(...(items.length ? [] : [notice("empty", t("noServices"), h("code", {}, "rsf dev"))]));
      keyed(services.body, items, (item) => item.service, create, update);
      const failed = Object.entries(stats.scrapes.failed).map(([id, why]) => `${id}: ${why}`);
      const left = stats.scrapes.left_out ? t("leftOut", { count: stats.scrapes.left_out }) : "";
      setText(scrapes, failed.length ? `${t("silent", { count: stats.scrapes.failures })} ${failed.slice(0, 3).join("; ")} ${left}` : left);
    },
  };
}

function split(service) {
  const at = service.lastIndexOf(".");
  return at < 0 ? ["", service] : [service.slice(0, at + 1), service.slice(at + 1)];
}
