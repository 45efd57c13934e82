// Calls one method through RSF's HTTP adapter. Needs Node 18 or later and no package.
import { randomUUID } from "node:crypto";

/** A call that failed: `code` is Connect's, `reason` RSF's own. */
class RpcError extends Error {
  constructor(message, code, reason) {
    super(message);
    Object.assign(this, { code, reason });
  }
}

async function rpcCall(adapter, method, request, { timeoutMs = 3000, key = randomUUID() } = {}) {
  let response;
  try {
    response = await fetch(new URL(method, adapter.endsWith("/") ? adapter : `${adapter}/`), {
      method: "POST",
      headers: {
        "content-type": "application/json",
        "connect-timeout-ms": String(timeoutMs),
        "idempotency-key": key,
      },
      body: JSON.stringify(request),
      signal: AbortSignal.timeout(timeoutMs + 1000),
    });
  } catch (error) {
    throw new RpcError(`cannot reach ${adapter}: ${error.cause?.message ?? error.message}`, "unavailable", "connect");
  }
  if (response.ok) return response.json();
  const text = await response.text();
  const json = response.headers.get("content-type") === "application/json" ? JSON.parse(text) : {};
  throw new RpcError(json.message ?? text.trim(), json.code ?? "unknown", response.headers.get("rsf-reason") ?? "");
}

const [adapter, method, json] = process.argv.slice(2);
if (!json) {
  console.error("usage: node call.mjs http://adapter:port package.Service/Method '{json}'");
  process.exit(2);
}
try {
  console.log(JSON.stringify(await rpcCall(adapter, method, JSON.parse(json))));
} catch (error) {
  console.error(error instanceof RpcError ? `${error.code} (${error.reason}): ${error.message}` : String(error));
  process.exitCode = 1;
}
