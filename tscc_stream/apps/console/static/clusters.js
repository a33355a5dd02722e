// The gallery: charts of all clusters, and the families of unknown windows.

import { send } from "./console.js";
import { drawCharts } from "./charts.js";

const about = document.getElementById("families-about");
const open = document.getElementById("families-open");
const done = document.getElementById("families-done");
const wrong = document.getElementById("families-said");

const more = document.getElementById("families-more");
const FIRST = 6;
let all = false;
more.addEventListener("click", () => { all = true; look(); });

function made(tag, attributes, ...inside) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...inside);
  return element;
}

function moment(at) { return made("time", { title: at.utc }, at.local); }

function wave(member) {
  return made("a", { class: "wave", href: `/events/${member.uid}`, title: `${member.channel}, ${member.when.utc}: open this detection` },
    made("img", { src: `/clusters/wave/${member.seq}.svg`, alt: `waveform of ${member.channel} at ${member.when.local}`, loading: "lazy", width: 200, height: 56 }),
    made("span", {}, member.channel, made("br", {}), member.when.short));
}

async function tell(family, what, document) {
  wrong.hidden = true;
  try {
    await send(`/clusters/families/${family.key}/${what}`, document || {});
    await look();
  } catch (error) {
    wrong.textContent = error.message;
    wrong.hidden = false;
  }
}

function others(family) {
  if (family.shown.length <= 3) return [];
  const rest = family.members > family.shown.length ? ` (of ${family.members})` : "";
  return [made("details", {}, made("summary", {}, `${family.shown.length - 3} more members${rest}`), made("div", { class: "waves three" }, ...family.shown.slice(3).map(wave)))];
}

function card(family, number) {
  const where = family.channels.map((channel) => `${channel.name} (${channel.count})`).join(", ");
  const more = family.more_channels ? ` and ${family.more_channels} more channels` : "";
  const word = made("input", { list: "words", maxlength: 80, placeholder: "what is it?", "aria-label": "name of this family", autocomplete: "off" });
  const form = made("form", { class: "does", onsubmit: (event) => { event.preventDefault(); if (word.value.trim()) tell(family, "name", { name: word.value }); else word.focus(); } },
    word, made("button", { type: "submit" }, "Name"), made("button", { type: "button", onclick: () => tell(family, "dismiss") }, "Dismiss"));
  return made("article", { class: "card cluster family", "data-family": family.key },
    made("h2", {}, `Family ${number}`, " ", made("span", { class: "tag" }, `${family.members} windows`)),
    made("p", {}, moment(family.first), " to ", moment(family.last)),
    made("p", {}, where, more),
    made("p", { class: "dim" }, `Nearest known cluster of ${Math.round(100 * family.nearest.share)} %: ${family.nearest.name}, yet too far from it.`),
    made("div", { class: "waves three" }, ...family.shown.slice(0, 3).map(wave)), ...others(family), form);
}

function settled(text, family, label, what) {
  return made("div", {}, made("span", {}, text), made("button", { type: "button", onclick: () => tell(family, what) }, label));
}

function show(found) {
  const families = found.families.filter((family) => !family.dismissed);
  const shown = all ? families.length : Math.min(FIRST, families.length);
  open.replaceChildren(...families.slice(0, shown).map((family, place) => card(family, place + 1)));
  more.hidden = shown === families.length;
  more.textContent = `Show ${families.length - shown} more families`;
  const aside = [
    ...found.named.map((one) => settled(`${one.name}: ${one.members} windows, said ${one.who}, ${one.at.local}`, one, "Take back", "forget-name")),
    ...found.families.filter((family) => family.dismissed).map((family) => settled(`dismissed: ${family.members} windows, ${family.channels.map((c) => c.name).join(", ")}`, family, "Bring back", "bring-back")),
  ];
  done.hidden = !aside.length;
  done.querySelector("summary").textContent = `Named or dismissed (${aside.length})`;
  done.querySelector("div").replaceChildren(...aside);
  const judged = found.judged ? ` ${found.judged} have a name already.` : "";
  if (!found.unknown) about.textContent = "No window of this period is unknown.";
  else if (found.threshold === null) about.textContent = `${found.unknown} unknown windows.${judged} There are no ordinary windows yet to say how alike members of one cluster are.`;
  else about.textContent = `${found.unknown} unknown windows.${judged} Those that are as alike as members of one cluster usually are form a family: mean distance up to ${found.threshold}, which half of the pairs within known clusters do not exceed. ${found.left_over} are in none. A name becomes the verdict on every member, and the next training can use it.`;
  document.body.dataset.families = String(families.length);
}

async function look() {
  const answer = await fetch(`/clusters/families.json${location.search}`);
  const found = await answer.json();
  if (!answer.ok) { about.textContent = found.error || answer.statusText; return; }
  if (found.ready < found.wanted) {
    const bar = made("progress", { max: found.wanted, value: found.ready, "aria-label": "embedded" });
    about.replaceChildren(`Comparing ${found.wanted.toLocaleString("en")} windows: ${found.ready.toLocaleString("en")} are done. `, bar);
    setTimeout(look, 700);
    return;
  }
  show(found);
}

drawCharts(`/clusters/charts.json${location.search}`);
look();
