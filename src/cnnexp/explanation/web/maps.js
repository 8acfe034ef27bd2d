// Maps as pictures: blue below 0, red above, nothing in between.

const scheme = matchMedia("(prefers-color-scheme: dark)");
let isDark = scheme.matches;  // reading it anew would keep Chromium from telling of a change
const LIGHT = {zero: [247, 247, 247], low: [33, 92, 172], high: [178, 24, 43]};
const DARK = {zero: [27, 33, 41], low: [96, 165, 250], high: [251, 113, 86]};
const palette = () => isDark ? DARK : LIGHT;
const redrawn = [];  // what is to be drawn anew when light and dark change
scheme.addEventListener("change", () => {
  isDark = scheme.matches;
  redrawn.forEach(draw => draw());
});

// The colour of a value on a scale from −most over 0 to most; the root makes small values visible.
function colour(value, most) {
  const {zero, low, high} = palette();
  if (Number.isNaN(value)) return zero;
  const share = most > 0 ? Math.min(1, Math.abs(value) / most) ** 0.75 : 0;
  const end = value < 0 ? low : high;
  return zero.map((channel, i) => Math.round(channel + share * (end[i] - channel)));
}

const css = ([r, g, b]) => `rgb(${r},${g},${b})`;
const greatest = values => values.reduce((most, v) => Number.isFinite(v) ? Math.max(most, Math.abs(v)) : most, 0);

function range(values) {
  let least = Infinity, most = -Infinity;
  for (const v of values) { if (v < least) least = v; if (v > most) most = v; }
  return [least, most];
}

// One canvas pixel for each value, from a function of its index to [r, g, b].
function pixels(height, width, colourOf) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d"), image = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    image.data.set([...colourOf(i), 255], 4 * i);
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

const signed = (values, most) => i => colour(i < values.length ? values[i] : NaN, most);

// How many screen pixels one pixel of a map gets, so that the larger side of the map gets `about` of them.
const zoomFor = (height, width, about = 280) => Math.max(1, Math.min(40, Math.floor(about / Math.max(height, width))));

// Draw pixels onto a canvas, enlarged, with rectangles {row, column, height, width, thin} on top.
function enlarge(canvas, small, zoom, marks = []) {
  canvas.width = small.width * zoom;
  canvas.height = small.height * zoom;
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
  context.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--mark");
  for (const {row, column, height = 1, width = 1, thin = false} of marks) {
    context.lineWidth = thin ? 1 : 3;
    context.strokeRect(column * zoom, row * zoom, width * zoom, height * zoom);
  }
}
