// The head of the page, the flow of layers, and the cards.

function pictures() {
  const image = tensor(trace.pixels), x = tensor(trace.input), grad = tensor(trace.grad_input);
  const [channels, height, width] = image.shape, size = height * width;
  const grey = i => Array.from({length: 3}, (_, c) => Math.round(255 * image.values[(channels === 3 ? c : 0) * size + i]));
  const over = combine => Float32Array.from({length: size}, (_, i) =>
    Array.from({length: channels}, (_, c) => combine(grad.values[c * size + i], x.values[c * size + i])).reduce((sum, v) => sum + v, 0));
  const maps = [
    {title: "the image", values: image.values, colours: grey},
    {title: "|∂L/∂x|: where a change changes the loss most", values: over(g => Math.abs(g))},
    {title: "x · ∂L/∂x: what each pixel adds to the loss, to first order", values: over((g, v) => g * v)},
  ].map(map => largeMap(() => ({height, width, marks: [], ...map})));
  maps.forEach(map => map.draw());
  redrawn.push(() => maps.forEach(map => map.draw()));
  document.getElementById("pictures").append(...maps.map(map => map.node));
}

function answer() {
  const p = tensor(trace.probabilities).values, order = trace.classes.map((_, k) => k), best = order.reduce((b, k) => p[k] > p[b] ? k : b, 0);
  const truth = trace.true_class === null ? "true class unknown" : `true class ${trace.classes[trace.true_class]}`;
  document.getElementById("verdict").append(`${trace.image}: ${truth}, predicted `, make("b", {}, trace.classes[best]),
    ` with ${percent(p[best])}. Loss of class ${trace.classes[trace.label]}: L = `, value(trace.loss, "loss"));
  const shown = order.length <= 12 ? order : [...new Set([trace.label, ...order.sort((a, b) => p[b] - p[a]).slice(0, 11)])];
  document.getElementById("classes").append(...shown.map(k => {
    const bar = make("i");
    bar.style.width = `${100 * p[k]}%`;
    const label = k === trace.label ? {class: "true", title: "the class whose loss is explained"} : {};
    return make("li", label, make("span", {}, trace.classes[k]), make("span", {class: "bar"}, bar), make("span", {}, percent(p[k])));
  }));
}

// A logarithmic scale of whole decades, the same on every page: stretched to the values of one page, a
// factor of 2 would look like a vanished gradient. Only values beyond its ends make it longer.
function decades(values) {
  const logs = values.filter(v => v > 0 && Number.isFinite(v)).map(Math.log10);
  const least = Math.min(-6, ...logs.map(Math.floor)), most = Math.max(3, ...logs.map(Math.ceil));
  const width = v => v > 0 ? 100 * Math.min(1, (Math.log10(v) - least) / (most - least)) : 0;
  return {least, most, count: most - least, width};
}

const powerOfTen = exponent => exponent === 0 ? "1" : exponent === 1 ? "10" : `10${superscript(exponent)}`;

function flow(cards) {
  const rows = [...trace.steps, {name: "softmax cross-entropy", kind: "loss", norm: trace.loss, grad_norm: null, output_shape: []}];
  const scale = decades(trace.steps.flatMap(step => [step.norm, step.grad_norm || 0]));
  const roomFor1 = scale.width(1) > 25 && scale.width(1) < 75;
  const ticks = [scale.least, ...(roomFor1 ? [0] : []), scale.most].map(exponent => {
    const label = make("span", {"data-exponent": exponent}, powerOfTen(exponent));
    label.style.left = `${scale.width(10 ** exponent)}%`;
    return label;
  });
  const bar = (norm, kind) => {
    const filled = make("i", {class: kind, "data-value": norm});
    filled.style.width = `${scale.width(norm)}%`;
    return make("div", {class: norm > 0 ? "bar some" : "bar"}, filled);
  };
  document.getElementById("scale").textContent = `a mark each factor of 10, from ${powerOfTen(scale.least)} to ${powerOfTen(scale.most)}`;
  const list = document.getElementById("flow");
  list.style.setProperty("--decades", scale.count);
  list.append(...rows.map((step, i) => {
    const isLoss = step.kind === "loss";
    const numbers = isLoss ? `L = ${show(step.norm, 3)}` : `‖y‖ ${show(step.norm, 3)}, ‖g‖ ${show(step.grad_norm, 3)}`;
    const link = make("a", {href: `#layer-${i}`, onclick: event => {
      event.preventDefault();
      cards[i].open = true;
      cards[i].scrollIntoView({block: "start"});
      cards[i].querySelector("summary").focus({preventScroll: true});
    }}, make("b", {}, step.name), make("small", {}, isLoss ? "∂L/∂L = 1" : shape(step.output_shape)),
    ...(isLoss ? [] : [bar(step.norm, "forward"), bar(step.grad_norm || 0, "backward"),
      make("div", {class: "ticks", "aria-hidden": "true"}, ticks.map(tick => tick.cloneNode(true)))]),
    make("span", {class: "numbers"}, numbers));
    return make("li", {}, link);
  }));
}

document.getElementById("about").textContent = `Network: ${trace.origin.network}. Image: ${trace.image}.`;
pictures();
answer();
pull();
const cards = [...trace.steps.map(layerCard), lossCard(trace.steps.length)];
document.getElementById("layers").append(...cards);
flow(cards);
document.getElementById("footer").append("Made by ", make("code", {}, trace.origin.command), ` with cnnexp ${trace.version} on ${trace.made}. `
  + "Gradients are those of cnnexp's own backward; sums marked with ≟ are computed in this page from the numbers beside them.");
const firstOpen = cards.find((_, i) => trace.steps[i] && trace.steps[i].kind === "Conv2d") || cards[0];
firstOpen.addEventListener("toggle", () => { document.documentElement.dataset.ready = "yes"; }, {once: true});
firstOpen.open = true;
