// The engine's HTTP API.

const TIMEOUT_MS = 10000;
const TOKEN_KEY = "vmferry-token";

export class ApiError extends Error {
  constructor(message, status = 0) { super(message); this.status = status; }
}

// How far the engine's clock is ahead of this browser's, in ms.
let clockOffset = 0;
export const engineNow = () => (Date.now() + clockOffset) / 1000;

// Kept for this tab only.
export function setToken(token) { sessionStorage.setItem(TOKEN_KEY, token); }
export function dropToken() { sessionStorage.removeItem(TOKEN_KEY); }
const getToken = () => sessionStorage.getItem(TOKEN_KEY);

function describe(error) {
  if (error.name === "TimeoutError") return `The engine has not answered within ${TIMEOUT_MS / 1000} s.`;
  return "The engine cannot be reached.";
}

async function parse(response) {
  try {
    return await response.json();
  } catch {
    throw new ApiError(`The engine's answer (status ${response.status}) is not to be understood.`, response.status);
  }
}

async function request(method, path, body) {
  const headers = {};
  const token = getToken();
  if (method !== "GET") headers["X-Vmferry"] = "1";
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (token) headers.Authorization = `Bearer ${token}`;
  let response;
  try {
    response = await fetch(path, {method, headers, body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-store", redirect: "error", signal: AbortSignal.timeout(TIMEOUT_MS)});
  } catch (error) {
    throw new ApiError(describe(error));
  }
  const date = Date.parse(response.headers.get("Date"));
  if (Number.isFinite(date)) {
    // The header has whole seconds.
    const offset = date - Date.now();
    if (Math.abs(offset - clockOffset) > 1500) clockOffset = offset;
  }
  const answer = await parse(response);
  if (response.ok) return answer;
  const message = answer?.error?.message;
  throw new ApiError(typeof message === "string" ? sentence(message) : `The engine refuses (status ${response.status}).`,
    response.status);
}

function sentence(text) {
  const first = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(first) ? first : `${first}.`;
}

const name = encodeURIComponent;

export const api = {
  cluster: () => request("GET", "/v1/cluster"),
  hosts: () => request("GET", "/v1/hosts"),
  guests: () => request("GET", "/v1/guests"),
  plan: () => request("GET", "/v1/plan"),
  moves: () => request("GET", "/v1/moves"),
  history: (host, minutes) => request("GET", `/v1/history?host=${name(host)}&minutes=${minutes}`),
  drain: (host, dryRun) => request("POST", `/v1/hosts/${name(host)}/drain`, {dry_run: dryRun}),
  undrain: (host) => request("POST", `/v1/hosts/${name(host)}/undrain`, {}),
  freeze: (guest) => request("POST", "/v1/freeze", guest === null ? {} : {guest}),
  thaw: (guest) => request("POST", "/v1/thaw", guest === null ? {} : {guest}),
  move: (guest, to) => request("POST", "/v1/moves", {guest, to}),
  rules: () => request("GET", "/v1/rules"),
  addRule: (rule) => request("POST", "/v1/rules", rule),
  removeRule: (id) => request("DELETE", `/v1/rules/${name(id)}`),
  slas: () => request("GET", "/v1/slas"),
  setSla: (guest, sla) => request("PUT", `/v1/slas/${name(guest)}`, sla),
  cancel: (id) => request("DELETE", `/v1/moves/${name(id)}`),
};
