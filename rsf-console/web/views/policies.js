// Policies: the list of scopes, and an editor with live validation, diff, history and rollback.

import { api, policyOrNull } from "/api.js";
import { command, h, keyed, notice, setText, table } from "/dom.js";
import { moment } from "/format.js";
import { t } from "/i18n.js";
import { problems, runningPanel } from "/views/service.js";

export function policies(scope) {
  return scope ? editor(scope) : list();
}

function list() {
  let loaded = false;
  const state = h("div", {}, notice("loading", t("loading")));
  const shown = table(
    [{ label: t("scope") }, { label: t("revision"), class: "number" }, { label: t("status") }, { label: t("author") }, { label: t("when"), class: "number" }],
    t("policies"),
  );
  shown.element.hidden = true;
  const field = h("input", { id: "scope", type: "text", placeholder: "service/shop.v1.MemberService", required: true, spellcheck: "false", pattern: "fleet|(application|service)/[A-Za-z0-9_:.\\-]+" });
  const open = h(
    "form",
    {
      class: "panel inline-form",
      onsubmit: (event) => {
        event.preventDefault();
        location.hash = `#/policies/${encodeURIComponent(field.value.trim())}`;
      },
    },
    h("label", { for: "scope" }, t("openScope")),
    field,
    h("button", { type: "submit" }, t("openEditor")),
    h("p", { class: "muted" }, t("scopeHelp")),
  );
  const create = (policy) => {
    const cells = [h("span"), h("span"), h("span"), h("span")];
    const link = h("a", { href: `#/policies/${encodeURIComponent(policy.scope)}`, class: "id" }, policy.scope);
    return { cells, element: shown.row(link, ...cells) };
  };
  const update = (row, policy) => {
    setText(row.cells[0], policy.revision);
    badge(row.cells[1], policy.status);
    setText(row.cells[2], policy.author);
    setText(row.cells[3], moment(policy.written_unix_ms));
  };
  return {
    title: t("policies"),
    element: h("div", {}, h("h1", {}, t("policies")), h("p", { class: "muted" }, t("policiesHelp")), open, shown.element, state),
    loaded: () => loaded,
    fail: (element) => state.replaceChildren(element),
    async refresh() {
      const found = await api.policies();
      loaded = true;
      shown.element.hidden = found.length === 0;
      state.replaceChildren(...(found.length ? [] : [notice("empty", t("noPolicies"))]));
      keyed(shown.body, found, (policy) => policy.scope, create, update);
    },
  };
}

function badge(element, status) {
  setText(element, t(`status_${status}`));
  element.className = `badge ${status}`;
}

const indented = (document) => JSON.stringify(document, null, 2);

function editor(scope) {
  let loaded = false;
  // What the author has seen: publishing refuses to overwrite anything later.
  let base = 0;
  let baseText = "{}";
  let status = null;
  const text = h("textarea", { id: "document", spellcheck: "false", rows: 16, "aria-describedby": "document-problems" });
  const result = h("div", { id: "document-problems", class: "problem", role: "alert" });
  const later = h("div", { class: "notice warning", hidden: true });
  const changed = h("div", { class: "diff", "aria-label": t("diff") });
  const cli = command(t);
  const comment = h("input", { id: "comment", type: "text", maxlength: 500, placeholder: t("commentHint") });
  const publish = h("button", { type: "submit", class: "primary", disabled: true }, t("publish"));
  const remove = h("button", { type: "button", class: "danger", onclick: deletePolicy }, t("delete"));
  const running = runningPanel();
  const history = historyTable(scope, () => base, adopt);
  const meta = h("p", { class: "muted" });

  let timer = 0;
  let asked = 0;
  text.addEventListener("input", () => {
    publish.disabled = true;
    clearTimeout(timer);
    timer = setTimeout(preview, 250);
  });

  async function preview() {
    const turn = ++asked;
    try {
      const previewed = await api.preview(scope, { document: text.value });
      if (turn !== asked) return;
      result.replaceChildren();
      const differs = previewed.lines.some((line) => line.change !== "same");
      publish.disabled = !differs;
      drawDiff(changed, differs ? previewed.lines : []);
    } catch (error) {
      if (turn !== asked) return;
      problems(result, error);
      drawDiff(changed, null);
    }
  }

  async function adopt() {
    const policy = await policyOrNull(scope);
    base = policy?.revision ?? 0;
    baseText = indented(policy?.document ?? {});
    status = policy?.status;
    text.value = baseText;
    comment.value = "";
    result.replaceChildren();
    later.hidden = true;
    publish.disabled = true;
    remove.hidden = !policy;
    drawDiff(changed, []);
    describe(policy);
    history.refresh();
  }

  function describe(policy) {
    setText(meta, policy ? t("revisionBy", { revision: policy.revision, author: policy.author, when: moment(policy.written_unix_ms) }) : t("noPolicyYet"));
  }

  async function deletePolicy() {
    if (!confirm(t("confirmDelete", { scope }))) return;
    await attempt(() => api.remove(scope, base, comment.value));
  }

  async function attempt(action) {
    publish.disabled = true;
    try {
      const accepted = await action();
      await adopt();
      if (accepted.message) result.replaceChildren(h("p", {}, accepted.message));
    } catch (error) {
      problems(result, error);
      publish.disabled = false;
    }
  }

  const form = h(
    "form",
    {
      class: "panel editor",
      onsubmit: (event) => {
        event.preventDefault();
        attempt(() => api.put(scope, { document: text.value, expected_revision: base, comment: comment.value }));
      },
    },
    h("div", { class: "editor-side" }, h("label", { for: "document" }, t("document")), text, result),
    h("div", { class: "editor-side" }, h("span", { class: "label" }, t("diff")), changed),
    h("div", { class: "editor-actions" }, h("label", { for: "comment" }, t("comment")), comment, remove, publish),
  );
  cli.set(`rsf policy set ${scope} --file policy.json`);

  return {
    title: scope,
    element: h(
      "div",
      {},
      h("p", { class: "crumbs" }, h("a", { href: "#/policies" }, t("policies")), " / ", t("scope")),
      h("h1", { class: "key" }, scope),
      meta,
      later,
      form,
      h("p", { class: "footnote" }, t("sameAs")),
      cli.element,
      running.element,
      history.element,
    ),
    loaded: () => loaded,
    fail: (element) => result.replaceChildren(element),
    async refresh() {
      if (!loaded) {
        await adopt();
        loaded = true;
      }
      const [policy, acknowledged] = await Promise.all([
        policyOrNull(scope),
        api.acknowledgements(scope).catch((error) => ({ error, instances: [] })),
      ]);
      running.update(acknowledged);
      const latest = policy?.revision ?? 0;
      if (latest === base) {
        if (policy?.status !== status) await history.refresh();
        status = policy?.status;
        return describe(policy);
      }
      if (text.value === baseText) return adopt();
      later.hidden = false;
      later.replaceChildren(
        h("p", {}, t("changedMeanwhile", { revision: latest, author: policy?.author ?? "–" })),
        h("button", { type: "button", onclick: adopt }, t("loadIt")),
      );
    },
  };
}

function drawDiff(element, lines) {
  if (lines === null) return element.replaceChildren(h("p", { class: "muted" }, t("notValid")));
  if (lines.length === 0) return element.replaceChildren(h("p", { class: "muted" }, t("noChange")));
  const sign = { same: " ", removed: "−", added: "+" };
  const spoken = { removed: t("removedLine"), added: t("addedLine") };
  const row = (line) =>
    h(
      "div",
      { class: `line ${line.change}` },
      h("span", { class: "sign", "aria-hidden": "true" }, sign[line.change]),
      spoken[line.change] ? h("span", { class: "hidden" }, spoken[line.change]) : "",
      line.text,
    );
  element.replaceChildren(...lines.map(row));
}

function historyTable(scope, base, adopted) {
  const shown = table(
    [{ label: t("revision"), class: "number" }, { label: t("status") }, { label: t("author") }, { label: t("comment") }, { label: t("when"), class: "number" }, { label: t("action"), class: "field" }],
    t("history"),
  );
  const detail = h("div", { class: "panel", hidden: true });
  const cli = command(t);
  const element = h("section", { hidden: true }, h("h2", {}, t("history")), shown.element, detail);
  let revisions = [];

  async function compare(revision) {
    const older = revisions.find((other) => other.revision < revision.revision && other.status !== "refused");
    const box = h("div", { class: "diff" });
    const problem = h("div", { class: "problem", role: "alert" });
    const roll = h("button", { type: "button", onclick: rollback }, t("rollbackTo", { revision: revision.revision }));
    async function rollback() {
      roll.disabled = true;
      try {
        await api.rollback(scope, { revision: revision.revision, expected_revision: base() });
        detail.hidden = true;
        await adopted();
      } catch (error) {
        problems(problem, error);
        roll.disabled = false;
      }
    }
    detail.hidden = false;
    cli.set(`rsf policy rollback ${scope} ${revision.revision}`);
    const isLatest = revision.revision === base();
    detail.replaceChildren(
      h("h3", {}, t("changeOf", { revision: revision.revision, older: older?.revision ?? "∅" })),
      box,
      ...(isLatest || revision.status === "refused" ? [] : [h("div", { class: "row" }, roll), cli.element]),
      problem,
    );
    detail.scrollIntoView({ block: "nearest" });
    try {
      const diff = await api.diff(scope, older?.revision ?? 0, revision.revision);
      drawDiff(box, diff.lines);
    } catch (error) {
      problems(problem, error);
    }
  }

  const create = (revision) => {
    const cells = [h("span"), h("span"), h("span"), h("span"), h("span")];
    const label = `${t("show")} ${revision.revision}`;
    const button = h("button", { type: "button", class: "small", "aria-label": label, onclick: () => compare(revision) }, t("show"));
    return { cells, element: shown.row(...cells, button) };
  };
  const update = (row, revision) => {
    setText(row.cells[0], revision.revision);
    badge(row.cells[1], revision.status);
    setText(row.cells[2], revision.author);
    setText(row.cells[3], revision.document === null ? `${t("deleted")} ${revision.comment}` : revision.comment);
    setText(row.cells[4], moment(revision.written_unix_ms));
  };
  return {
    element,
    async refresh() {
      revisions = await api.history(scope);
      element.hidden = revisions.length === 0;
      keyed(shown.body, revisions, (revision) => revision.revision, create, update);
    },
  };
}
