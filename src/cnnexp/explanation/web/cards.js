// One card per layer: maps of its channels, large maps to point at, and the numbers of the chosen position.

const FIRST_MAPS = 16;  // small maps that are shown before "all"

const PANELS = {
  Conv2d: convPanel,
  Linear: linearPanel,
  MaxPool2d: poolPanel,
  AvgPool2d: poolPanel,
  AdaptiveAvgPool2d: poolPanel,
  BatchNorm2d: batchNormPanel,
  GroupNorm: groupNormPanel,
  Dropout: describedPanel("Dropout leaves values out while training; in evaluation it hands everything on: y = x, ∂L/∂x = ∂L/∂y."),
  Dropout2d: describedPanel("Spatial dropout leaves channels out while training; in evaluation it hands everything on: y = x, ∂L/∂x = ∂L/∂y."),
  Flatten: describedPanel("The same numbers in one row, on the way forward and on the way back."),
  Identity: describedPanel("It hands everything on: y = x, ∂L/∂x = ∂L/∂y."),
};
for (const kind of Object.keys(ACTIVATIONS)) PANELS[kind] = activationPanel;

// Formulas for images and vectors only, and where the page holds all numbers.
function panelOf(step, state, update) {
  if (step.kept) {
    const some = `${step.kept.length} of ${step.output_shape[0]} channels`;
    return describedPanel(`This layer is too large for the page: it shows ${some}, without formulas.`)();
  }
  const dims = step.output_shape.length, spatial = ["Conv2d", "MaxPool2d", "AvgPool2d", "AdaptiveAvgPool2d"].includes(step.kind);
  const fits = step.input !== null && (spatial ? dims === 3 : step.kind === "Linear" ? dims === 1 && step.weight : true);
  if (!fits || !PANELS[step.kind]) return describedPanel(`There is no formula for ${step.kind} on this page: its output and gradient alone.`)();
  if (step.kind === "Conv2d" && !step.weight) return describedPanel("The loss does not depend on this layer.")();
  return PANELS[step.kind](step, state, update);
}

function fillCard(step, body) {
  const output = view(step.output, step.kept), grad = view(step.grad_output, step.kept), input = view(step.input);
  const state = {o: output.names[0], c: 0, k: 0, p: 0, q: 0, done: 0, only: false};
  const panel = panelOf(step, state, update);
  const channels = panel.outputs && !output.isVector ? panel.outputs : output.names;
  const marksOf = () => [{row: state.p, column: state.q}];
  const pick = (row, column) => {
    const last = output.isVector ? output.values.length - 1 - row * output.width : output.width - 1;
    const at = [row, Math.min(column, last)];
    update(panel.onPick ? panel.onPick(...at) : {p: at[0], q: at[1]});
  };
  const at = () => [state.p, state.q];
  const named = view => view.isVector ? "" : `[${state.o}]`;
  const large = [];
  if (input && panel.inputChannel) {
    large.push(largeMap(() => ({title: `input x${input.isVector ? "" : `[${panel.inputChannel()}]`}`, values: input.map(panel.inputChannel()),
      height: input.height, width: input.width, marks: panel.inputMarks()}), panel.pickInput, panel.inputPosition));
  } else if (input && input.count === output.count && input.size === output.size) {
    large.push(largeMap(() => ({title: `input x${named(input)}`, values: input.map(state.o), height: input.height, width: input.width,
      marks: marksOf()}), pick, at));
  }
  large.push(largeMap(() => ({title: `output y${named(output)}`, values: output.map(state.o), height: output.height, width: output.width,
    marks: marksOf()}), pick, at));
  if (grad) {
    large.push(largeMap(() => ({title: `gradient g${named(grad)} = ∂L/∂y${named(grad)}`, values: grad.map(state.o), height: grad.height,
      width: grad.width, marks: marksOf()}), pick, at));
  }
  const gradInput = panel.inputChannel ? null : view(step.grad_input);
  if (gradInput && gradInput.count === output.count && gradInput.size === output.size) {
    large.push(largeMap(() => ({title: `∂L/∂x${named(gradInput)}`, values: gradInput.map(state.o), height: gradInput.height,
      width: gradInput.width, marks: marksOf()}), pick, at));
  }
  const grids = output.count > 1 ? [thumbGrid("output y", output, channels, state, update, expand),
    ...(grad ? [thumbGrid("incoming gradient ∂L/∂y", grad, channels, state, update, expand)] : [])] : [];
  function expand() { grids.forEach(grid => grid.expand()); }
  const chosen = make("p", {class: "dim", role: "status"});

  function update(change) {
    Object.assign(state, change);
    if (panel.settle) panel.settle(false);
    draw();
  }

  function draw() {
    for (const grid of grids) grid.draw();
    for (const map of large) map.draw();
    chosen.textContent = output.isVector ? `chosen: output ${state.p * output.width + state.q}`
      : `chosen: channel o = ${state.o}, position (p, q) = (${state.p}, ${state.q})`;
    panel.draw();
  }

  // at first the channel and the position of the greatest gradient, or value
  const source = grad && greatest(grad.values) > 0 ? grad : output;
  state.o = channels.reduce((best, o) => greatest(source.map(o)) > greatest(source.map(best)) ? o : best, channels[0]);
  const map = source.map(state.o), best = map.reduce((b, v, i) => Math.abs(v) > Math.abs(map[b]) ? i : b, 0);
  Object.assign(state, {p: Math.floor(best / output.width), q: best % output.width, done: best + 1});
  if (panel.settle) panel.settle(true);

  body.append(
    ...(panel.note ? [make("p", {class: "note"}, panel.note)] : []),
    ...(step.uses > 1 ? [make("p", {class: "note"}, `The network calls this layer ${step.uses} times`
      + `${step.parameters ? "; the gradients of its parameters are sums over the calls" : ""}.`)] : []),
    ...(grad ? [] : [make("p", {class: "note"}, "The loss does not depend on this output: there is no gradient.")]),
    make("div", {class: "grids"}, grids.map(grid => grid.node)),
    chosen, make("div", {class: "maps"}, large.map(each => each.node)), ...panel.nodes);
  draw();
  redrawn.push(() => { for (const grid of grids) grid.repaint(); draw(); });
}

// Small maps, one per channel, all on one scale; the chosen one is marked.
function thumbGrid(title, maps, channels, state, update, expandAll) {
  const grid = make("div", {class: "grid"}), bar = make("div", {class: "scale"}), buttons = new Map();
  const most = greatest(maps.values);
  const paint = (canvas, channel) => enlarge(canvas, pixels(maps.height, maps.width, signed(maps.map(channel), most)), 1);
  function add(channel) {
    const canvas = make("canvas");
    paint(canvas, channel);
    const button = make("button", {type: "button", class: "thumb", "aria-label": `channel ${channel}`, "data-channel": channel,
      onclick: () => update({o: channel})}, canvas, String(channel));
    buttons.set(channel, {button, canvas});
    grid.append(button);
  }
  channels.slice(0, FIRST_MAPS).forEach(add);
  scaleBar(bar, maps.values);
  const rest = channels.slice(FIRST_MAPS);
  const more = rest.length ? make("button", {type: "button", class: "plain", onclick: expandAll}, `show all ${channels.length}`) : null;
  function expand() {
    rest.splice(0).forEach(add);
    if (more) more.remove();
    draw();
  }
  function draw() {
    if (!buttons.has(state.o) && rest.includes(state.o)) { add(state.o); rest.splice(rest.indexOf(state.o), 1); }
    for (const [channel, {button}] of buttons) button.setAttribute("aria-pressed", String(channel === state.o));
  }
  function repaint() {
    for (const [channel, {canvas}] of buttons) paint(canvas, channel);
    scaleBar(bar, maps.values);
  }
  return {node: make("div", {}, make("h4", {}, `${title}, ${channels.length} ${maps.count > channels.length ? `of ${maps.count} ` : ""}channels`),
    grid, bar, more), draw, repaint, expand};
}

// A card that is filled when it is opened for the first time.
function card(title, about, fill, index) {
  const body = make("div", {class: "body"});
  const summary = make("summary", {}, make("b", {}, title), make("span", {class: "dim"}, about));
  const details = make("details", {class: "layer", id: `layer-${index}`}, summary, body);
  let filled = false;
  details.addEventListener("toggle", () => {
    if (!details.open || filled) return;
    filled = true;
    fill(body);
  });
  return details;
}

function layerCard(step, index) {
  const parts = [step.kind, step.module, `${shape(step.input_shape)} → ${shape(step.output_shape)}`];
  if (step.parameters) parts.push(`${step.parameters.toLocaleString("en")} parameters`);
  return card(step.name, parts.join(" · "), body => fillCard(step, body), index);
}

// The loss: p − 1 at the label, p elsewhere.
function lossCard(index) {
  const logits = tensor(trace.logits).values, p = tensor(trace.probabilities).values, grad = tensor(trace.grad_logits).values;
  return card("softmax cross-entropy", `${trace.classes.length} logits → L`, body => {
    let order = trace.classes.map((_, k) => k);
    const all = order.length;
    if (all > 20) order = order.sort((a, b) => (b === trace.label) - (a === trace.label) || p[b] - p[a]).slice(0, 20);
    const most = greatest(logits), total = logits.reduce((sum, z) => sum + Math.exp(z - most), 0);
    const rows = order.map(k => {
      const share = Math.exp(logits[k] - most) / total, isLabel = k === trace.label;
      const cells = [trace.classes[k], value(logits[k], "logit"), value(share, "probability"), isLabel ? "1" : "0",
        value(share - (isLabel ? 1 : 0), "formula-gradient"), value(grad[k], "logit-gradient")];
      return make("tr", {class: isLabel ? "label" : null}, cells.map(cell => make("td", {}, cell)));
    });
    const head = ["class k", "logit z_k", "p_k", "[k = label]", "p_k − [k = label]", "∂L/∂z_k of cnnexp's backward"];
    body.append(formula("<var>p</var><sub>k</sub> = e<sup><var>z</var><sub>k</sub></sup> / Σ<sub>m</sub> e<sup><var>z</var><sub>m</sub></sup>"
      + " &emsp; L = −log <var>p</var><sub>label</sub> &emsp; ∂L/∂<var>z</var><sub>k</sub> = <var>p</var><sub>k</sub> − [k = label]"),
    make("p", {}, `label ${trace.classes[trace.label]}: L = −log ${show(p[trace.label])} = `, value(trace.loss, "loss")),
    make("div", {class: "scroll"}, make("table", {class: "list"}, make("thead", {}, make("tr", {}, head.map(each => make("th", {}, each)))),
      make("tbody", {}, rows))),
    all > order.length ? make("p", {class: "dim"}, `the ${order.length} likeliest of ${all} classes`) : "");
  }, index);
}
