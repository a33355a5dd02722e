// The list of events: filter in the address, newest first, new ones on top without losing the place.

import { onMessage, send } from "/static/console.js";
import { element, helpWith, judge, onKeys, percent, swatch, tell, timeElement, undo, verdictElement, which, words } from "/static/verdicts.js";

const form = document.getElementById("filter");
const list = document.getElementById("rows");
const more = document.getElementById("more");
const newer = document.getElementById("newer");
const KEYS = ["span", "begin", "end", "name", "channel", "kind", "votes", "membership", "unknown", "unjudged", "quality"];
const POLL_MS = 2000;
const MOST_ROWS = 1500;

let next = null, seq = 0, people = 0, asked = 0;
const rows = new Map(); // uid -> {row, item}
let chosen = null;

// ---- the filter and the address

function query() {
  const made = new URLSearchParams();
  for (const [key, value] of new FormData(form)) if (value !== "") made.set(key, value);
  return made;
}

function readAddress() {
  const from = new URLSearchParams(location.search);
  for (const key of KEYS) {
    const field = form.elements[key];
    if (field.type === "checkbox") field.checked = from.get(key) === "1" || from.get(key) === "true";
    else {
      const value = from.get(key) || "";
      if (field.tagName === "SELECT" && ![...field.options].some((o) => o.value === value)) field.append(new Option(value, value));
      field.value = value;
    }
  }
}

function writeAddress() {
  const said = query();
  history.replaceState(null, "", (said.size ? `/events?${said}` : "/events") + location.hash);
  document.getElementById("filter-count").textContent = said.size ? `(${said.size})` : "";
}

// ---- one row

function strength(row) {
  if (row.kind !== "network") return row.known ? `membership ${percent(row.membership)}` : `nearest: ${row.nearest}`;
  const won = row.votes.find((vote) => vote.name === row.name);
  const all = row.votes.reduce((sum, vote) => sum + vote.count, 0);
  return `${won ? won.count : 0} of ${all} votes${row.final ? "" : ", early notice"}`;
}

function fill(item, row) {
  const link = element("a", "row");
  link.href = `/events/${encodeURIComponent(row.uid)}${location.search}`;
  const what = element("span", "what");
  what.append(swatch(row.colour, row.kind), element("span", "name", row.name));
  const where = element("span", "where", row.channels.length === 1 ? row.channels[0] : `${row.channels.length} channels`);
  where.title = row.channels.join(", ");
  const when = element("span", "when");
  when.append(element("span", "date", row.time.date), timeElement(row.time));
  const flags = element("span", "flags");
  for (const flag of row.quality) flags.append(element("span", "flag", flag));
  if (row.late) flags.append(element("span", "flag", "late"));
  link.append(when, element("span", "kind", row.kind === "network" ? "network" : "detection"), what, where, element("span", "strength", strength(row)), flags, verdictElement(row.verdict));
  item.replaceChildren(link);
  item.dataset.uid = row.uid;
}

function isBefore(a, b) { // newer ones come first
  const x = BigInt(a.time.ns), y = BigInt(b.time.ns);
  return x === y ? a.seq > b.seq : x > y;
}

function put(row) {
  const known = rows.get(row.uid);
  if (known) { known.row = row; fill(known.item, row); return false; }
  const item = element("li");
  fill(item, row);
  let at = list.firstElementChild;
  while (at && isBefore(rows.get(at.dataset.uid).row, row)) at = at.nextElementSibling;
  list.insertBefore(item, at);
  rows.set(row.uid, { row, item });
  return true;
}

function appendOld(row) {
  if (rows.has(row.uid)) return;
  const item = element("li");
  fill(item, row);
  list.append(item);
  rows.set(row.uid, { row, item });
}

// A page that is open for weeks keeps so many; older ones come again when they are asked for.
function forgetOldest() {
  if (rows.size <= MOST_ROWS) return;
  while (rows.size > MOST_ROWS) { rows.delete(list.lastElementChild.dataset.uid); list.lastElementChild.remove(); }
  const last = rows.get(list.lastElementChild.dataset.uid).row;
  next = `${last.time.ns},${last.seq}`;
}

// ---- asking

async function get(address) {
  const answer = await fetch(address);
  const said = await answer.json().catch(() => ({ error: answer.statusText }));
  if (!answer.ok || said.not_there) throw new Error(said.not_there || said.error || answer.statusText);
  return said;
}

function complain(text) {
  const said = document.getElementById("said");
  said.textContent = text || "";
  said.hidden = !text;
}

function showFound(share) {
  document.getElementById("found").textContent = share < 1 ? `${Math.floor(100 * share)} % of the journal can be found; older ones follow` : "";
}

function showPrecision(precision) {
  document.getElementById("precision").hidden = !precision.length;
  document.querySelector("#precision tbody").replaceChildren(...precision.map((one) => {
    const line = element("tr"), name = element("td");
    name.append(swatch(one.colour), " ", one.name);
    line.append(name, element("td", "", `${one.agreed} / ${one.judged}`));
    return line;
  }));
}

function showNames(names) {
  const field = form.elements.name, kept = field.value;
  field.replaceChildren(new Option("any name", ""), ...names.map((name) => new Option(name, name)));
  if (kept && !names.includes(kept)) field.append(new Option(kept, kept));
  field.value = kept;
}

function showEnds() {
  more.hidden = !next || rows.size >= MOST_ROWS;
  const empty = document.getElementById("empty");
  empty.hidden = rows.size > 0;
  empty.textContent = query().size
    ? "No event is like this. Show all, or widen the filter."
    : "No event so far. They come here as soon as the daemon detects something; Live shows whether data arrive.";
}

async function load() {
  const turn = ++asked;
  try {
    const page = await get(`/events/rows?${query()}`);
    if (turn !== asked) return;
    complain();
    list.replaceChildren(); rows.clear(); chosen = null; newer.hidden = true;
    for (const row of page.rows) appendOld(row);
    ({ next, seq, people } = page);
    showNames(page.names); showPrecision(page.precision); showFound(page.found); showEnds();
  } catch (error) { complain(error.message); }
}

async function loadOlder() {
  if (!next) return;
  const asking = query(), turn = asked;
  asking.set("before", next);
  more.disabled = true;
  try {
    const page = await get(`/events/rows?${asking}`);
    if (turn !== asked) return;
    for (const row of page.rows) appendOld(row);
    next = page.next; showFound(page.found); showEnds();
  } catch (error) { complain(error.message); } finally { more.disabled = false; }
}

let following = false, again = false;
async function follow() {
  if (following) { again = true; return; }
  following = true;
  const turn = asked;
  try {
    const asking = query();
    asking.set("seq", seq); asking.set("people", people);
    const page = await get(`/events/since?${asking}`);
    if (turn !== asked) return;
    complain();
    if (page.renamed) { await load(); return; }
    const height = document.documentElement.scrollHeight, away = scrollY > 80 || choosing();
    const added = page.rows.filter((row) => put(row)).length;
    if (away && added) {
      scrollBy(0, document.documentElement.scrollHeight - height);
      count += added;
      newer.hidden = false;
      newer.textContent = `▲ ${count} new`;
    }
    forgetOldest();
    ({ seq, people } = page);
    again ||= page.more;
    for (const [uid, verdict] of Object.entries(page.verdicts)) showVerdict(uid, verdict);
    if (page.precision) showPrecision(page.precision);
    showFound(page.found); showEnds();
  } catch (error) { complain(error.message); } finally {
    following = false;
    if (again) { again = false; soon(); }
  }
}

// What somebody is about to judge stays where they look.
function choosing() {
  const place = rows.get(chosen)?.item.getBoundingClientRect();
  return Boolean(place && place.bottom > 0 && place.top < innerHeight);
}

let count = 0, waiting = 0;
function soon() { if (!waiting) waiting = setTimeout(() => { waiting = 0; follow(); }, 300); }
newer.onclick = () => scrollTo({ top: 0 });
addEventListener("scroll", () => { if (scrollY < 80) { count = 0; newer.hidden = true; } }, { passive: true });
onMessage((message) => { if (/^(detection|network)\./.test(message.topic)) soon(); });
setInterval(() => { if (!document.hidden) follow(); }, POLL_MS);

// ---- verdicts

function showVerdict(uid, verdict) {
  const known = rows.get(uid);
  if (!known) return;
  known.row.verdict = verdict;
  fill(known.item, known.row);
}

async function say(work, text, takeBack) {
  try {
    const answer = await work;
    for (const [uid, verdict] of Object.entries(answer.verdicts)) showVerdict(uid, verdict);
    showPrecision(answer.precision);
    tell(text, takeBack);
  } catch (error) {
    for (const [uid, verdict] of Object.entries(error.said?.verdicts ?? {})) showVerdict(uid, verdict);
    if (error.status === 409) tell(error.message, null, 30);
    else complain(error.message);
  }
}

const takeBack = (row) => say(undo([row]), `The verdict on ${which([row])} is taken back.`);
const give = (row, name) => say(judge([row], name), `Verdict on ${which([row])}: ${name}.`, () => takeBack(row));

// ---- keys

function choose(item) {
  if (!item) return;
  list.querySelector(".chosen")?.classList.remove("chosen");
  item.classList.add("chosen");
  item.firstElementChild.focus({ preventScroll: true });
  item.scrollIntoView({ block: "nearest" });
  chosen = item.dataset.uid;
}
list.addEventListener("focusin", (event) => {
  const item = event.target.closest("li");
  if (item && item.dataset.uid !== chosen) choose(item);
});

onKeys((key) => {
  const item = chosen && rows.get(chosen)?.item;
  if (key === "j" || key === "k") {
    const beside = key === "j" ? item?.nextElementSibling : item?.previousElementSibling;
    if (key === "j" && item && !beside) loadOlder().then(() => choose(item.nextElementSibling));
    else choose(beside || item || list.firstElementChild);
    return true;
  }
  if (!item) return false;
  const row = rows.get(chosen).row;
  if (key === "c") give(row, row.name);
  else if (key === "u") give(row, "unknown");
  else if (key === "z") takeBack(row);
  else if (key === "o") location.href = item.firstElementChild.href;
  else if (words.has(key)) give(row, words.get(key).name);
  else return false;
  return true;
});
helpWith([["j k", "next older, next newer"], ["Enter o", "open the event"], ["c", "confirm the name it has"], ["u", "it is unknown"], ["z", "undo the last verdict"], ["?", "this help"]]);

// ---- alerts

const tabs = { events: document.getElementById("tab-events"), alerts: document.getElementById("tab-alerts") };
function showTab(which) {
  for (const [name, tab] of Object.entries(tabs)) {
    tab.setAttribute("aria-selected", name === which);
    document.getElementById(name).hidden = name !== which;
  }
  document.getElementById("filter-button").hidden = which !== "events";
  if (which === "alerts") loadAlerts();
}
tabs.events.onclick = () => { history.replaceState(null, "", location.pathname + location.search); showTab("events"); };
tabs.alerts.onclick = () => { location.hash = "alerts"; showTab("alerts"); };

function alertItem(alert) {
  const item = element("li", `alert ${alert.answer ? "answered" : "open"}`);
  const head = element("div", "alert-head");
  head.append(element("span", `severity ${alert.severity}`, alert.severity), element("strong", "", alert.title), timeElement(alert.time, true));
  item.append(head);
  if (alert.advice) item.append(element("p", "", `What to do: ${alert.advice}`));
  for (const sentence of alert.sentences) item.append(element("p", "dim", sentence));
  const sent = element("p", "dim", alert.deliveries.map((one) => `${one.action}: ${one.state} (${one.attempts} ${one.attempts === 1 ? "try" : "tries"})`).join(" · ") || "no action was asked to deliver it");
  item.append(sent);
  const foot = element("div", "alert-foot");
  if (alert.event) {
    const link = element("a", "", "Show the event");
    link.href = `/events/${encodeURIComponent(alert.event)}`;
    foot.append(link);
  }
  if (alert.answer) foot.append(element("span", "judged agrees", `✓ acknowledged by ${alert.answer.who} ${alert.answer.time.date} ${alert.answer.time.clock}${alert.answer.note ? ": " + alert.answer.note : ""}`));
  else {
    const note = element("input");
    note.maxLength = 500; note.placeholder = "what was done (may be empty)"; note.setAttribute("aria-label", "note");
    const button = element("button", "acknowledge", "Acknowledge");
    button.onclick = async () => {
      button.disabled = true;
      try { await send("/events/alerts/answer", { alert: alert.id, note: note.value }); await loadAlerts(); }
      catch (error) { complainOfAlerts(error.message); button.disabled = false; }
    };
    foot.append(note, button);
  }
  item.append(foot);
  return item;
}

function complainOfAlerts(text) {
  const said = document.getElementById("alerts-said");
  said.textContent = text || ""; said.hidden = !text;
}

async function loadAlerts() {
  try {
    const said = await get("/events/alerts");
    complainOfAlerts();
    const open = said.alerts.filter((alert) => !alert.answer).length;
    document.getElementById("open-alerts").textContent = open ? `(${open})` : "";
    const shown = document.getElementById("alerts");
    if (!shown.contains(document.activeElement) || document.activeElement.tagName !== "INPUT") {
      document.getElementById("alert-rows").replaceChildren(...said.alerts.map(alertItem));
    }
    const empty = document.getElementById("alerts-empty");
    empty.hidden = said.alerts.length > 0; empty.textContent = said.reason;
  } catch (error) { complainOfAlerts(error.message); }
}
setInterval(() => { if (!document.hidden) loadAlerts(); }, 5000);

// ---- begin

const filterButton = document.getElementById("filter-button");
filterButton.onclick = () => {
  const open = form.classList.toggle("open");
  filterButton.setAttribute("aria-expanded", open);
};
let typed = 0;
const changed = () => { writeAddress(); load(); };
form.addEventListener("input", (event) => {
  clearTimeout(typed);
  typed = setTimeout(changed, event.target.type === "text" || event.target.type === "number" ? 350 : 0);
});
form.addEventListener("submit", (event) => { event.preventDefault(); changed(); });
form.addEventListener("reset", () => setTimeout(changed));
more.onclick = loadOlder;
new IntersectionObserver((seen) => { if (seen.some((one) => one.isIntersecting)) loadOlder(); }).observe(more);
addEventListener("pageshow", (event) => { if (event.persisted) load(); });
readAddress();
writeAddress();
load();
const showTabOfAddress = () => showTab(location.hash === "#alerts" ? "alerts" : "events");
addEventListener("hashchange", showTabOfAddress);
showTabOfAddress();
loadAlerts();
