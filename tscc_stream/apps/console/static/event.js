// One event: windows, spectrograms, what the model and people say of it, and detections like it.

import "/static/console.js";
import { drawAxis, drawScale, drawSpectrogram, drawThumbnail, drawTrace, amount } from "/static/event_draw.js";
import { agreedElement, element, helpWith, judge, onKeys, percent, swatch, tell, timeElement, undo, verdictElement, vocabulary, which, words } from "/static/verdicts.js";

const at = (id) => document.getElementById(id);
const uid = at("event").dataset.uid;
const filter = location.search;
const POLL_MS = 2000;
let shown = null, tiles = [];
const picked = new Set();

async function get(address) {
  const answer = await fetch(address);
  const said = await answer.json().catch(() => ({ error: answer.statusText }));
  if (!answer.ok || said.not_there) throw new Error(said.not_there || said.error || answer.statusText);
  return said;
}
function complain(text) { at("said").textContent = text || ""; at("said").hidden = !text; }
const addressOf = (one) => `/events/${encodeURIComponent(one)}${filter}`;
const of = (what, path) => `/events/${encodeURIComponent(what)}/${path}`;

// ---- head

function showHead(event) {
  at("name").replaceChildren(swatch(event.colour, event.kind), element("span", "", event.name));
  document.title = `${event.name} ${event.time.clock} · tscc-stream`;
  at("when").replaceChildren(timeElement(event.time, true), element("span", "dim", `${event.time.zone} · ${event.time.utc}`));
  const parts = [event.kind === "network" ? `network event on ${event.channels.length} channels${event.final ? "" : " (early notice)"}` : `detection on ${event.channels[0]}`];
  if (event.kind !== "network" && !event.known) parts.push(`unknown; nearest is ${event.nearest}`);
  if (event.duration_s !== null) parts.push(`${event.duration_s.toFixed(2)} s long`);
  if (event.peak_ratio) parts.push(`STA/LTA up to ${event.peak_ratio.toFixed(1)}`);
  if (event.late) parts.push("classified late");
  if (event.model) parts.push(`model ${event.model.name} ${event.model.version}`);
  at("what").replaceChildren(parts.join(" · "));
  for (const flag of event.quality) at("what").append(" ", element("span", "flag", flag));
}

// ---- windows

function spanOf(traces) {
  return [Math.min(...traces.map((one) => one.start_s)), Math.max(...traces.map((one) => one.start_s + one.samples.length * 3 / 16 / one.rate_hz))];
}

function draw() {
  const traces = shown.traces, box = at("traces"), pictures = at("pictures").checked;
  box.replaceChildren();
  if (!traces.length) { box.append(element("p", "dim", "No window of it is kept (any more).")); at("scale").hidden = true; return; }
  const span = spanOf(traces);
  for (const trace of traces) {
    const figure = element("figure"), head = element("figcaption");
    head.append(element("strong", "", trace.channel), element("span", "dim", `peak ${amount(trace.peak, trace.unit)}`));
    for (const flag of trace.quality) head.append(element("span", "flag", flag));
    const member = shown.members.find((one) => one.uid === trace.uid);
    if (member) {
      const link = element("a", "", member.name);
      link.href = addressOf(member.uid);
      head.append(swatch(member.colour), link);
    }
    const wave = element("canvas"), picture = element("canvas");
    wave.setAttribute("role", "img"); wave.setAttribute("aria-label", `waveform of ${trace.channel}`);
    picture.setAttribute("role", "img"); picture.setAttribute("aria-label", `spectrogram of ${trace.channel}, 0 to ${trace.spectrogram.step_hz * (trace.spectrogram.rows - 1)} Hz`);
    figure.append(head, wave);
    if (pictures) figure.append(picture);
    box.append(figure);
    drawTrace(wave, trace, span);
    if (pictures) drawSpectrogram(picture, trace, span);
  }
  const figure = element("figure"), axis = element("canvas");
  figure.append(axis); box.append(figure);
  drawAxis(axis, span, `seconds after ${shown.event.time.clock}`);
  showScale(traces, pictures);
}

function showScale(traces, pictures) {
  const scale = at("scale"), event = shown.event;
  scale.hidden = false;
  const lines = [element("span", "", "│ onset, ┆ end of the trigger. Band-passed as the model's windows are.")];
  const left = event.kind === "network" ? event.channels.length - new Set(traces.map((one) => one.uid)).size : 0;
  if (left > 0) lines.push(element("span", "", `${left} of ${event.channels.length} channels have no window here.`));
  for (const unit of pictures ? new Set(traces.map((one) => one.unit)) : []) {
    const picture = traces.find((one) => one.unit === unit).spectrogram, bar = element("canvas", "bar");
    bar.width = 120; bar.height = 12;
    drawScale(bar);
    const line = element("span", "bar-line");
    const of = unit === "normalised" ? "1/Hz" : unit === "counts" ? "1 count²/Hz" : "1 (m/s)²/Hz";
    line.append(`${(picture.top_db - picture.range_db).toFixed(0)}`, bar, `${picture.top_db.toFixed(0)} dB re ${of}`);
    lines.push(line);
  }
  scale.replaceChildren(...lines);
}

// ---- what is said of it

function bar(name, colour, share, text) {
  const made = element("div", "bar-row"), track = element("div", "track"), filled = element("div", "filled");
  filled.style.width = `${100 * Math.min(1, share || 0)}%`; filled.style.background = colour;
  track.append(filled);
  made.append(element("span", "bar-name", name), track, element("span", "number", text));
  return made;
}

function showModel(event) {
  at("membership-card").hidden = event.kind === "network";
  at("vote-card").hidden = event.kind !== "network";
  if (event.kind === "network") {
    const all = event.votes.reduce((sum, one) => sum + one.count, 0);
    at("votes").replaceChildren(...event.votes.map((one) => bar(one.name, one.colour, one.count / all, `${one.count} of ${all}`)));
    at("voters").replaceChildren(...shown.members.map((one) => {
      const line = element("li"), link = element("a", "", one.channels[0]);
      link.href = addressOf(one.uid);
      line.append(swatch(one.colour), link, element("span", "dim", `${one.name}${one.known ? " " + percent(one.membership) : ""}`));
      return line;
    }));
    return;
  }
  at("memberships").replaceChildren(...event.memberships.map((one) => bar(one.name, one.colour, one.share, one.share === null ? "–" : one.share.toFixed(3))));
  const known = event.known ? "known: it is like what the model was calibrated with" : "unknown: farther from every cluster than ordinary windows";
  at("p-value").textContent = event.p_value === null ? "p-value: the model is not calibrated" : `p-value ${event.p_value.toFixed(3)} · ${known}`;
}

function showVerdict(verdict, history) {
  const event = shown.event;
  event.verdict = verdict;
  at("verdict").replaceChildren(verdictElement(verdict));
  if (verdict) at("verdict").append(element("span", "dim", `by ${verdict.who}, ${verdict.time.date} ${verdict.time.clock.slice(0, 8)}`));
  at("undo").disabled = !verdict;
  at("confirm").querySelector("span").textContent = `Confirm “${event.name}”`;
  for (const button of at("legend").children) button.setAttribute("aria-pressed", verdict?.name === button.dataset.name);
  if (!history) return;
  at("history-card").hidden = !history.length;
  at("history-count").textContent = `(${history.length})`;
  at("history").replaceChildren(...history.map((one) => {
    const line = element("li");
    const what = one.withdrawn ? "took the verdict back" : one.undo ? `went back to “${one.name}”` : one.agrees ? `confirmed “${one.name}”` : `corrected to “${one.name}”`;
    line.append(timeElement(one.time, true), element("span", "", `${one.who} ${what}`));
    return line;
  }));
}

function showPrecision(precision) {
  at("precision-card").hidden = !precision.length;
  at("precision").replaceChildren(...precision.map(agreedElement));
}

function showAround(said) {
  at("newer").disabled = !said.newer; at("older").disabled = !said.older;
  at("newer").onclick = () => { location.href = addressOf(said.newer); };
  at("older").onclick = () => { location.href = addressOf(said.older); };
  const lines = said.neighbours.map((one) => {
    const line = element("li"), link = element("a", "", one.name), seconds = Number(BigInt(one.time.ns) - BigInt(shown.event.time.ns)) / 1e9;
    link.href = addressOf(one.uid);
    line.append(element("span", "number", `${Math.abs(seconds) < 0.05 ? "" : seconds > 0 ? "+" : "−"}${Math.abs(seconds) < 600 ? Math.abs(seconds).toFixed(1) + " s" : (Math.abs(seconds) / 60).toFixed(0) + " min"}`),
      swatch(one.colour, one.kind), link, element("span", "dim", one.channels.length === 1 ? one.channels[0] : `${one.channels.length} channels`));
    return line;
  });
  if (said.network && !said.neighbours.some((one) => one.uid === said.network)) {
    const line = element("li"), link = element("a", "", "its network event");
    link.href = addressOf(said.network);
    line.append(link);
    lines.unshift(line);
  }
  at("neighbours").replaceChildren(...lines);
}

async function load() {
  try {
    shown = await get(`${of(uid, "all")}${filter}`);
    complain();
    showHead(shown.event); draw(); showModel(shown.event); showVerdict(shown.event.verdict, shown.history);
    showPrecision(shown.precision); showAround(shown);
    people = shown.people;
    at("find").disabled = !target();
  } catch (error) { complain(error.message); }
}

// ---- verdicts

async function say(work, text, takeBack) {
  try {
    const answer = await work;
    take(answer.verdicts);
    showPrecision(answer.precision);
    tell(text, takeBack);
    if (uid in answer.verdicts) showVerdict(answer.verdicts[uid], (await get(`${of(uid, "all")}${filter}`)).history);
  } catch (error) {
    if (error.status !== 409) { complain(error.message); return; }
    take(error.said.verdicts);
    await load();
    tell(error.message, null, 30);
  }
}

function take(verdicts) {
  for (const one of tiles) if (one.row.uid in verdicts) { one.row.verdict = verdicts[one.row.uid]; one.show(); }
  if (shown && uid in verdicts) showVerdict(verdicts[uid]);
}

const rowsOf = (uids) => uids.map((one) => (one === uid ? shown.event : tiles.find((tile) => tile.row.uid === one).row));
const takeBackOf = (rows) => say(undo(rows), `The verdict on ${which(rows)} is taken back.`);
const takeBack = (uids) => takeBackOf(rowsOf(uids));
function give(uids, name) {
  const rows = rowsOf(uids);
  return say(judge(rows, name), `Verdict on ${which(rows)}: ${name}.`, () => takeBackOf(rows));
}

let people = 0;
async function follow() {
  if (!shown || document.hidden) return;
  try {
    const said = await get(`/events/since?seq=9007199254740991&people=${people}`);
    people = said.people;
    if (said.renamed) { await load(); return; }
    take(said.verdicts);
    if (uid in said.verdicts) await load();
    else if (said.precision) showPrecision(said.precision);
  } catch (error) { complain(error.message); }
}
setInterval(follow, POLL_MS);

for (const [key, term] of [...words, ...vocabulary.slice(words.size).map((term) => ["", term])]) {
  const button = element("button");
  button.dataset.name = term.name;
  button.append(key ? element("kbd", "", key) : "", swatch(term.colour), element("span", "", term.name));
  button.onclick = () => give([uid], term.name);
  at("legend").append(button);
}
at("confirm").onclick = () => give([uid], shown.event.name);
at("unknown").onclick = () => give([uid], "unknown");
at("correct").onclick = () => at("legend").scrollIntoView({ behavior: "smooth" });
at("undo").onclick = () => takeBack([uid]);

// ---- similar ones

function target() {
  if (!shown) return null;
  if (shown.event.kind !== "network") return uid;
  return [...shown.members].sort((a, b) => (b.peak_ratio || 0) - (a.peak_ratio || 0))[0]?.uid || null;
}

function tile(row) {
  const made = element("article", "tile card"), box = element("label", "tick"), tick = element("input");
  tick.type = "checkbox"; tick.checked = picked.has(row.uid);
  tick.setAttribute("aria-label", `select ${row.channels[0]} ${row.time.clock}`);
  tick.onchange = () => { if (tick.checked) picked.add(row.uid); else picked.delete(row.uid); showBulk(); };
  const canvas = element("canvas"), link = element("a", "picture");
  link.href = addressOf(row.uid); link.append(canvas);
  const verdict = element("div", "tile-verdict"), name = element("span", "name"), foot = element("div", "dim");
  name.append(swatch(row.colour), row.name);
  box.append(tick, name);
  foot.append(`distance ${row.distance.toPrecision(3)} · ${row.channels[0]} · `, timeElement(row.time, true));
  made.append(box, link, foot, verdict);
  made.dataset.uid = row.uid;
  const show = () => verdict.replaceChildren(verdictElement(row.verdict));
  show();
  return { row, made, canvas, tick, show };
}

function showBulk() {
  at("bulk").hidden = !tiles.length;
  at("bulk-count").textContent = `${picked.size} of ${tiles.length} selected`;
  at("bulk-give").disabled = !picked.size;
}

async function find() {
  const asked = target();
  if (!asked) return;
  at("similar-said").textContent = "looking …";
  try {
    const said = await get(of(asked, "similar"));
    tiles = said.similar.map(tile);
    picked.clear();
    at("similar").replaceChildren(...tiles.map((one) => one.made));
    for (const one of tiles) drawThumbnail(one.canvas, one.row.thumbnail);
    showBulk();
    const through = said.share < 1 ? `; ${Math.floor(100 * said.share)} % of what can be searched is ready, newest first` : "";
    at("similar-said").textContent = said.reason || `the nearest among ${said.searched.toLocaleString("en-GB")} windows in the model's own space${through}`;
  } catch (error) { at("similar-said").textContent = ""; complain(error.message); }
}

at("find").onclick = find;
at("bulk-name").append(...["unknown", ...vocabulary.map((term) => term.name)].map((name) => new Option(name, name)));
at("bulk-give").onclick = () => give([...picked], at("bulk-name").value);
const pickAll = (all) => { picked.clear(); for (const one of tiles) { one.tick.checked = all; if (all) picked.add(one.row.uid); } showBulk(); };
at("bulk-all").onclick = () => pickAll(true);
at("bulk-none").onclick = () => pickAll(false);

// ---- keys

onKeys((key) => {
  if (!shown) return false;
  if (key === "c" || key === "Enter") at("confirm").click();
  else if (key === "u") at("unknown").click();
  else if (key === "z") at("undo").click();
  else if (key === "j") at("older").click();
  else if (key === "k") at("newer").click();
  else if (key === "s") find();
  else if (key === "Escape") location.href = at("back").href;
  else if (words.has(key)) give([uid], words.get(key).name);
  else return false;
  return true;
});
helpWith([["c Enter", "confirm the name it has"], ["u", "it is unknown"], ["z", "undo the last verdict"], ["j k", "next older, next newer"], ["s", "find similar ones"], ["Esc", "back to the list"], ["?", "this help"]]);

at("back").href = `/events${filter}`;
at("pictures").onchange = draw;
let width = innerWidth;
addEventListener("resize", () => { if (shown && innerWidth !== width) { width = innerWidth; draw(); for (const one of tiles) drawThumbnail(one.canvas, one.row.thumbnail); } });
load();
