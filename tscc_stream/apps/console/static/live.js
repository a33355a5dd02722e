// The page Live: what is shown, remembered in this browser; the stream of the wall; keys.

import { SILENT_MS, onMessage } from "./console.js";
import { Wall } from "./live_wall.js";
import { List, element, showShift, utc } from "./live_side.js";

const $ = (id) => document.getElementById(id);
const KEPT = "tscc-stream live", MOST_MARKS = 1000, PATTERN = /^[A-Z0-9*?._-]{1,40}$/;
const kept = { channels: [], span: 60, common: false, ...JSON.parse(localStorage.getItem(KEPT) ?? "{}") };
const asked = new URLSearchParams(location.search).get("channels");  // an address that shows certain channels
if (asked) kept.channels = asked.toUpperCase().split(",");
const keep = () => localStorage.setItem(KEPT, JSON.stringify(kept));
const wall = new Wall($("traces"), $("ruler"));
wall.common = kept.common;
const detections = new List($("detections"), "Reading the journal…"), events = new List($("events"), "Reading the journal…");

// What clusters are called and coloured

let model = { sha256: "", clusters: {} };
function clusterOf(data) {
  const id = data.cluster.id === null || data.cluster.known === false ? "unknown" : String(data.cluster.id);
  if (id === "unknown") return { id, name: "unknown", colour: "#ffffff" };
  const now = model.clusters?.[id], same = !data.model || data.model.sha256 === model.sha256;
  return { id, name: (same && now?.name) || data.cluster.name || `cluster ${id}`, colour: (same && now?.colour) || "#9db0c1" };
}

// The stream

let source = null, dirty = false, wallSaid = "", lastSign = 0;
function open() {
  close();
  lastSign = performance.now();
  const columns = place();
  const query = new URLSearchParams({ span: kept.span, columns, channels: kept.channels.join(",") });
  source = new EventSource(`/live/stream?${query}`);
  const on = (name, take) => source.addEventListener(name, (event) => { lastSign = performance.now(); take(JSON.parse(event.data)); });
  on("channels", ({ channels }) => { place(channels.length); wall.setChannels(channels); label(); invalidate(); });
  on("columns", (parts) => { wall.take(parts); invalidate(); });
  on("states", showStates);
  on("clusters", (told) => { model = told; redraw(); });
  on("alerts", showAlerts);
  on("words", (words) => { $("words").replaceChildren(...Object.entries(words).flatMap(([word, count]) => [element("b", "", count), ` ${word}  `])); });
  on("shift", showShift);
  on("recent", (messages) => {
    detections.empty = "None yet. They are listed as they come."; events.empty = "None yet.";
    messages.forEach(take); redraw();
  });
  source.onerror = () => { if (source?.readyState === EventSource.CLOSED) say("The wall was refused, or the console is away. It is asked for again and again; or choose other channels."); };
}
function close() { source?.close(); source = null; }
// A page that nobody sees reads nothing; a browser has few connections to one server, too.
document.addEventListener("visibilitychange", () => { if (document.hidden) close(); else if (!source) open(); });

onMessage((message) => { if (take(message)) redraw(); });
function take({ topic, body }) {
  const [kind, , ...rest] = topic.split("."), data = body.data;
  if (kind !== "detection" && kind !== "network") return false;
  const cluster = () => clusterOf(data), onsetMs = data.onset_ns / 1e6, onset = Math.round(onsetMs) + "000000";
  if (kind === "network") {
    const votes = Object.entries(data.votes).map(([name, count]) => `${count} × ${name}`).join(", ");
    events.put(body.id, { onset, onsetMs, cluster, where: data.final ? "" : "(early)", more: `${data.channels.length} channels`, title: `votes: ${votes || "none"}` });
    return true;
  }
  const channel = rest.slice(0, -1).join("."), share = Math.max(...data.cluster.membership), p = data.cluster.p_value;
  const title = `membership ${(100 * share).toFixed(0)} %${p === null ? "" : `, p ${p.toPrecision(2)}`}, STA/LTA ${data.peak_ratio.toFixed(1)}`;
  detections.put(body.id, { onset, onsetMs, cluster, where: "", more: channel, title });
  if (!wall.marks.some((one) => one.uid === body.id)) wall.marks.push({ uid: body.id, channel, onset, onsetMs, cluster, title });
  if (wall.marks.length > MOST_MARKS) wall.marks.shift();
  return true;
}

function redraw() { detections.show(); events.show(); invalidate(); }

// Drawing: at most once a frame, and only where something changed. Who measures listens to `wall-drawn`.

function invalidate() {
  if (dirty) return;
  dirty = true;
  requestAnimationFrame(() => {
    dirty = false;
    const drawn = wall.draw();
    if (drawn.length) requestAnimationFrame(() => document.dispatchEvent(new CustomEvent("wall-drawn", { detail: drawn })));
  });
}
setInterval(() => { invalidate(); scales(); if (source && performance.now() - lastSign > SILENT_MS) open(); }, 1000);

// Places

function place(rows = Math.max(1, wall.traces.length)) {
  const phone = innerWidth <= 700, labels = phone ? 0 : $("labels").offsetWidth, room = Math.max(300, innerHeight - 210);
  const row = Math.max(phone ? 68 : 20, Math.min(110, Math.floor(room / rows)));
  return wall.layout($("wall").clientWidth - labels, row, phone ? 20 : 0, kept.span);
}
let resizing = 0, wide = 0;
new ResizeObserver(() => {
  if ($("wall").clientWidth === wide) return;
  const first = !wide;
  wide = $("wall").clientWidth; clearTimeout(resizing);
  if (!first) resizing = setTimeout(open, 300);
}).observe($("wall"));

// Labels

const AGES = [[60, 1, "s"], [3600, 60, "min"], [86400, 3600, "h"], [Infinity, 86400, "d"]];
function age(seconds) {
  if (seconds === null) return "no sample yet";
  if (seconds < 0) return seconds < -1 ? `clock ${age(-seconds)} ahead` : "0.0 s";
  const [, unit, name] = AGES.find(([limit]) => seconds < limit);
  return `${(seconds / unit).toFixed(unit === 1 && seconds < 10 ? 1 : 0)} ${name}`;
}

function label() {
  $("labels").replaceChildren(...wall.traces.map((trace, i) => {
    const item = element("li", wall.row < 40 ? "low" : ""), off = element("button", "off", "×");
    item.style.height = wall.row + "px"; item.tabIndex = 0; item.dataset.channel = trace.name;
    item.append(element("span", "name", trace.name), element("span", "word"), element("span", "age"), off, element("span", "counts"));
    off.title = "take off the wall (key x)"; off.tabIndex = -1; off.setAttribute("aria-label", `take ${trace.name} off the wall`);
    off.onclick = () => takeOff(i);
    item.onkeydown = (event) => { if (zoomKey(event.key, (f) => zoomTrace(i, f)) || (event.key === "x" && (takeOff(i), true))) { event.stopPropagation(); event.preventDefault(); } };
    item.addEventListener("wheel", (event) => { event.preventDefault(); zoomTrace(i, event.deltaY < 0 ? 1.25 : 0.8); }, { passive: false });
    return item;
  }));
  say(wallSaid);
}
function takeOff(i) { kept.channels = wall.traces.map((one) => one.name).filter((_, place) => place !== i); if (kept.channels.length) choose(kept.channels); }

function showStates({ states, links, known }) {
  [...$("labels").children].forEach((item, i) => {
    const [word, seconds] = states[i] ?? ["", null], chip = item.querySelector(".word");
    const waiting = word === "LAG" && seconds === null;
    chip.textContent = waiting ? "" : word; chip.className = `word ${word}`; item.querySelector(".age").textContent = waiting ? "waiting" : age(seconds);
    if (wall.traces[i]) wall.traces[i].word = waiting ? "" : word;
  });
  const connecting = links.filter((one) => one.connected === null).map((one) => one.text);
  if (wall.traces.length) say(connecting.join("; "));
  else if (known) say(`No channel matches ${kept.channels.join(", ")}. Choose others with “Channels…”.`);
  else say(["No channels are known yet.", ...links.map((one) => one.text)].join(" ") || "The configuration names no SeedLink server.");
}
function say(text) { wallSaid = text; $("wall-said").textContent = text; $("wall-said").hidden = !text; }

function showAlerts({ sentences }) {
  $("alerts").replaceChildren(...sentences.map((text) => element("p", "", `⚠ ${text}`)));
  $("alerts").hidden = !sentences.length;
}

function scales() {
  [...$("labels").children].forEach((item, i) => {
    const shown = wall.traces[i]?.shown;
    if (shown) item.querySelector(".counts").textContent = `± ${shown >= 100 ? Math.round(shown).toLocaleString("en-GB") : shown.toPrecision(2)} counts`;
  });
}

// Tools and keys

function spans() { for (const one of $("spans").children) one.setAttribute("aria-pressed", String(Number(one.dataset.span) === kept.span)); }
function setSpan(span) { kept.span = span; keep(); spans(); pause(false); open(); }
function zoomTrace(i, factor) { const trace = wall.traces[i]; trace.zoom = factor ? Math.min(1e4, Math.max(1e-2, trace.zoom * factor)) : 1; invalidate(); }
function zoomAll(factor) { if (factor) wall.zoom = Math.min(1e4, Math.max(1e-2, wall.zoom * factor)); else { wall.zoom = 1; for (const one of wall.traces) one.zoom = 1; } invalidate(); }
function zoomKey(key, zoom) { if (key === "+" || key === "=") zoom(1.25); else if (key === "-") zoom(0.8); else if (key === "0") zoom(0); else return false; return true; }
function setCommon(on) { wall.common = kept.common = on; keep(); $("scale").textContent = on ? "one scale for all" : "each its own scale"; invalidate(); }
function pause(on) {
  if (on === Boolean(wall.frozen)) return;
  wall.pause(on); $("pause").setAttribute("aria-pressed", String(on)); $("pause").textContent = on ? "Paused: go on" : "Pause"; invalidate();
}
for (const one of $("spans").children) one.onclick = () => setSpan(Number(one.dataset.span));
$("scale").onclick = () => setCommon(!wall.common);
$("more").onclick = () => zoomAll(1.25);
$("less").onclick = () => zoomAll(0.8);
$("reset").onclick = () => zoomAll(0);
$("pause").onclick = () => pause(!wall.frozen);
$("choose").onclick = () => showChooser();
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || $("channels").open || event.target.closest("input, textarea, select")) return;
  if (event.key === " " && event.target.closest("button, a, summary")) return;
  const span = $("spans").children[Number(event.key) - 1];
  if (event.key >= "1" && span) span.click();
  else if (event.key === " ") pause(!wall.frozen);
  else if (event.key === "m") setCommon(!wall.common);
  else if (event.key === "c") showChooser();
  else if (!zoomKey(event.key, zoomAll)) return;
  event.preventDefault();
});

// Marks: what they are, and where they lead

const canvas = $("traces"), tip = $("tip");
canvas.addEventListener("wheel", (event) => { if (event.shiftKey || event.ctrlKey) { event.preventDefault(); zoomAll((event.deltaY || event.deltaX) < 0 ? 1.25 : 0.8); } }, { passive: false });
canvas.addEventListener("pointermove", (event) => {
  const mark = wall.markAt(event.offsetX, event.offsetY);
  tip.hidden = !mark; canvas.style.cursor = mark ? "pointer" : "";
  if (!mark) return;
  tip.textContent = `${mark.cluster().name}\n${mark.channel}, ${wall.time(mark.onsetMs)}\n${mark.title}`; tip.title = utc(mark.onset);
  tip.style.left = `${Math.min(canvas.offsetLeft + event.offsetX + 12, canvas.offsetLeft + canvas.clientWidth - 200)}px`;
  tip.style.top = `${$("ruler").clientHeight + event.offsetY + 14}px`;
});
canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
canvas.addEventListener("click", (event) => { const mark = wall.markAt(event.offsetX, event.offsetY); if (mark) location.href = `/events/${encodeURIComponent(mark.uid)}`; });

export const marked = () => wall.boxes.map(({ left, right, top, bottom, mark }) => ({ left, right, top, bottom, uid: mark.uid }));

// Which channels

function choose(channels) { kept.channels = channels; keep(); pause(false); open(); }
const written = () => $("pattern").value.toUpperCase().split(/[\s,;]+/).filter(Boolean);
async function showChooser() {
  $("pattern").value = (kept.channels.length ? kept.channels : wall.traces.map((one) => one.name)).join(", ");
  $("find").value = "";
  $("channels").showModal();
  const known = await (await fetch("/live/channels")).json();
  const tick = () => { const now = new Set(written()); for (const box of $("known").querySelectorAll("input")) box.checked = now.has(box.value); check(); };
  $("known").replaceChildren(...known.map(({ name, word, seconds }) => {
    const item = element("li"), row = element("label"), box = element("input");
    box.type = "checkbox"; box.value = name;
    box.onchange = () => { const rest = written().filter((one) => one !== name); $("pattern").value = (box.checked ? [...rest, name] : rest).join(", "); check(); };
    row.append(box, element("span", "", name), element("span", `word ${word}`, word), element("span", "dim", word && word !== "OK" ? age(seconds) : ""));
    item.append(row);
    return item;
  }));
  $("pattern").oninput = tick;
  tick();
}
function check() {
  const wrong = written().find((one) => !PATTERN.test(one));
  $("chosen").textContent = wrong ? `“${wrong}”: expected NET.STA.LOC.CHA, with * and ? for patterns` : written().length > 100 ? "expected at most 100 channels and patterns" : "";
  $("show").disabled = Boolean($("chosen").textContent);
}
$("find").oninput = () => { const text = $("find").value.toUpperCase(); for (const item of $("known").children) item.hidden = !item.textContent.includes(text); };
$("channels").addEventListener("close", () => {
  const said = $("channels").returnValue;
  if (said === "show") choose(written()); else if (said === "first") choose([]);
});

setCommon(kept.common);
spans();
open();
