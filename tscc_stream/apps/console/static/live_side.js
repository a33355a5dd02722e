// Beside the wall: what the shift brought, the last detections and network events.

import { localTime } from "./console.js";
import { shapeOf } from "./live_wall.js";

export function element(name, classes, text) {
  const made = document.createElement(name);
  if (classes) made.className = classes;
  if (text !== undefined) made.textContent = text;
  return made;
}

export function utc(ns) { return new Date(Number(BigInt(ns) / 1000000n)).toISOString().replace("T", " ").replace("Z", " UTC"); }

const BAR = { width: 96, height: 20 };

function bars(row, largest, shift) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg"), wide = BAR.width / row.bins.length;
  svg.setAttribute("viewBox", `0 0 ${BAR.width} ${BAR.height}`); svg.setAttribute("preserveAspectRatio", "none"); svg.setAttribute("height", BAR.height); svg.setAttribute("role", "img");
  const minutes = Math.round((shift.end_ms - shift.begin_ms) / row.bins.length / 60000);
  svg.setAttribute("aria-label", `detections of ${row.name} in each ${minutes} minutes of the shift, at most ${Math.max(...row.bins)}`);
  const add = (x, y, width, height, fill) => {
    const one = document.createElementNS(svg.namespaceURI, "rect");
    for (const [key, value] of Object.entries({ x, y, width, height, fill })) one.setAttribute(key, value);
    svg.append(one);
  };
  add(0, BAR.height - 1, BAR.width, 1, "#2c3947");
  row.bins.forEach((count, i) => { if (count) { const high = Math.max(2, (BAR.height - 2) * count / largest); add(i * wide + .5, BAR.height - high, wide - 1, high, row.colour); } });
  return svg;
}

export function showShift(shift) {
  document.getElementById("shift-title").textContent = shift.name ? `Shift “${shift.name}”, ${shift.span}` : `No shift is on; ${shift.span}`;
  const place = document.getElementById("shift");
  if (!shift.rows.length) { place.replaceChildren(element("p", "dim", "No detections in this time yet.")); return; }
  const hours = Math.max(1 / 60, (Math.min(Date.now(), shift.end_ms) - shift.known_ms) / 3600000), largest = Math.max(...shift.rows.flatMap((row) => row.bins));
  document.getElementById("shift-title").title = shift.known_ms > shift.begin_ms ? "The journal begins within this shift: per hour means since then." : "";
  const table = element("table", "rates"), head = element("tr"), minutes = Math.round((shift.end_ms - shift.begin_ms) / 24 / 60000);
  for (const text of ["cluster", `per ${minutes} min`, "all", "per h"]) head.append(element("th", text === "all" || text === "per h" ? "number" : "", text));
  table.append(head);
  for (const row of shift.rows) {
    const line = element("tr"), what = element("td", "what"), mark = element("span", "", shapeOf(row.id) + " "), count = row.bins.reduce((a, b) => a + b);
    mark.style.color = row.colour;
    what.append(mark, row.name); what.title = row.name;
    const chart = element("td"); chart.append(bars(row, largest, shift));
    line.append(what, chart, element("td", "number", count), element("td", "number", (count / hours).toFixed(count / hours < 10 ? 1 : 0)));
    table.append(line);
  }
  place.replaceChildren(table);
}

// A list of at most its data-most newest entries by onset, each with its address.
export class List {
  constructor(place, empty) { this.place = place; this.most = Number(place.dataset.most); this.entries = new Map(); this.empty = empty; this.show(); }
  put(uid, entry) {
    this.entries.set(uid, entry);
    if (this.entries.size > 3 * this.most) for (const one of this.#newest().slice(this.most)) this.entries.delete(one[0]);
  }
  #newest() { return [...this.entries].sort((a, b) => b[1].onsetMs - a[1].onsetMs); }
  show() {
    const items = this.#newest().slice(0, this.most).map(([uid, entry]) => {
      const item = element("li"), link = element("a"), time = element("time", "", localTime(entry.onset)), { id, name, colour } = entry.cluster(), shape = element("span", "", shapeOf(id));
      link.href = `/events/${encodeURIComponent(uid)}`; time.title = utc(entry.onset); shape.style.color = colour; link.title = entry.title;
      link.append(time, shape, element("span", "what", `${name} ${entry.where}`), element("span", "more", entry.more));
      item.append(link);
      return item;
    });
    this.place.replaceChildren(...(items.length ? items : [element("li", "empty", this.empty)]));
  }
}
