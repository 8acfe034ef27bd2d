// Small pieces of the page: elements, numbers as text, tables, maps that can be pointed at, a player.

// An element; children are elements or text, and null children are left out.
function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter(child => child !== null && child !== undefined));
  return node;
}

const SUPER = {"-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹"};

const superscript = exponent => [...String(exponent)].map(c => SUPER[c]).join("");

// A number with `digits` digits; very small and large ones are written as 1.2·10⁻⁷.
function show(value, digits = 4) {
  if (value === null || value === undefined) return "–";
  if (!Number.isFinite(value)) return String(value);
  if (value === 0) return "0";
  const size = Math.abs(value);
  let text;
  if (size >= 1e-3 && size < 1e5) text = String(Number(value.toPrecision(digits)));
  else {
    const [mantissa, exponent] = value.toExponential(digits - 2).split("e");
    text = `${mantissa}·10${superscript(exponent.replace("+", ""))}`;
  }
  return text.replace(/^-/, "−");
}

const shape = numbers => numbers ? numbers.join("×") : "?";
const percent = share => share >= 0.0001 || share === 0 ? `${(100 * share).toFixed(2)} %` : `${show(100 * share, 3)} %`;

// A value in the text, with its exact number as an attribute for programs that read the page.
const value = (number, name) => make("span", {class: "result", "data-name": name, "data-value": number}, show(number));

// A formula as HTML, from trusted text and not from data: letters are set in italics.
function formula(html) {
  const node = make("p", {class: "formula"});
  node.innerHTML = html;
  return node;
}

// Rows of [text, number, name]; the last one is the total.
function sums(rows) {
  const node = make("div", {class: "sums"});
  rows.forEach(([text, number, name], i) => {
    const last = i === rows.length - 1 && rows.length > 1 ? "total" : null;
    node.append(make("span", {class: last}, text), make("span", {class: last}, value(number, name)));
  });
  return node;
}

// The difference between a sum computed on this page and the result of the network's own backward.
function agreement(mine, theirs, name) {
  const most = mine.reduce((m, v, i) => Math.max(m, Math.abs(v - theirs[i])), 0), scale = greatest(theirs);
  const same = most <= 1e-4 * scale || most === 0;  // the network has computed in float32
  const than = scale ? `, the greatest value ${show(scale, 3)}` : "";
  return make("p", {class: same ? "agree yes" : "agree", "data-name": name, "data-difference": most, "data-scale": scale},
    `${same ? "They agree" : "Not there yet"}: greatest difference ${show(most, 2)}${than}`);
}

// A kernel-sized table of numbers; cells of {value, padding, winner}.
function kernelTable(title, cells, width, name, most) {
  const table = make("table", {class: "kernel", "data-name": name, "aria-label": title});
  const scale = most || greatest(cells.map(cell => cell.value));
  for (let i = 0; i < cells.length; i += width) {
    const row = make("tr");
    for (const {value, padding, winner} of cells.slice(i, i + width)) {
      const marks = [padding && "padding", winner && "winner"].filter(Boolean).join(" ");
      const cell = make("td", {"data-value": value, class: marks || null, title: padding ? "padding" : null}, show(value, 3));
      const rgb = colour(value, scale);
      cell.style.background = css(rgb);
      cell.style.color = rgb[0] * 0.3 + rgb[1] * 0.6 + rgb[2] * 0.1 > 140 ? "#111" : "#fff";
      row.append(cell);
    }
    table.append(row);
  }
  return make("div", {}, make("h4", {}, title), make("div", {class: "scroll"}, table));
}

const sign = text => make("span", {class: "sign", "aria-hidden": "true"}, text);
const plainCells = values => Array.from(values, value => ({value}));

// The strip of colours under a map, with the least and the greatest value.
function scaleBar(node, values, most = greatest(values)) {
  const [least, greatestOfAll] = range(values);
  const strip = make("i");
  const stops = [-1, -0.5, -0.25, 0, 0.25, 0.5, 1].map(t => css(colour(t * (most || 1), most || 1)));
  strip.style.background = `linear-gradient(to right, ${stops.join(",")})`;
  strip.title = `from ${show(-most, 3)} to ${show(most, 3)}`;
  node.replaceChildren(make("span", {}, `min ${show(least, 3)}`), strip, make("span", {}, `max ${show(greatestOfAll, 3)}`));
}

// A large map. `content()` gives {title, values, height, width, marks}, and the end of the scale as `most` if
// it is not the greatest value, or the colours of an image. `pick(row, column)`, if given, is called with the
// position that a click or an arrow key chooses, from `position()`.
function largeMap(content, pick, position) {
  const caption = make("figcaption"), canvas = make("canvas", {class: pick ? "large choose" : "large"});
  const bar = make("div", {class: "scale"});
  let zoom = 1, size = [0, 0];
  function draw() {
    const {title, values, height, width, marks, colours, most = greatest(values)} = content();
    size = [height, width];
    zoom = zoomFor(height, width);
    caption.textContent = title;
    canvas.setAttribute("role", pick ? "application" : "img");
    canvas.setAttribute("aria-label", pick ? `${title}; arrow keys choose a position` : title);
    enlarge(canvas, pixels(height, width, colours || signed(values, most)), zoom, marks);
    if (colours) bar.replaceChildren(make("span", {}, `from ${show(range(values)[0], 3)} to ${show(range(values)[1], 3)}`));
    else scaleBar(bar, values, most);
  }
  if (pick) {
    canvas.tabIndex = 0;
    const within = (row, column) =>
      pick(Math.max(0, Math.min(size[0] - 1, row)), Math.max(0, Math.min(size[1] - 1, column)));
    canvas.addEventListener("click", event => {
      const box = canvas.getBoundingClientRect();
      within(Math.floor((event.clientY - box.top) / box.height * size[0]),
        Math.floor((event.clientX - box.left) / box.width * size[1]));
    });
    canvas.addEventListener("keydown", event => {
      const moves = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]};
      const move = moves[event.key];
      if (!move) return;
      event.preventDefault();
      const [row, column] = position();
      within(row + move[0], column + move[1]);
    });
  }
  return {node: make("figure", {}, caption, canvas, bar), draw};
}

// A choice among names; `get()` returns the chosen one.
function chooser(label, names, get, set) {
  const select = make("select", {"aria-label": label});
  let held = "";
  function draw() {
    const now = names();
    if (held !== now.join()) select.replaceChildren(...now.map(name => make("option", {value: name}, String(name))));
    held = now.join();
    select.value = get();
  }
  select.addEventListener("change", () => set(Number(select.value)));
  return {node: make("label", {}, `${label} `, select), draw};
}

// A slider from 0 to `count` with Play and buttons for single steps.
function player(label, count, get, set) {
  const slider = make("input", {type: "range", min: 0, max: count, step: 1, "aria-label": label});
  const button = make("button", {type: "button", class: "plain", "data-name": "play"}, "▶ Play");
  const text = make("output");
  const pace = Math.max(1, Math.ceil(count / 200));  // at most some 20 seconds
  let timer = null;
  function stop() {
    clearInterval(timer);
    timer = null;
    button.textContent = "▶ Play";
  }
  function tick() {
    set(Math.min(count, get() + pace));
    if (get() >= count) stop();
  }
  button.addEventListener("click", () => {
    if (timer !== null) { stop(); return; }
    if (get() >= count) set(0);
    timer = setInterval(tick, 100);
    button.textContent = "⏸ Pause";
  });
  slider.addEventListener("input", () => { stop(); set(Number(slider.value)); });
  const step = (by, name, text) => make("button", {type: "button", class: "plain", "aria-label": name,
    onclick: () => { stop(); set(Math.max(0, Math.min(count, get() + by))); }}, text);
  function draw(said) {
    slider.value = get();
    slider.setAttribute("aria-valuetext", said);
    text.textContent = said;
  }
  return {node: make("div", {}, make("div", {class: "controls"}, button, step(-1, "one window back", "−1"),
    step(1, "one window on", "+1"), slider), text), draw, stop};
}
