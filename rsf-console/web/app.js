// The page's frame: header, language, colours, which view is shown, and the beat that keeps it live.

import { api, ApiError } from "/api.js";
import { h, notice, setText } from "/dom.js";
import { language, languages, setLanguage, t } from "/i18n.js";
import { audit } from "/views/audit.js";
import { login } from "/views/login.js";
import { overview } from "/views/overview.js";
import { policies } from "/views/policies.js";
import { service } from "/views/service.js";

const main = document.getElementById("main");
const header = document.getElementById("header");
const banner = document.getElementById("banner");
const namespace = h("span", { class: "namespace" }, "…");
let view = null;
let beats = 0;

const routes = [
  [/^\/?$/, overview, "overview"],
  [/^\/service\/(.+)$/, service, "overview"],
  [/^\/policies(?:\/(.+))?$/, policies, "policies"],
  [/^\/audit$/, audit, "audit"],
];

function navigate() {
  const path = decodeURIComponent(location.hash.replace(/^#/, ""));
  if (path === "main") return;
  const found = routes.map(([pattern, build, tab]) => [path.match(pattern), build, tab]).find(([match]) => match);
  const [match, build, tab] = found ?? ["".match(/^$/), overview, "overview"];
  for (const link of header.querySelectorAll("nav a")) {
    if (link.dataset.tab === tab) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  show(build(match[1] ?? null));
}

function show(next) {
  view?.close?.();
  view = next;
  main.replaceChildren(view.element);
  header.classList.toggle("signed-out", Boolean(view.isLogin));
  document.title = `${view.title} · RSF`;
  scrollTo(0, 0);
  refresh();
}

// One refresh at a time: a slow answer puts the next one off instead of piling up.
let refreshing = false;
async function refresh() {
  if (refreshing || document.hidden) return;
  refreshing = true;
  const shown = view;
  try {
    const status = beats++ % 5 === 0 && !shown.isLogin ? readStatus() : null;
    await Promise.all([shown.refresh?.(), status]);
    if (shown === view && !shown.isLogin) warn(statusWarning);
  } catch (error) {
    if (error instanceof ApiError && error.status === 401) askForToken();
    else if (shown === view) fail(shown, error);
  } finally {
    refreshing = false;
    if (shown !== view) refresh();
  }
}

let statusWarning = "";
async function readStatus() {
  const status = await api.status();
  setText(namespace, status.namespace);
  namespace.title = t("namespace");
  const warnings = [];
  if (status.policy_store) warnings.push(t("storeDown", { pending: status.pending, why: status.policy_store }));
  if (status.directory) warnings.push(t("directoryDown", { why: status.directory }));
  statusWarning = warnings.join(" ");
}

function fail(shown, error) {
  if (!(error instanceof ApiError)) console.error(error);
  const text = error instanceof ApiError ? error.message : t("unreachable");
  if (shown.loaded?.()) warn(text);
  else shown.fail?.(notice("error", text));
}

function warn(text) {
  setText(banner, text);
  banner.hidden = !text;
}

function askForToken() {
  if (view?.isLogin) return;
  warn("");
  show(login(() => { beats = 0; navigate(); }));
}

function drawHeader() {
  const tab = (name, href) => h("a", { href, "data-tab": name }, t(name));
  const picker = h(
    "select",
    { "aria-label": t("language"), onchange: (event) => { setLanguage(event.target.value); drawHeader(); navigate(); } },
    languages.map(([code, name]) => h("option", { value: code, selected: code === language() }, name)),
  );
  header.replaceChildren(
    h("a", { class: "brand", href: "#/" }, h("img", { src: "/icon.svg", alt: "", width: 26, height: 26 }), "RSF"),
    namespace,
    h("nav", { "aria-label": t("sections") }, tab("overview", "#/"), tab("policies", "#/policies"), tab("audit", "#/audit")),
    h(
      "div",
      { class: "tools" },
      picker,
      h("button", { type: "button", class: "quiet", title: t("theme"), "aria-label": t("theme"), onclick: toggleTheme }, "◐"),
      h("button", { type: "button", class: "quiet leave", onclick: leave }, t("logout")),
    ),
  );
  setText(document.getElementById("skip"), t("skip"));
  document.documentElement.lang = language();
}

async function leave() {
  try {
    await api.logout();
  } finally {
    askForToken();
  }
}

function toggleTheme() {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark" ||
    (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("rsf.theme", document.documentElement.dataset.theme);
}

const theme = localStorage.getItem("rsf.theme");
if (theme) document.documentElement.dataset.theme = theme;
document.getElementById("skip").addEventListener("click", (event) => { event.preventDefault(); main.focus(); });
drawHeader();
addEventListener("hashchange", navigate);
document.addEventListener("visibilitychange", refresh);
navigate();
setInterval(refresh, 1000);
