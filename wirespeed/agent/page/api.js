// The agent's API: GET /v1/<view>, with the token of this tab.

const TOKEN = "wirespeed-token";
const PATIENCE = 20000; // milliseconds for an answer

/** An answer that is an error; `status` is 0 if there was no answer at all. */
export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export function setToken(token) {
  if (token) sessionStorage.setItem(TOKEN, token);
  else sessionStorage.removeItem(TOKEN);
}

/** Return a view; throws a Refusal. */
export async function get(view, query = {}) {
  const token = sessionStorage.getItem(TOKEN);
  const search = new URLSearchParams(query).toString();
  let answer;
  let value;
  try {
    answer = await fetch(`v1${view && "/"}${view}${search && "?"}${search}`, {
      headers: token ? { Authorization: `Bearer ${token}` } : {},
      signal: AbortSignal.timeout(PATIENCE),
      cache: "no-store",
    });
    value = await answer.json();
  } catch (error) {
    throw new Refusal(0, `no answer from the agent (${error.name})`);
  }
  if (!answer.ok) throw new Refusal(answer.status, value.error);
  return value;
}
