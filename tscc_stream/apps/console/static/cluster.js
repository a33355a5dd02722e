// One cluster: its charts, and the form that names it.

import { onMessage, send } from "./console.js";
import { drawCharts } from "./charts.js";

const form = document.getElementById("name");
const said = document.getElementById("said");
const cluster = form.dataset.cluster;
let waiting = null;

function say(state, text) { said.className = state; said.textContent = text; }

function showSame(text) {
  const same = document.getElementById("same");
  same.hidden = !text; same.querySelector("span").textContent = text;
}

function lookAgain() {
  const button = document.createElement("button");
  button.type = "button"; button.textContent = "Look again";
  button.onclick = () => location.reload();
  return button;
}

form.elements.name.addEventListener("change", () => {
  const word = [...document.getElementById("words").options].find((one) => one.value === form.elements.name.value);
  if (!word) return;
  form.elements.colour.value = word.dataset.colour;
  form.elements.event_type.value = word.dataset.type;
});

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const label = Object.fromEntries(["name", "colour", "event_type", "notes"].map((key) => [key, form.elements[key].value]));
  label.seen = Number(form.dataset.seen);
  waiting = { name: label.name.trim(), at: performance.now() };
  say("dim", "Written down. Waiting for the daemon to take it over…");
  try {
    const told = await send(`/clusters/${cluster}/name`, label);
    form.dataset.seen = told.seen;
    showSame(told.same);
    document.getElementById("called").textContent = waiting.name;
    setTimeout(() => {
      if (waiting) say("warn", "Written down, but the daemon has not said yet that it uses it. If it does not run, it will take the name over at its start: see Health.");
    }, 5000);
  } catch (error) {
    waiting = null; say("bad", error.message);
    if (error.status === 409) said.append(" ", lookAgain());
  }
});

onMessage((message) => {
  const data = message.body.data;
  if (message.topic !== "status.model." || data.state !== "named" || data.sha256 !== form.dataset.sha) return;
  if (!waiting || !Object.values(data.names || {}).includes(waiting.name)) return;
  const seconds = ((performance.now() - waiting.at) / 1000).toFixed(1);
  say("ok", `The daemon uses the name “${waiting.name}” since message ${message.seq}, ${seconds} s after you gave it.`);
  waiting = null;
});

drawCharts(`/clusters/${cluster}/charts.json${location.search}`);
