// Health: asked every five seconds, drawn anew. Lines of the last hour are SVG paths.

const MARKS = { OK: "✓", LOOK: "!", BAD: "✗", UNKNOWN: "?" };
const WORSE = ["BAD", "LOOK", "UNKNOWN", "OK"];
const EVERY_MS = 5000;
const body = (id) => document.querySelector(`#${id} tbody`);

function made(tag, attributes, ...inside) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...inside);
  return element;
}

function span(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.001) return `${(1e6 * seconds).toFixed(0)} µs`;
  if (seconds < 0.0995) return `${(1e3 * seconds).toFixed(1)} ms`;
  if (seconds < 1) return `${(1e3 * seconds).toFixed(0)} ms`;
  if (seconds < 90) return `${seconds.toFixed(1)} s`;
  if (seconds < 5400) return `${(seconds / 60).toFixed(0)} min`;
  if (seconds < 172800) return `${(seconds / 3600).toFixed(1)} h`;
  return `${(seconds / 86400).toFixed(0)} days`;
}

function plain(value, digits = 0) { return value === null || value === undefined ? "–" : value.toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: digits }); }

// On a phone rows stand below one another, and each number says itself what it is.
function label(id) {
  const heads = [...document.querySelectorAll(`#${id} th`)].map((one) => one.textContent);
  for (const row of body(id).rows) [...row.cells].forEach((one, place) => { one.dataset.label = heads[place]; });
}

function cell(text, number = false) { return made("td", number ? { class: "number" } : {}, text); }

function verdict(state) {
  const heading = document.getElementById("verdict");
  const wrong = state.parts.filter((part) => part.word === state.word && part.word !== "OK").map((part) => part.name);
  const words = { OK: "All is well", LOOK: `Look at: ${wrong.join(", ")}`, BAD: `Something is wrong: ${wrong.join(", ")}`, UNKNOWN: `Not known: ${wrong.join(", ")}` };
  heading.className = state.word;
  heading.querySelector(".mark").textContent = MARKS[state.word];
  heading.querySelector(".text").textContent = words[state.word];
  document.getElementById("at").textContent = `looked at ${state.at}`;
  document.body.dataset.word = state.word;
}

function parts(state) {
  const worstFirst = state.parts.toSorted((a, b) => WORSE.indexOf(a.word) - WORSE.indexOf(b.word));
  document.getElementById("parts").replaceChildren(...worstFirst.map((part) => {
    const inside = [made("span", { class: "mark", "aria-label": part.word }, MARKS[part.word]), made("b", {}, part.name), made("p", { class: "dim" }, part.what)];
    if (part.do) inside.push(made("p", { class: "do" }, part.do));
    return made("article", { class: `part ${part.word}`, "data-part": part.name }, ...inside);
  }));
}

function spark(svg, minutes, values) {
  const known = values.filter((value) => value !== null);
  const most = Math.max(...known, 1e-9);
  let path = "";
  let pen = "M";
  minutes.forEach((minute, place) => {
    if (values[place] === null) { pen = "M"; return; }
    path += `${pen}${(300 * (1 - minute / 60)).toFixed(1)} ${(57 - 54 * values[place] / most).toFixed(1)}`;
    pen = "L";
  });
  const line = document.createElementNS("http://www.w3.org/2000/svg", "path");
  line.setAttribute("d", path || "M0 0");
  svg.replaceChildren(line);
}

function sparks(history) {
  const shown = { triggers_per_minute: (v) => plain(v, 1), latency_p50: span, latency_p99: span, front: (v) => plain(v) };
  for (const svg of document.querySelectorAll("[data-spark]")) {
    const name = svg.dataset.spark;
    spark(svg, history.minutes, history[name]);
    const known = history[name].filter((value) => value !== null);
    document.querySelector(`[data-now="${name}"]`).textContent = shown[name](history[name].at(-1));
    svg.nextElementSibling.textContent = known.length ? `at most ${shown[name](Math.max(...known))} in the last hour` : "not known yet";
  }
}

function sensors(state) {
  const count = document.getElementById("sensors-count");
  const unwell = state.sensors.filter((one) => one.word !== "OK").length;
  count.textContent = state.sensors.length ? `${unwell} of ${state.all_sensors} are not OK${state.fresh ? "" : ", as of the daemon's last answer"}` : "the daemon has not said yet";
  body("sensors").replaceChildren(...state.sensors.map((one) => made("tr", {},
    made("td", {}, made("span", { class: `word ${one.word}` }, one.word)), cell(one.name), cell(span(one.age_s) + " old", true), cell(plain(one.rate_hz, 1), true),
    cell(plain(one.gaps), true), cell(one.lost_s ? span(one.lost_s) : "0", true), cell(plain(one.flat), true), cell(plain(one.clipped), true))));
  label("sensors");
}

function numbers(state) {
  const quantiles = (title, found) => made("tr", {}, made("th", {}, title), ...["p50", "p95", "p99"].map((name) => cell(span(found[name]), true)));
  body("latency").replaceChildren(quantiles("last minute or two", state.latency.lately), quantiles("since the start", state.latency.all));
  body("stages").replaceChildren(...state.stages.map((one) => made("tr", {}, cell(one.stage), cell(plain(one.calls, 1), true), cell(one.busy === null ? "–" : `${plain(100 * one.busy, 1)} %`, true), cell(span(one.mean), true), cell(span(one.p95), true))));
  const told = state.counters;
  document.getElementById("queues").textContent = told.samples === undefined ? "" : `Queues: ${plain(told.front)} of 64 reads in front, ${plain(told.back)} of 256 lists behind. ${plain(told.samples)} samples a second come in.`;
  document.getElementById("drift").replaceChildren(...state.drift.map((one) => {
    const over = one.score !== null && one.score > 0.2;
    const bar = made("i", {});
    bar.style.width = `${100 * (one.score || 0)}%`;
    return made("div", { class: over ? "score over" : "score" }, made("span", {}, one.name), made("div", {}, bar), made("span", {}, one.score === null ? "–" : `${one.score.toFixed(2)}${over ? " !" : ""}`));
  }));
  const kept = state.retention;
  document.getElementById("retention").replaceChildren(made("p", {}, `${plain(kept.messages)} messages in ${kept.journal}, ${plain(100 * kept.share, 1)} % of the ${kept.max_gib} GiB that they may take; the oldest go after ${kept.days} days. ${kept.free} of the disk are free (${plain(100 * kept.free_share)} %).`));
}

function shadow(found) {
  const section = document.getElementById("shadow");
  section.hidden = !found;
  if (!found) return;
  section.querySelector("p").textContent = found.windows ? `${found.name}: of ${plain(found.windows)} windows that both classified, ${plain(100 * found.agree)} % have the same cluster number; ${plain(found.skipped)} were skipped for want of time.` : `${found.name}: no window yet.`;
  body("shadow").replaceChildren(...found.pairs.map((one) => made("tr", {}, cell(one.live), cell(one.shadow), cell(plain(one.count), true))));
}

async function look() {
  try {
    const answer = await fetch("/health/state.json");
    const state = await answer.json();
    if (!answer.ok) throw new Error(state.error || answer.statusText);
    verdict(state); parts(state); sparks(state.history); sensors(state); numbers(state); shadow(state.shadow);
  } catch (error) {
    const heading = document.getElementById("verdict");
    heading.className = "BAD";
    heading.querySelector(".mark").textContent = MARKS.BAD;
    heading.querySelector(".text").textContent = `The console does not answer: ${error.message}`;
  }
}

let period = "24 h";
async function gaps() {
  const about = document.getElementById("gaps-about");
  const answer = await fetch(`/health/gaps.json?period=${encodeURIComponent(period)}`).catch(() => null);
  if (!answer) return;
  const found = await answer.json();
  if (!answer.ok) { about.textContent = found.error || answer.statusText; return; }
  about.textContent = found.rows.length ? `Of data from ${found.from} to ${found.to}. Plain: data are missing; hatched: they are there, but of no use (flat, invalid, a new rate, a wrong clock).${found.more ? ` ${found.more} more rows are not shown; tscc-stream gaps has them all.` : ""}` : `No gap in the data from ${found.from} to ${found.to}.`;
  const lines = Object.entries(found.lines).map(([channel, stretches]) => made("div", { class: "line" }, made("span", {}, channel), made("div", {}, ...stretches.map((one) => {
    const row = found.rows.find((each) => each.cause === one.cause);
    const mark = made("i", { title: one.cause, class: row && row.lost ? "" : "there" });
    mark.style.left = `${100 * one.begin}%`;
    mark.style.width = `${100 * (one.end - one.begin)}%`;
    return mark;
  }))));
  if (lines.length) lines.push(made("div", { class: "scale" }, made("span", {}, found.from), made("span", {}, found.to)));
  document.getElementById("timeline").replaceChildren(...lines);
  document.getElementById("gaps").hidden = !found.rows.length;
  body("gaps").replaceChildren(...found.rows.map((row) => made("tr", {}, cell(row.channel), cell(row.cause), cell(plain(row.gaps), true), cell(span(row.seconds), true), cell(row.lasts ? "lasts" : ""))));
  label("gaps");
}

for (const button of document.querySelectorAll("[data-period]")) {
  button.addEventListener("click", () => {
    period = button.dataset.period;
    for (const each of document.querySelectorAll("[data-period]")) each.setAttribute("aria-pressed", String(each === button));
    gaps();
  });
}

look(); gaps();
setInterval(look, EVERY_MS);
setInterval(gaps, 6 * EVERY_MS);
