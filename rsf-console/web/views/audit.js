// The audit log, newest first.

import { api } from "/api.js";
import { h, keyed, notice, setText, table } from "/dom.js";
import { moment } from "/format.js";
import { t } from "/i18n.js";

export function audit() {
  let loaded = false;
  let entries = [];
  let ended = false;
  const state = h("div", {}, notice("loading", t("loading")));
  const shown = table(
    [{ label: t("when") }, { label: t("revision"), class: "number" }, { label: t("scope") }, { label: t("status") }, { label: t("author") }, { label: t("comment") }],
    t("audit"),
  );
  shown.element.hidden = true;
  const more = h("button", { type: "button", hidden: true, onclick: older }, t("older"));

  async function older() {
    more.disabled = true;
    try {
      const page = await api.audit(entries.at(-1).id);
      entries.push(...page);
      ended = page.length === 0;
      draw();
    } catch (error) {
      state.replaceChildren(notice("error", error.message));
    } finally {
      more.disabled = false;
    }
  }

  const create = (entry) => {
    const status = h("span", { class: `badge ${entry.status}` }, t(`status_${entry.status}`));
    const link = h("a", { class: "id", href: `#/policies/${encodeURIComponent(entry.scope)}` }, entry.scope);
    const text = h("span", {}, entry.comment, entry.comment && entry.detail ? " · " : "", h("span", { class: "muted" }, entry.detail));
    return { element: shown.row(moment(entry.at_unix_ms), String(entry.revision), link, status, entry.author, text) };
  };

  function draw() {
    shown.element.hidden = entries.length === 0;
    state.replaceChildren(...(entries.length ? [] : [notice("empty", t("noAudit"))]));
    keyed(shown.body, entries, (entry) => entry.id, create);
    more.hidden = ended || entries.length < 100;
  }

  return {
    title: t("audit"),
    element: h("div", {}, h("h1", {}, t("audit")), h("p", { class: "muted" }, t("auditHelp")), shown.element, state, more),
    loaded: () => loaded,
    fail: (element) => state.replaceChildren(element),
    async refresh() {
      const newest = entries[0]?.id ?? 0;
      const page = await api.audit();
      loaded = true;
      entries.unshift(...page.filter((entry) => entry.id > newest));
      draw();
    },
  };
}
