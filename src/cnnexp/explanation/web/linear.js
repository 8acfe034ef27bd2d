// The linear layer: the inputs that make an output, and the gradients that it passes to weights and inputs.

const MOST_SHARES = 10;  // contributions that are listed

function linearPanel(step, state, update) {
  const weight = new Weight(step), x = tensor(step.input), y = tensor(step.output), bias = tensor(step.bias);
  const grad = tensor(step.grad_output), gradX = tensor(step.grad_input), inputView = view(step.input), outputView = view(step.output);
  const forward = make("div"), backward = make("div");
  const outputs = chooser("output k", () => weight.outputs, () => state.k, k => update(atOutput(k)));
  const inputs = chooser("input j", () => weight.inputs, () => state.c, c => update({c}));
  const atOutput = k => ({k, p: Math.floor(k / outputView.width), q: k % outputView.width});
  const nearest = (held, wanted) => held.reduce((best, i) => Math.abs(i - wanted) < Math.abs(best - wanted) ? i : best, held[0]);

  function drawForward() {
    const k = state.k, row = weight.inputsOf(0).map(j => weight.kernel(k, j)[0]);
    const shares = row.map((w, j) => ({j, w, share: w * x.values[j]}));
    const all = shares.reduce((sum, each) => sum + each.share, 0), b = bias ? bias.values[k] : 0;
    const largest = [...shares].sort((a, b) => Math.abs(b.share) - Math.abs(a.share)).slice(0, MOST_SHARES);
    const most = Math.max(...largest.map(each => Math.abs(each.share)), 1e-30);
    const list = make("ol", {class: "bars", "aria-label": "the largest contributions"}, largest.map(({j, w, share}) => {
      const bar = make("i", {class: share < 0 ? null : "backward"});
      bar.style.width = `${100 * Math.abs(share) / most}%`;
      bar.style.background = css(colour(Math.sign(share), 1));
      return make("li", {title: `w = ${show(w)}, x = ${show(x.values[j])}`},
        make("span", {}, `j = ${j}`), make("span", {class: "bar"}, bar), value(share, "contribution"));
    }));
    const rest = all - largest.reduce((sum, each) => sum + each.share, 0), others = shares.length - largest.length;
    forward.replaceChildren(make("h4", {}, `the largest of the ${shares.length} products w[${k},j]·x[j]`), list,
      sums([
        ...(others > 0 ? [[`the other ${others} products`, rest, "rest"]] : []),
        ["sum of all products", all, "all-channels"],
        [bias ? `bias b[${k}]` : "no bias", b, "bias"],
        [`y[${k}]`, all + b, "output"],
      ]),
      make("p", {class: "dim"}, "in the map: ", value(y.values[k], "traced-output")));
  }

  function drawBackward() {
    const {k, c: j} = state, g = grad.values[k], product = g * x.values[j];
    const parts = [
      formula(`∂L/∂<var>w</var>[${k},${j}] = <var>g</var>[${k}] · <var>x</var>[${j}] = ${show(g)} · ${show(x.values[j])} = ${show(product)}`),
      make("p", {class: "dim"}, "of cnnexp's backward: ", value(weight.gradient(k, j)[0], "weight-gradient"),
        ", here: ", value(product, "weight-sum"))];
    if (gradX && weight.hasColumn(j)) {
      const sum = grad.values.reduce((s, each, i) => s + each * weight.columnKernel(i, j)[0], 0);
      parts.push(formula(`∂L/∂<var>x</var>[${j}] = Σ<sub>k</sub> <var>w</var>[k,${j}] · <var>g</var>[k] = ${show(sum)}`),
        make("p", {class: "dim"}, "of cnnexp's backward: ", value(gradX.values[j], "input-gradient"),
          ", here: ", value(sum, "input-sum")));
    }
    backward.replaceChildren(...parts);
  }

  return {
    nodes: [make("h3", {}, "Forward"), formula("<var>y</var>[k] = Σ<sub>j</sub> <var>w</var>[k,j] · <var>x</var>[j] + <var>b</var>[k]"),
      make("div", {class: "controls"}, outputs.node, inputs.node), forward,
      ...(grad ? [make("h3", {}, "Backward"),
        make("p", {class: "dim"}, "g = ∂L/∂y comes from the layer behind. A weight gets the g of its output times its input; an input gets the g of "
          + "every output, times the weight between them."),
        backward] : [])],
    note: weight.isWhole ? null : `This layer has ${weight.channels}×${weight.perGroup.inputs} weights. The page holds those of `
      + `${weight.outputs.length} outputs and ${weight.inputs.length} inputs, the first ones and those of the largest gradients, and `
      + "all that their sums need of the others.",
    inputChannel: () => 0,
    inputMarks: () => [{row: Math.floor(state.c / inputView.width), column: state.c % inputView.width}],
    pickInput: (row, column) => update({c: nearest(weight.inputs, row * inputView.width + column)}),
    inputPosition: () => [Math.floor(state.c / inputView.width), state.c % inputView.width],
    settle(first) {
      const k = nearest(weight.outputs, Math.min(state.p * outputView.width + state.q, weight.channels - 1));
      Object.assign(state, atOutput(k));
      const size = j => Math.abs(weight.kernel(k, j)[0] * x.values[j]);
      if (first) state.c = weight.inputs.reduce((best, j) => size(j) > size(best) ? j : best, weight.inputs[0]);
    },
    onPick: (p, q) => ({p, q}),
    draw() {
      outputs.draw();
      inputs.draw();
      drawForward();
      if (grad) drawBackward();
    },
  };
}
