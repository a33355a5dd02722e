// Keys of the site's words, giving a verdict, and what a verdict looks like. Shared by the list and the single event.

import { send } from "/static/console.js";

// c, u, z, j, k, s, o and ? are taken.
const LETTERS = "1234567890abdefghilmnpqrtvwxy";
export const vocabulary = JSON.parse(document.getElementById("vocabulary").textContent);
export const words = new Map(vocabulary.slice(0, LETTERS.length).map((term, i) => [LETTERS[i], term]));

export function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined && text !== null) made.textContent = text;
  return made;
}

export function swatch(colour, kind) {
  const made = element("span", kind === "network" ? "swatch network" : "swatch");
  made.style.background = colour;
  return made;
}

export function timeElement(time, withDate) {
  const made = element("time", "", withDate ? `${time.date} ${time.clock}` : time.clock);
  made.title = `${time.utc} · local time is ${time.zone}`;
  return made;
}

// A verdict in words and a shape: never the colour alone.
export function verdictElement(verdict) {
  if (!verdict) return element("span", "judged none", "not judged");
  const made = element("span", verdict.agrees ? "judged agrees" : "judged differs");
  made.append(element("span", "mark", verdict.agrees ? "✓" : "✗"), verdict.agrees ? "confirmed" : verdict.name);
  made.title = `${verdict.agrees ? "confirmed" : "corrected to " + verdict.name} by ${verdict.who}, ${verdict.time.date} ${verdict.time.clock}`;
  return made;
}

// One after the other, each with the verdicts that the page shows then: what somebody else said meanwhile is not overwritten.
let turn = Promise.resolve();
function say(rows, what) {
  const done = turn.then(async () => {
    const seen = Object.fromEntries(rows.map((row) => [row.uid, row.verdict?.time.ns ?? ""]));
    const take = (verdicts) => { for (const row of rows) if (row.uid in verdicts) row.verdict = verdicts[row.uid]; };
    try {
      const answer = await send("/events/verdict", { uids: rows.map((row) => row.uid), seen, ...what });
      take(answer.verdicts);
      return answer;
    } catch (error) { take(error.said?.verdicts ?? {}); throw error; }
  });
  turn = done.catch(() => {});
  return done;
}
export const judge = (rows, name) => say(rows, { action: "judge", name });
export const undo = (rows) => say(rows, { action: "undo" });

// Which ones a sentence is about: time and channel of one, the number of several.
export function which(rows) {
  if (rows.length !== 1) return `${rows.length} events`;
  const [{ time, channels }] = rows;
  return `${time.clock.slice(0, 8)} ${channels.length === 1 ? channels[0] : `on ${channels.length} channels`}`;
}

const toast = document.getElementById("toast");
let toastEnds = 0;
export function tell(text, takeBack, seconds = 8) {
  toast.replaceChildren(element("span", "", text));
  if (takeBack) {
    const button = element("button", "", "Undo");
    button.onclick = () => { toast.hidden = true; takeBack(); };
    toast.append(button);
  }
  toast.hidden = false;
  clearTimeout(toastEnds);
  toastEnds = setTimeout(() => { toast.hidden = true; }, 1000 * seconds);
}

const help = document.getElementById("help");
export function helpWith(keys) {
  const list = element("dl");
  for (const [key, meaning] of [...keys, ...[...words].map(([key, term]) => [key, term.name])]) {
    list.append(element("dt", "", key), element("dd", "", meaning));
  }
  const close = element("button", "", "Close");
  close.onclick = () => help.close();
  help.replaceChildren(element("h2", "", "Keys"), list, close);
  document.getElementById("help-button").onclick = toggleHelp;
}
export function toggleHelp() { if (help.open) help.close(); else help.showModal(); }

// handle(key) says whether the key meant something. Keys go to fields that are being filled in, not here.
export function onKeys(handle) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
    if (event.key === "?") { event.preventDefault(); toggleHelp(); return; }
    const at = event.target;
    const typing = at.tagName === "TEXTAREA" || at.tagName === "SELECT" || (at.tagName === "INPUT" && at.type !== "checkbox");
    if (typing || help.open) return;
    if (event.key === "Enter" && at.closest("button, a, summary")) return;
    if (handle(event.key.length === 1 ? event.key.toLowerCase() : event.key)) event.preventDefault();
  });
}

export function percent(share) { return share === null || share === undefined ? "–" : `${(100 * share).toFixed(share > 0.995 || share < 0.1 ? 1 : 0)} %`; }

export function agreedElement(one) {
  const made = element("li");
  made.append(swatch(one.colour), element("span", "", one.name), element("span", "count", `${one.agreed} of ${one.judged} agreed`));
  return made;
}
