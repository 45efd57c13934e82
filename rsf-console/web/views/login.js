// Asks for the token where the browser has no session.

import { api } from "/api.js";
import { h, setText } from "/dom.js";
import { t } from "/i18n.js";

export function login(done) {
  const field = h("input", { id: "token", type: "password", autocomplete: "current-password", required: true });
  const problem = h("p", { class: "problem", role: "alert" });
  const form = h(
    "form",
    {
      class: "panel login",
      onsubmit: async (event) => {
        event.preventDefault();
        setText(problem, "");
        try {
          await api.login(field.value);
          done();
        } catch (error) {
          setText(problem, error.status === 401 ? t("wrongToken") : error.message ?? t("unreachable"));
          field.select();
        }
      },
    },
    h("h1", {}, t("login")),
    h("p", {}, t("loginHelp")),
    h("label", { for: "token" }, t("token")),
    field,
    problem,
    h("button", { type: "submit", class: "primary" }, t("open")),
  );
  return { title: t("login"), element: form, isLogin: true };
}
