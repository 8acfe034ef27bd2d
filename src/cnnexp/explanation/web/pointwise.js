// Layers that compute each value by itself: activations, normalisation, and those that pass it on.

const SQRT_2 = Math.sqrt(2), SQRT_2_PI = Math.sqrt(2 / Math.PI);

// erf by its series, or its continued fraction where the series is slow.
function erf(z) {
  if (Math.abs(z) > 3) {
    const t = Math.abs(z);
    let fraction = t;
    for (let n = 40; n > 0; n--) fraction = t + n / 2 / fraction;
    return Math.sign(z) * (1 - Math.exp(-t * t) / (Math.sqrt(Math.PI) * fraction));
  }
  let term = z, sum = z;
  for (let n = 1; n < 60; n++) {
    term *= -z * z / n;
    sum += term / (2 * n + 1);
  }
  return 2 / Math.sqrt(Math.PI) * sum;
}

const sigmoid = z => 1 / (1 + Math.exp(-z));
const inner = z => SQRT_2_PI * (z + 0.044715 * z ** 3);

// By kind: φ, φ′ and their formulas, given the settings.
const ACTIVATIONS = {
  ReLU: () => [z => Math.max(0, z), z => z > 0 ? 1 : 0, "φ(z) = max(0, z)", "φ′(z) = 1 for z > 0, else 0"],
  LeakyReLU: ({slope}) => [z => z > 0 ? z : slope * z, z => z > 0 ? 1 : slope,
    `φ(z) = z for z > 0, else ${show(slope)}·z`, `φ′(z) = 1 for z > 0, else ${show(slope)}`],
  Tanh: () => [Math.tanh, z => 1 - Math.tanh(z) ** 2, "φ(z) = tanh z", "φ′(z) = 1 − tanh² z"],
  Sigmoid: () => [sigmoid, z => sigmoid(z) * (1 - sigmoid(z)), "φ(z) = σ(z) = 1/(1 + e<sup>−z</sup>)", "φ′(z) = σ(z)·(1 − σ(z))"],
  GELU: ({approximate}) => approximate === "tanh"
    ? [z => 0.5 * z * (1 + Math.tanh(inner(z))),
      z => 0.5 * (1 + Math.tanh(inner(z))) + 0.5 * z * (1 - Math.tanh(inner(z)) ** 2) * SQRT_2_PI * (1 + 3 * 0.044715 * z * z),
      "φ(z) = ½z·(1 + t), t = tanh(√(2/π)·(z + 0.044715·z³))", "φ′(z) = ½(1 + t) + ½z·(1 − t²)·√(2/π)·(1 + 0.134145·z²)"]
    : [z => 0.5 * z * (1 + erf(z / SQRT_2)),
      z => 0.5 * (1 + erf(z / SQRT_2)) + z * Math.exp(-z * z / 2) / Math.sqrt(2 * Math.PI),
      "φ(z) = z·Φ(z), Φ the normal distribution", "φ′(z) = Φ(z) + z·e<sup>−z²/2</sup>/√(2π)"],
};

// The numbers of one position: x, y, g, ∂L/∂x as traced.
function pointOf(step, state) {
  const read = number => {
    const map = view(number);
    return map && map.at(state.o, state.p, state.q);
  };
  return {x: read(step.input), y: read(step.output), g: read(step.grad_output), grad: read(step.grad_input)};
}

function here(state, view) {
  return view.isVector ? `[${state.p * view.width + state.q}]` : `[${state.o},${state.p},${state.q}]`;
}

function activationPanel(step, state) {
  const [phi, slope, forwardFormula, slopeFormula] = ACTIVATIONS[step.kind](step.settings);
  const forward = make("div"), backward = make("div"), output = view(step.output);
  function draw() {
    const {x, y, g, grad} = pointOf(step, state), at = here(state, output);
    forward.replaceChildren(sums([[`z${at}`, x, "input"], [`a${at} = φ(z)`, phi(x), "output"]]),
      make("p", {class: "dim"}, "in the map: ", value(y, "traced-output")));
    if (g !== null) {
      backward.replaceChildren(sums([[`∂L/∂a${at}`, g, "grad-output"], ["φ′(z)", slope(x), "slope"],
        [`∂L/∂z${at} = ∂L/∂a · φ′(z)`, g * slope(x), "input-sum"]]),
        make("p", {class: "dim"}, "of cnnexp's backward: ", value(grad, "input-gradient")));
    }
  }
  return {nodes: [make("h3", {}, "Forward"), formula(`<var>a</var> = φ(<var>z</var>), ${forwardFormula}`), forward,
    make("h3", {}, "Backward"), formula(`∂L/∂<var>z</var> = ∂L/∂<var>a</var> · φ′(<var>z</var>), ${slopeFormula}`), backward], draw};
}

// Batch normalisation in evaluation mode: one straight line per channel, by running statistics.
function batchNormPanel(step, state) {
  const {mean, variance, eps} = step.settings;
  if (!mean) return describedPanel("It normalises by the statistics of the batch; there is no formula for that on this page.")(step, state);
  const scale = tensor(step.scale), bias = tensor(step.bias), forward = make("div"), backward = make("div");
  function draw() {
    const c = state.o, {x, y, g, grad} = pointOf(step, state), deviation = Math.sqrt(variance[c] + eps);
    const gamma = scale ? scale.values[c] : 1, beta = bias ? bias.values[c] : 0;
    const at = here(state, view(step.output));
    forward.replaceChildren(sums([[`x${at}`, x, "input"], [`running mean μ[${c}]`, mean[c], "mean"], [`√(σ²[${c}] + ε)`, deviation, "deviation"],
      [`scale γ[${c}]`, gamma, "scale"], [`shift β[${c}]`, beta, "bias"], [`y${at}`, gamma * (x - mean[c]) / deviation + beta, "output"]]),
      make("p", {class: "dim"}, "in the map: ", value(y, "traced-output")));
    if (g !== null) {
      backward.replaceChildren(sums([[`∂L/∂y${at}`, g, "grad-output"], ["γ/√(σ² + ε)", gamma / deviation, "slope"],
        [`∂L/∂x${at}`, g * gamma / deviation, "input-sum"]]),
        make("p", {class: "dim"}, "of cnnexp's backward: ", value(grad, "input-gradient")));
    }
  }
  return {nodes: [make("h3", {}, "Forward"), formula("<var>y</var> = γ·(<var>x</var> − μ)/√(σ² + ε) + β"),
    make("p", {class: "dim"}, "In evaluation mode mean μ and variance σ² are those that training has gathered, constants like γ and β."), forward,
    make("h3", {}, "Backward"), formula("∂L/∂<var>x</var> = γ/√(σ² + ε) · ∂L/∂<var>y</var>"), backward], draw};
}

// Group normalisation: mean and variance of this image's own group of channels.
function groupNormPanel(step, state) {
  const {groups, eps} = step.settings, x = tensor(step.input), g = tensor(step.grad_output);
  const scale = tensor(step.scale), bias = tensor(step.bias), channels = step.input_shape[0];
  const size = x.values.length / channels, perGroup = channels / groups;
  const forward = make("div"), backward = make("div");
  const mean = values => values.reduce((sum, v) => sum + v, 0) / values.length;
  function draw() {
    const c = state.o, first = Math.floor(c / perGroup) * perGroup, of = point => c * size + point;
    const point = state.p * view(step.input).width + state.q;
    const own = Array.from(x.values.subarray(first * size, (first + perGroup) * size));
    const mu = mean(own), deviation = Math.sqrt(mean(own.map(v => (v - mu) ** 2)) + eps);
    const gamma = i => scale ? scale.values[first + Math.floor(i / size)] : 1, beta = bias ? bias.values[c] : 0;
    const normalised = own.map(v => (v - mu) / deviation), i = of(point) - first * size, at = here(state, view(step.output));
    forward.replaceChildren(sums([[`x${at}`, own[i], "input"], [`mean μ of channels ${first}…${first + perGroup - 1}`, mu, "mean"],
      ["√(σ² + ε) of these", deviation, "deviation"], [`scale γ[${c}]`, gamma(i), "scale"], [`shift β[${c}]`, beta, "bias"],
      [`y${at}`, gamma(i) * normalised[i] + beta, "output"]]),
      make("p", {class: "dim"}, "in the map: ", value(tensor(step.output).values[of(point)], "traced-output")));
    if (g === null) return;
    const scaled = own.map((_, n) => gamma(n) * g.values[first * size + n]);
    const meanOf = mean(scaled), meanWith = mean(scaled.map((v, n) => v * normalised[n]));
    backward.replaceChildren(sums([["ĝ = γ·∂L/∂y", scaled[i], "grad-output"], ["mean of ĝ", meanOf, "mean-grad"],
      ["x̂ · mean of ĝ·x̂", normalised[i] * meanWith, "along"],
      [`∂L/∂x${at}`, (scaled[i] - meanOf - normalised[i] * meanWith) / deviation, "input-sum"]]),
      make("p", {class: "dim"}, "of cnnexp's backward: ", value(tensor(step.grad_input).values[of(point)], "input-gradient")));
  }
  return {nodes: [make("h3", {}, "Forward"), formula("<var>y</var> = γ·<var>x̂</var> + β, <var>x̂</var> = (<var>x</var> − μ)/√(σ² + ε), "
    + "μ and σ² of the channel's group"), forward, make("h3", {}, "Backward"),
  formula("∂L/∂<var>x</var> = (ĝ − mean ĝ − <var>x̂</var>·mean(ĝ·<var>x̂</var>))/√(σ² + ε), ĝ = γ·∂L/∂<var>y</var>: μ and σ² depend on x as well"),
  backward], draw};
}

// A layer that a sentence describes.
const describedPanel = text => () => ({nodes: [make("p", {class: "note"}, text)], draw() {}});
