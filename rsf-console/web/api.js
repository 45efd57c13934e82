// The console's API as functions; a refusal is an `ApiError` with the API's own words.

export class ApiError extends Error {
  constructor(status, error) {
    super(error.message);
    this.status = status;
    this.code = error.code;
    this.details = error.details ?? [];
  }
}

async function send(method, path, body) {
  const headers = method === "GET" ? {} : { "x-rsf-console": "1", "content-type": "application/json" };
  const abort = AbortSignal.timeout(10000);
  const options = { method, headers, signal: abort, body: body === undefined ? undefined : JSON.stringify(body) };
  const response = await fetch(path, options);
  if (response.status === 204) return null;
  let answer;
  try {
    answer = await response.json();
  } catch {
    throw new ApiError(response.status, { code: "no_console", message: `HTTP ${response.status}` });
  }
  if (!response.ok) throw new ApiError(response.status, answer.error);
  return answer;
}

const API = "/api/v1";
const key = encodeURIComponent;
const policy = (scope, rest = "") => `${API}/policies/${scope.split("/").map(key).join("/")}${rest}`;

export const api = {
  login: (token) => send("POST", "/login", { token }),
  logout: () => send("POST", "/logout"),
  status: () => send("GET", `${API}/status`),
  services: () => send("GET", `${API}/services`),
  service: (service) => send("GET", `${API}/services/${key(service)}`),
  stats: (points, service) => send("GET", `${API}/stats?points=${points}${service ? `&service=${key(service)}` : ""}`),
  policies: () => send("GET", `${API}/policies`),
  policy: (scope) => send("GET", policy(scope)),
  put: (scope, body) => send("PUT", policy(scope), body),
  patch: (scope, body) => send("PATCH", policy(scope), body),
  remove: (scope, expected, comment) =>
    send("DELETE", policy(scope, `?expected_revision=${expected}&comment=${key(comment)}`)),
  preview: (scope, body) => send("POST", policy(scope, "/preview"), body),
  history: (scope) => send("GET", policy(scope, "/history?limit=50")),
  diff: (scope, from, to) => send("GET", policy(scope, `/diff?from=${from}&to=${to}`)),
  rollback: (scope, body) => send("POST", policy(scope, "/rollback"), body),
  acknowledgements: (scope) => send("GET", policy(scope, "/acknowledgements")),
  audit: (before) => send("GET", `${API}/audit?limit=100${before ? `&before=${before}` : ""}`),
};

/** The policy of a scope; null where it has none. */
export async function policyOrNull(scope) {
  try {
    return await api.policy(scope);
  } catch (error) {
    if (error.status === 404) return null;
    throw error;
  }
}
