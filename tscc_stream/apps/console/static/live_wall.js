// The waveforms on one canvas. Columns are counted from 1970, each as wide as one pixel; a trace holds the smallest and
// the largest sample of each, NaN where there is none. Pixels are set by hand: fifty traces ten times a second.

import { zone } from "./console.js";

const GROUND = 0xff1f1812, STRIPE = 0xff261d16, MISSING = 0xff2a2050, TRACE = 0xfff0d8a0, DIM = 0xff8a7a6a, CLIP = 0xff5252e0;  // ABGR
const SHAPES = ["●", "■", "▲", "◆", "▼", "★", "✚", "⬟"];
export const shapeOf = (id) => id === "unknown" ? "○" : SHAPES[Number(id) % SHAPES.length];

class Trace {
  constructor(name, clip, columns) {
    this.name = name; this.clip = clip ?? Infinity;
    this.size = columns + 64; this.low = new Float32Array(this.size).fill(NaN); this.high = new Float32Array(this.size).fill(NaN);
    this.last = -1; this.rate = 1; this.newestMs = NaN; this.zoom = 1; this.half = 0; this.middle = 0; this.word = "";
  }
  take(first, rate, newestMs, pairs) {
    const count = pairs.length / 2;
    if (this.last < 0 || first + count - 1 < this.last - this.size) { this.low.fill(NaN); this.high.fill(NaN); this.last = first - 1; }
    for (let c = Math.max(this.last + 1, first - this.size); c < first; c++) { const at = c % this.size; this.low[at] = this.high[at] = NaN; }
    for (let i = Math.max(0, count - this.size); i < count; i++) {
      const at = (first + i) % this.size; this.low[at] = pairs[2 * i]; this.high[at] = pairs[2 * i + 1];
    }
    this.last = Math.max(this.last, first + count - 1); this.rate = rate; this.newestMs = newestMs;
  }
  copy() { const other = Object.assign(Object.create(Trace.prototype), this); other.low = this.low.slice(); other.high = this.high.slice(); return other; }
}

function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

export class Wall {
  constructor(canvas, ruler) {
    this.canvas = canvas; this.ruler = ruler; this.context = canvas.getContext("2d", { alpha: false });
    this.traces = []; this.marks = []; this.boxes = []; this.common = false; this.zoom = 1; this.frozen = null; this.fresh = new Set();
    this.lead = -Infinity; this.columns = 0; this.row = 0; this.span = 60; this.ratio = 1;
    const wall = new Intl.DateTimeFormat("en-GB", { timeZone: zone, hour: "2-digit", minute: "2-digit", second: "2-digit" });
    this.time = (ms) => wall.format(new Date(ms));
  }

  // width, row and head (the part of a row that its label takes): CSS pixels. The number of columns that the server is to be asked for.
  layout(width, row, head, span) {
    this.ratio = Math.min(window.devicePixelRatio || 1, 2);
    this.columns = Math.max(50, Math.min(4000, Math.round(width * this.ratio)));
    this.width = width; this.row = row; this.head = Math.round(head * this.ratio); this.span = span; this.columnMs = Math.floor(span * 1e9 / this.columns) / 1e6;
    return this.columns;
  }

  setChannels(channels) {
    const before = new Map(this.traces.map((one) => [one.name, one]));
    this.traces = channels.map(({ name, clip }) => {
      const trace = new Trace(name, clip, this.columns), old = before.get(name);
      if (old) trace.zoom = old.zoom;
      return trace;
    });
    this.lead = -Infinity; this.fresh.clear();
    this.resize();
  }

  resize() {
    const height = Math.max(1, this.traces.length) * this.row;
    this.canvas.width = this.columns; this.canvas.height = Math.round(height * this.ratio);
    this.canvas.style.width = this.width + "px"; this.canvas.style.height = height + "px";
    this.image = this.context.createImageData(this.canvas.width, this.canvas.height);
    this.pixels = new Uint32Array(this.image.data.buffer);
    this.ruler.width = this.columns; this.ruler.height = Math.round(24 * this.ratio);
    this.ruler.style.width = this.width + "px"; this.ruler.style.height = "24px";
  }

  take(parts) {
    for (const [place, first, rate, newestMs, packed] of parts) {
      const trace = this.traces[place];
      if (!trace) continue;
      trace.take(first, rate, newestMs, unpacked(packed));
      this.fresh.add(trace);
      this.lead = Math.max(this.lead, newestMs - performance.now());
    }
  }

  // Data time at the right end: the newest sample's, and on from there with the clock while none comes.
  edgeMs() {
    const newest = Math.max(...this.traces.map((one) => one.newestMs).filter((ms) => !Number.isNaN(ms)));
    const edge = this.lead + performance.now();
    if (edge - newest > 1000 * this.span && this.fresh.size) { this.lead = newest - performance.now(); return newest; }  // the data's clock went back
    return edge;
  }

  pause(on) { this.frozen = on ? { traces: this.traces.map((one) => one.copy()), edge: this.edgeMs() } : null; }

  // What was drawn: [[name, newest ms]].
  draw() {
    const drawn = [...this.fresh].map((one) => [one.name, one.newestMs]);
    const edge = this.frozen ? this.frozen.edge : this.edgeMs(), traces = this.frozen ? this.frozen.traces : this.traces;
    this.fresh.clear();
    if (!traces.length || !Number.isFinite(edge) || !this.pixels) return drawn;
    const last = Math.floor(edge / this.columnMs), first = last - this.columns + 1, row = Math.round(this.row * this.ratio);
    if (this.frozen) traces.forEach((one, i) => { one.zoom = this.traces[i]?.zoom ?? 1; });
    for (const trace of traces) this.#measure(trace, first, last);
    const largest = Math.max(...traces.map((one) => one.half));
    traces.forEach((trace, i) => {
      const half = (this.common ? largest : trace.half) / (this.zoom * trace.zoom);
      trace.shown = half;
      if (this.traces[i]) this.traces[i].shown = half;
      this.#trace(trace, first, last, i * row, row, half, i % 2 ? STRIPE : GROUND);
    });
    this.context.putImageData(this.image, 0, 0);
    this.#marks(traces, first, row);
    this.#ruler(first, last);
    return drawn;
  }

  // Middle and half range of what is seen. They follow at once where more room is needed, and later where less is.
  #measure(trace, first, last) {
    let low = Infinity, high = -Infinity, sum = 0, count = 0;
    for (let c = Math.max(first, trace.last - trace.size + 1); c <= Math.min(last, trace.last); c++) {
      const a = trace.low[c % trace.size], b = trace.high[c % trace.size];
      if (a === a) { if (a < low) low = a; if (b > high) high = b; sum += a + b; count += 2; }
    }
    if (!count) return;
    const middle = sum / count, half = Math.max(high - middle, middle - low, 1);
    if (half > trace.half || half < 0.6 * trace.half || Math.abs(middle - trace.middle) > 0.2 * trace.half) { trace.middle = middle; trace.half = 1.1 * half; }
  }

  #trace(trace, first, last, top, row, half, ground) {
    const { pixels, columns } = this, wide = this.canvas.width, bottom = top + row - 1;
    pixels.fill(ground, top * wide, (bottom + 1) * wide);
    top += this.head; row -= this.head;
    const scale = (row / 2 - 1) / half, zero = top + row / 2;
    const bridge = Math.max(1, Math.ceil(1500 / trace.rate / this.columnMs) + 1), colour = trace.word === "FLAT" || trace.word === "STALE" || trace.word === "DEAD" ? DIM : TRACE;
    const thick = this.ratio > 1.5 ? 1 : 0, place = (value) => Math.max(top, Math.min(bottom, Math.round(zero + (trace.middle - value) * scale)));
    const run = (x, y0, y1, ink) => { for (let y = Math.max(top, y0), at = y * wide + x; y <= Math.min(bottom, y1 + thick); y++, at += wide) pixels[at] = ink; };
    let before = -1, upper = 0, lower = 0;
    for (let c = Math.max(first, trace.last - trace.size + 1); c <= Math.min(last, trace.last); c++) {
      const a = trace.low[c % trace.size];
      if (a !== a) continue;
      const b = trace.high[c % trace.size], x = c - first, y0 = place(b), y1 = place(a), ink = b >= trace.clip || a <= -trace.clip ? CLIP : colour;
      if (before >= 0 && x - before <= bridge) {
        if (x - before === 1) run(x, Math.min(y0, lower + 1), Math.max(y1, upper - 1), ink);
        else {
          const from = (upper + lower) / 2, to = (y0 + y1) / 2;
          for (let i = before + 1; i <= x; i++) {
            const p = Math.round(from + (to - from) * (i - 1 - before) / (x - before)), q = Math.round(from + (to - from) * (i - before) / (x - before));
            run(i, Math.min(p, q), Math.max(p, q), ink);
          }
        }
      } else {
        if (before >= 0) for (let y = top; y <= bottom; y++) pixels.fill(MISSING, y * wide + before + 1, y * wide + x);
        run(x, y0, y1, ink);
      }
      before = x; upper = y0; lower = y1;
    }
  }

  // Detections on their traces: a line at the onset, and its shape and name above it.
  #marks(traces, first, row) {
    const { context, ratio } = this, at = new Map(traces.map((one, i) => [one.name, i])), rows = traces.map(() => []);
    this.boxes = [];
    context.font = `${Math.round(13 * ratio)}px system-ui, sans-serif`; context.textBaseline = "top"; context.textAlign = "left";
    for (const mark of this.marks) {
      const i = at.get(mark.channel), x = Math.floor(mark.onsetMs / this.columnMs) - first;
      if (i !== undefined && x >= -200 && x < this.columns) rows[i].push({ mark, x });
    }
    rows.forEach((marks, i) => {
      marks.sort((a, b) => a.x - b.x);
      let free = -Infinity;  // where the last name ends
      marks.forEach(({ mark, x }, n) => {
        const { colour, name, id } = mark.cluster(), top = i * row + this.head, shape = shapeOf(id), next = marks[n + 1]?.x ?? Infinity;
        const short = name.length > 22 ? name.slice(0, 21) + "…" : name;
        let text = ` ${short}`, wide = context.measureText(shape + text).width;
        let left = x + wide + 8 * ratio < this.columns ? x + 2 * ratio : x - wide - 6 * ratio;
        if (this.row < 34 || left < free || (left > x && left + wide > next)) { text = ""; wide = context.measureText(shape).width; left = Math.min(x + 2 * ratio, this.columns - wide - 4 * ratio); }
        free = left + wide + 6 * ratio;
        context.fillStyle = colour; context.fillRect(x, top, Math.max(1, ratio), row - this.head - 1);
        context.fillStyle = "#0b1117c0"; context.fillRect(left, top, wide + 4 * ratio, 15 * ratio);
        context.fillStyle = colour; context.fillText(shape, left + 2 * ratio, top + ratio);
        context.fillStyle = "#e8edf2"; context.fillText(text, left + 2 * ratio + context.measureText(shape).width, top + ratio);
        this.boxes.push({ left: Math.min(x, left) / ratio - 6, right: Math.max(x, left + wide) / ratio + 8, top: i * this.row, bottom: (i + 1) * this.row, mark });
      });
    });
  }

  markAt(x, y) { return this.boxes.findLast((b) => x >= b.left && x <= b.right && y >= b.top && y <= b.bottom)?.mark; }

  #ruler(first, last) {
    const context = this.ruler.getContext("2d"), { ratio, columnMs } = this;
    context.clearRect(0, 0, this.ruler.width, this.ruler.height);
    context.font = `${Math.round(13 * ratio)}px system-ui, sans-serif`; context.fillStyle = "#9db0c1"; context.textAlign = "center";
    const ticks = [1, 2, 5, 10, 15, 30, 60].find((s) => s * 1000 / columnMs > 76 * ratio) ?? 60, step = ticks * 1000;
    for (let ms = Math.ceil(first * columnMs / step) * step; ms <= last * columnMs; ms += step) {
      const x = ms / columnMs - first, text = this.time(ms), half = context.measureText(text).width / 2;
      context.fillRect(x, this.ruler.height - 5 * ratio, ratio, 5 * ratio);
      if (x > half && x < this.columns - half) context.fillText(text, x, 14 * ratio);
    }
  }
}
