// What every page has: the site's clock, the connection's state, and the stream of messages.

export const zone = document.body.dataset.zone;

const clock = document.getElementById("clock");
const link = document.getElementById("link");
const clockFormat = new Intl.DateTimeFormat("en-GB", { timeZone: zone, dateStyle: "medium", timeStyle: "medium" });
const timeFormat = new Intl.DateTimeFormat("en-GB", { timeZone: zone, hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 1 });

export function localTime(ns) { return timeFormat.format(new Date(Number(BigInt(ns) / 1000000n))); }

setInterval(() => { clock.textContent = clockFormat.format(new Date()); }, 250);

function show(state, text) { link.className = "link " + state; link.textContent = text; }

// Listeners are called with each message: {seq, topic, body}.
const listeners = [];
export function onMessage(listener) { listeners.push(listener); }

export const SILENT_MS = 12000;
let source = null;
let lastSign = 0;
function connect() {
  source?.close();
  lastSign = performance.now();
  source = new EventSource("/stream");
  const sign = () => { lastSign = performance.now(); show("ok", "live"); };
  source.onopen = sign;
  source.addEventListener("alive", sign);
  source.addEventListener("message", (event) => { sign(); const message = JSON.parse(event.data); for (const l of listeners) l(message); });
  source.addEventListener("lost", () => location.reload());
  source.onerror = () => show("bad", "no connection");
}
function pause() { source?.close(); source = null; show("", "paused"); }
// A page that nobody sees reads nothing: a browser has few connections to one server.
function follow() { if (document.hidden) pause(); else if (!source) connect(); }
follow();
document.addEventListener("visibilitychange", follow);
// A refusal closes a source for good, and a connection that is cut off without a word looks like a quiet one.
setInterval(() => { if (source && performance.now() - lastSign > SILENT_MS) { show("bad", "no connection"); connect(); } }, 1000);

export async function send(address, document) {
  const answer = await fetch(address, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(document) });
  const said = await answer.json().catch(() => ({ error: answer.statusText }));
  if (!answer.ok) throw Object.assign(new Error(said.error || answer.statusText), { status: answer.status, said });
  return said;
}
