// Convolution: a window and its products on the way forward; window by window on the way back.

const CONV_FORWARD = "<var>y</var>[o,p,q] = Σ<sub>c</sub> Σ<sub>u,v</sub> <var>x</var>[c, p·s<sub>h</sub> + u·d<sub>h</sub> − p<sub>h</sub>, "
  + "q·s<sub>w</sub> + v·d<sub>w</sub> − p<sub>w</sub>] · <var>w</var>[o,c,u,v] + <var>b</var>[o]";
const CONV_WEIGHT = "∂L/∂<var>w</var>[o,c,u,v] = Σ<sub>p,q</sub> <var>g</var>[o,p,q] · <var>x</var>[c, p·s<sub>h</sub> + u·d<sub>h</sub> − p<sub>h</sub>, "
  + "q·s<sub>w</sub> + v·d<sub>w</sub> − p<sub>w</sub>]";
const CONV_INPUT = "∂L/∂<var>x</var>[c] = Σ<sub>o</sub> Σ<sub>p,q</sub> <var>g</var>[o,p,q] · <var>w</var>[o,c], added where the window at (p,q) lies";

function settingsText({kernel, stride, dilation, padding, groups, mode}) {
  const [top, bottom, left, right] = padding;
  const around = new Set(padding).size === 1 ? String(top) : `${top} above, ${bottom} below, ${left} left, ${right} right`;
  const parts = [`K_h × K_w = ${kernel.join("×")}`, `stride s = ${[...new Set(stride)].join("×")}`,
    `padding ${around}`, `dilation d = ${[...new Set(dilation)].join("×")}`];
  if (groups > 1) parts.push(`groups ${groups}`);
  if (mode && mode !== "zeros") parts.push(`padded by ${mode}`);
  return parts.join(", ");
}

function convPanel(step, state, update) {
  const conv = new Convolution(step), {weight} = conv;
  const y = view(step.output), gradX = view(step.grad_input);
  const forward = make("div"), weights = make("div", {class: "tables"}), weightsAgree = make("div"), biases = make("div");
  const inputs = chooser("input channel c", () => weight.choices(state.o), () => state.c, c => update({c}));
  const play = player("windows done", conv.positions, () => state.done, done => update(afterWindow(done)));
  const only = make("input", {type: "checkbox", onchange: () => update({only: only.checked})});
  const title = () => state.only ? `o = ${state.o} alone` : "all o";
  const outputs = () => state.only ? [state.o] : weight.outputsOf(state.c);
  let running = null;
  const runningMap = largeMap(() => ({title: `the sum so far, ${title()}: ∂L/∂x[${state.c}]`, values: running,
    height: conv.height, width: conv.width, marks: state.done ? windowMarks(conv.window(state.p, state.q)) : [],
    most: Math.max(greatest(running), greatest(gradX.map(state.c)))}));
  const finalMap = largeMap(() => ({title: `∂L/∂x[${state.c}] of cnnexp's backward`, values: gradX.map(state.c),
    height: conv.height, width: conv.width, marks: []}));
  const inputsAgree = make("div");
  const pick = (row, column) => update(afterWindow(row * conv.columns + column + 1)), at = () => [state.p, state.q];
  // the window and its weight once more, beside their effect
  const windowMap = largeMap(() => ({title: `x[${state.c}] and the window`, values: conv.x.map(state.c), height: conv.height,
    width: conv.width, marks: state.done ? windowMarks(conv.window(state.p, state.q)) : []}));
  const weightMap = largeMap(() => ({title: `g[${state.o}] and the window's weight`, values: conv.grad.map(state.o), height: conv.rows,
    width: conv.columns, marks: state.done ? [{row: state.p, column: state.q}] : []}), pick, at);
  const toggle = make("label", {class: "check"}, only, "this output channel only");
  const ofInput = [toggle, runningMap.node, finalMap.node, inputsAgree];
  const noInput = make("p", {class: "note"}, "The page does not hold all kernels that read this input channel.");

  function afterWindow(done) {
    const last = Math.max(0, done - 1);
    return {done, p: Math.floor(last / conv.columns), q: last % conv.columns};
  }

  function drawForward() {
    const {o, c, p, q} = state, {places, kernel, read} = here();
    const products = read.map((x, i) => x * kernel[i]);
    const {all, bias, total} = conv.output(o, p, q), sum = products.reduce((s, v) => s + v, 0);
    const width = step.settings.kernel[1];
    const cells = read.map((x, i) => ({value: x, padding: places[i].place < 0}));
    const many = weight.perGroup.inputs;
    forward.replaceChildren(
      make("div", {class: "tables"},
        kernelTable(`window of x[${c}] at (${p}, ${q})`, cells, width, "window"), sign("·"),
        kernelTable(`kernel w[${o},${c}]`, plainCells(kernel), width, "kernel"), sign("="),
        kernelTable("products", plainCells(products), width, "products")),
      sums([
        [`sum of the products, channel c = ${c}`, sum, "channel-sum"],
        ...(many > 1 ? [[`sum over all ${many} input channels`, all, "all-channels"]] : []),
        [step.bias === null ? "no bias" : `bias b[${o}]`, bias, "bias"],
        [`y[${o},${p},${q}]`, total, "output"],
      ]),
      make("p", {class: "dim"}, "in the map: ", value(y.at(o, p, q), "traced-output")));
  }

  function here() {
    const {o, c, p, q} = state;
    return {places: conv.window(p, q), kernel: Array.from(weight.kernel(o, c)), read: conv.read(c, p, q)};
  }

  function drawBackward() {
    const {o, c, p, q, done} = state, g = conv.grad.map(o)[p * conv.columns + q], {kernel, read} = here();
    play.draw(done === 0 ? `0 of ${conv.positions} windows: nothing yet`
      : `${done} of ${conv.positions} windows: (p, q) = (${p}, ${q}), g[${o},${p},${q}] = ${show(g)}`);
    windowMap.draw();
    weightMap.draw();
    const width = step.settings.kernel[1], theirs = weight.gradient(o, c), sum = conv.weightAfter(done, o, c);
    const scale = Math.max(greatest(theirs), 1e-30);
    weights.replaceChildren(
      kernelTable(`g · window = ${show(g, 3)} · x`, plainCells(read.map(x => done ? g * x : 0)), width, "share", scale), sign("→"),
      kernelTable(`sum of ${done} windows`, plainCells(sum), width, "weight-sum", scale), sign("≟"),
      kernelTable(`∂L/∂w[${o},${c}] of cnnexp's backward`, plainCells(theirs), width, "weight-gradient", scale));
    weightsAgree.replaceChildren(agreement(Array.from(sum), theirs, "weight-agreement"));
    const held = weight.hasColumn(c) && gradX !== null;
    for (const node of ofInput) node.hidden = !held;
    noInput.hidden = held;
    if (!held) return;
    running = conv.inputAfter(done, c, outputs());
    runningMap.draw();
    finalMap.draw();
    const share = make("p", {class: "dim"}, done === 0 ? "" : `This window adds g · w[${o},${c}] = ${show(g, 3)} · kernel, `
      + `at most ${show(greatest(kernel.map(w => g * w)), 3)} to one place.`);
    inputsAgree.replaceChildren(share, agreement(Array.from(running), gradX.map(c), "input-agreement"));
  }

  const nodes = [
    make("h3", {}, "Forward"), formula(CONV_FORWARD), make("p", {class: "dim"}, settingsText(step.settings)),
    make("div", {class: "controls"}, inputs.node), forward];
  if (conv.grad) {
    nodes.push(make("h3", {}, "Backward, window by window"),
      make("p", {class: "dim"}, "g = ∂L/∂y comes from the layer behind. Each position (p, q) hands its g to the kernel, weighted with the "
        + "window that it read, and to the input, weighted with the kernel."),
      play.node, make("h4", {class: "part"}, "To the kernel"), formula(CONV_WEIGHT), weights, weightsAgree,
      make("h4", {class: "part"}, "To the input"), formula(CONV_INPUT), toggle,
      make("div", {class: "maps"}, windowMap.node, weightMap.node, runningMap.node, finalMap.node), inputsAgree, noInput);
    if (step.grad_bias !== null) {
      nodes.push(make("h4", {class: "part"}, "To the bias"), formula("∂L/∂<var>b</var>[o] = Σ<sub>p,q</sub> <var>g</var>[o,p,q]"), biases);
    }
  }

  function drawBias() {
    if (step.grad_bias === null) return;
    const mine = conv.grad.map(state.o).reduce((s, v) => s + v, 0);
    biases.replaceChildren(sums([[`sum of g[${state.o}] over all positions`, mine, "bias-sum"]]),
      make("p", {class: "dim"}, "of cnnexp's backward: ", value(tensor(step.grad_bias).values[state.o], "bias-gradient")));
  }

  return {
    nodes,
    outputs: weight.outputs,
    note: weight.isWhole ? null : `This layer has ${weight.channels}×${step.input_shape[0]} kernels. The page holds those of `
      + `${weight.outputs.length} output and ${weight.inputs.length} input channels, the first ones and those of the largest `
      + "gradients, and all that their sums need of the others.",
    inputChannel: () => state.c,
    inputMarks: () => windowMarks(conv.window(state.p, state.q)),
    // One of the channels to choose from; at first the one that adds most to the output.
    settle(first) {
      const choices = weight.choices(state.o);
      if (first || !choices.includes(state.c)) {
        const size = c => Math.abs(conv.channelSum(state.o, c, state.p, state.q));
        state.c = choices.reduce((best, c) => size(c) > size(best) ? c : best, choices[0]);
      }
    },
    onPick: (p, q) => ({p, q, done: p * conv.columns + q + 1}),
    draw() {
      inputs.draw();
      drawForward();
      if (conv.grad) { drawBackward(); drawBias(); }
    },
  };
}

// Rectangles around a window: one around all of it, and thin ones where a dilation leaves gaps.
function windowMarks(places) {
  const inside = places.filter(({place}) => place >= 0);
  if (!inside.length) return [];
  const [top, bottom] = range(inside.map(each => each.row)), [left, right] = range(inside.map(each => each.column));
  const whole = {row: top, column: left, height: bottom - top + 1, width: right - left + 1};
  const gaps = whole.height * whole.width > inside.length;
  return [whole, ...(gaps ? inside.map(({row, column}) => ({row, column, thin: true})) : [])];
}
