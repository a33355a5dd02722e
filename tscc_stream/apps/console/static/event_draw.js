// Waveforms and spectrograms on canvases. Times are seconds after the event's onset; every axis has its unit.

const LEFT = 74, RIGHT = 8;
const style = getComputedStyle(document.documentElement);
const colour = (name) => style.getPropertyValue(name).trim();
// Dark to bright, so that it also reads without colours.
const STOPS = [[13, 18, 40], [45, 48, 120], [32, 110, 140], [50, 165, 120], [165, 205, 60], [253, 236, 110]];

export function bytes(text) { return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)); }
export function floats(text) { return new Float32Array(bytes(text).buffer); }

function ready(canvas, height) {
  const width = canvas.parentElement.clientWidth, ratio = devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio);
  canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  pen.font = "12px system-ui, 'DejaVu Sans', sans-serif";
  pen.fillStyle = colour("--ground"); pen.fillRect(0, 0, width, height);
  return { pen, width, height };
}

export function step(span, most) {
  const rough = span / most, size = 10 ** Math.floor(Math.log10(rough));
  return size * [1, 2, 5, 10].find((one) => one * size >= rough);
}

function ticks(low, high, most) {
  const by = step(high - low, most), made = [];
  for (let at = Math.ceil(low / by) * by; at <= high + by * 1e-6; at += by) made.push(Math.abs(at) < by * 1e-6 ? 0 : at);
  return made;
}

const plain = new Intl.NumberFormat("en-GB", { maximumSignificantDigits: 3 });
export function amount(value, unit) {
  if (unit !== "m/s") return `${plain.format(value)} ${unit}`;
  const size = Math.abs(value);
  const [factor, name] = size >= 1 ? [1, "m/s"] : size >= 1e-3 ? [1e3, "mm/s"] : size >= 1e-6 ? [1e6, "µm/s"] : [1e9, "nm/s"];
  return `${plain.format(value * factor)} ${name}`;
}

const along = (span, width) => (second) => LEFT + (second - span[0]) / (span[1] - span[0]) * (width - LEFT - RIGHT);

function marks(pen, x, height, trace) {
  pen.strokeStyle = colour("--accent"); pen.lineWidth = 1.5;
  pen.beginPath(); pen.moveTo(x(trace.onset_s), 0); pen.lineTo(x(trace.onset_s), height); pen.stroke();
  pen.setLineDash([4, 4]); pen.lineWidth = 1;
  pen.beginPath(); pen.moveTo(x(trace.end_s), 0); pen.lineTo(x(trace.end_s), height); pen.stroke();
  pen.setLineDash([]);
}

function label(pen, text, y, height) {
  pen.fillStyle = colour("--dim"); pen.textAlign = "right"; pen.textBaseline = "middle";
  pen.fillText(text, LEFT - 6, Math.min(height - 7, Math.max(7, y)));
}

export function drawTrace(canvas, trace, span) {
  const { pen, width, height } = ready(canvas, 92), x = along(span, width), samples = floats(trace.samples);
  const middle = height / 2, scale = (height / 2 - 8) / (trace.peak || 1);
  pen.strokeStyle = colour("--line"); pen.beginPath(); pen.moveTo(LEFT, middle); pen.lineTo(width - RIGHT, middle); pen.stroke();
  for (const second of ticks(span[0], span[1], width < 500 ? 4 : 8)) {
    pen.beginPath(); pen.moveTo(x(second), 0); pen.lineTo(x(second), height); pen.globalAlpha = 0.5; pen.stroke(); pen.globalAlpha = 1;
  }
  pen.save(); pen.beginPath(); pen.rect(LEFT, 0, width - LEFT - RIGHT, height); pen.clip();
  pen.strokeStyle = colour("--text"); pen.lineWidth = 1; pen.beginPath();
  samples.forEach((value, i) => pen.lineTo(x(trace.start_s + i / trace.rate_hz), middle - value * scale));
  pen.stroke();
  marks(pen, x, height, trace);
  pen.restore();
  const short = (value) => trace.unit === "normalised" ? plain.format(value) : trace.unit === "m/s" ? amount(value, "m/s") : new Intl.NumberFormat("en-GB", { notation: "compact", maximumSignificantDigits: 3 }).format(value);
  label(pen, `+${short(trace.peak)}`, 8, height); label(pen, "0", middle, height); label(pen, `−${short(trace.peak)}`, height - 8, height);
}

function bright(share) {
  const at = share * (STOPS.length - 1), low = Math.min(STOPS.length - 2, Math.floor(at)), part = at - low;
  return STOPS[low].map((one, i) => Math.round(one + part * (STOPS[low + 1][i] - one)));
}

export function drawSpectrogram(canvas, trace, span) {
  const { pen, width, height } = ready(canvas, 104), x = along(span, width), picture = trace.spectrogram;
  const values = bytes(picture.picture), image = new ImageData(picture.columns, picture.rows);
  values.forEach((value, i) => {
    const row = picture.rows - 1 - Math.floor(i / picture.columns), at = 4 * (row * picture.columns + i % picture.columns);
    image.data.set([...bright(value / 255), 255], at);
  });
  const small = document.createElement("canvas");
  small.width = picture.columns; small.height = picture.rows;
  small.getContext("2d").putImageData(image, 0, 0);
  const first = trace.start_s + picture.first_s - picture.step_s / 2, highest = (picture.rows - 1) * picture.step_hz;
  pen.save(); pen.beginPath(); pen.rect(LEFT, 0, width - LEFT - RIGHT, height); pen.clip();
  pen.imageSmoothingEnabled = true;
  pen.drawImage(small, x(first), 0, x(first + picture.columns * picture.step_s) - x(first), height);
  marks(pen, x, height, trace);
  pen.restore();
  for (const hertz of ticks(0, highest, 4)) {
    const y = height - hertz / highest * height;
    if (y < 20 && hertz !== 0) continue;
    label(pen, `${plain.format(hertz)}${hertz === 0 ? "" : ""}`, y, height);
    pen.strokeStyle = colour("--dim"); pen.beginPath(); pen.moveTo(LEFT - 4, y); pen.lineTo(LEFT, y); pen.stroke();
  }
  label(pen, "Hz", 8, height);
}

export function drawAxis(canvas, span, title) {
  const { pen, width } = ready(canvas, 40), x = along(span, width);
  pen.fillStyle = colour("--dim"); pen.strokeStyle = colour("--dim"); pen.textBaseline = "top"; pen.textAlign = "center";
  for (const second of ticks(span[0], span[1], width < 500 ? 4 : 8)) {
    pen.beginPath(); pen.moveTo(x(second), 0); pen.lineTo(x(second), 4); pen.stroke();
    pen.fillText(plain.format(second), x(second), 6);
  }
  pen.fillText(title, LEFT + (width - LEFT - RIGHT) / 2, 22);
}

export function drawScale(canvas) {
  const pen = canvas.getContext("2d");
  for (let i = 0; i < canvas.width; i++) { pen.fillStyle = `rgb(${bright(i / (canvas.width - 1)).join()})`; pen.fillRect(i, 0, 1, canvas.height); }
}

export function drawThumbnail(canvas, values) {
  const { pen, width, height } = ready(canvas, 54), pieces = values.length / 2;
  pen.strokeStyle = colour("--text"); pen.lineWidth = Math.max(1, width / pieces);
  pen.beginPath();
  for (let i = 0; i < pieces; i++) {
    const at = (i + 0.5) * width / pieces, y = (value) => height / 2 - value / 100 * (height / 2 - 4);
    pen.moveTo(at, y(values[2 * i]) + 0.5); pen.lineTo(at, y(values[2 * i + 1]) - 0.5);
  }
  pen.stroke();
}
