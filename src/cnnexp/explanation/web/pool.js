// Pooling: the winner of a window, or its mean; on the way back the gradient goes to where the value came from.

const POOL_FORMULAS = {
  MaxPool2d: ["<var>y</var>[c,p,q] = max of the window at (p,q)",
    "∂L/∂<var>x</var>[c,i,j] = Σ <var>g</var>[c,p,q] over the windows that (i,j) has won; the first of equals, in row-major order, wins"],
  AvgPool2d: ["<var>y</var>[c,p,q] = 1/n · Σ <var>x</var> over the window at (p,q)",
    "∂L/∂<var>x</var>[c,i,j] = Σ 1/n · <var>g</var>[c,p,q] over the windows that (i,j) lies in"],
};
POOL_FORMULAS.AdaptiveAvgPool2d = POOL_FORMULAS.AvgPool2d;

function poolPanel(step, state, update) {
  const pool = new Pooling(step), isMax = step.kind === "MaxPool2d";
  const y = view(step.output), gradX = view(step.grad_input);
  const forward = make("div"), agree = make("div");
  const play = player("windows done", pool.positions, () => state.done, done => {
    const last = Math.max(0, done - 1);
    update({done, p: Math.floor(last / pool.columns), q: last % pool.columns});
  });
  let running = null;
  const marks = () => {
    const {places} = pool.window(state.p, state.q), won = isMax ? pool.winner(state.o, state.p, state.q) : -1;
    return [...windowMarks(places), ...(won >= 0 ? [{...places[won], height: 1, width: 1}] : [])];
  };
  const runningMap = largeMap(() => ({title: `the sum so far: ∂L/∂x[${state.o}]`, values: running,
    height: pool.height, width: pool.width, marks: state.done ? marks() : [],
    most: Math.max(greatest(running), greatest(gradX.map(state.o)))}));
  const finalMap = largeMap(() => ({title: `∂L/∂x[${state.o}] of cnnexp's backward`, values: gradX.map(state.o),
    height: pool.height, width: pool.width, marks: []}));
  const [forwardFormula, backwardFormula] = POOL_FORMULAS[step.kind];
  const nodes = [make("h3", {}, "Forward"), formula(forwardFormula)];
  if (step.settings.kernel) nodes.push(make("p", {class: "dim"}, settingsText(step.settings)));
  nodes.push(forward);
  const hasGradient = pool.grad && gradX;
  if (hasGradient) {
    nodes.push(make("h3", {}, "Backward, window by window"), formula(backwardFormula), play.node,
      make("div", {class: "maps"}, runningMap.node, finalMap.node), agree);
  }

  function draw() {
    const {o, p, q, done} = state, map = pool.x.map(o), {places, width, divisor} = pool.window(p, q);
    const won = isMax ? pool.winner(o, p, q) : -1;
    const cells = places.map(({place}, i) => ({value: place < 0 ? (isMax ? -Infinity : 0) : map[place],
      padding: place < 0, winner: i === won}));
    const total = pool.output(o, p, q), rows = [];
    if (!isMax) rows.push([`sum of the window, to be divided by n = ${divisor}`, total * divisor, "channel-sum"]);
    rows.push([isMax ? `the greatest: y[${o},${p},${q}]` : `y[${o},${p},${q}]`, total, "output"]);
    const shown = cells.length <= 400 ? kernelTable(`window of x[${o}] at (${p}, ${q})`, cells, width, "window")
      : make("p", {class: "dim"}, `a window of ${cells.length} values`);
    forward.replaceChildren(make("div", {class: "tables"}, shown), sums(rows),
      make("p", {class: "dim"}, "in the map: ", value(y.at(o, p, q), "traced-output")));
    if (!hasGradient) return;
    const g = pool.grad.at(o, p, q);
    play.draw(done === 0 ? `0 of ${pool.positions} windows: nothing yet`
      : `${done} of ${pool.positions} windows: (p, q) = (${p}, ${q}) hands ${isMax ? `g = ${show(g)} to the winner`
        : `g/n = ${show(g / divisor)} to each place`}`);
    running = pool.inputAfter(done, o);
    runningMap.draw();
    finalMap.draw();
    agree.replaceChildren(agreement(Array.from(running), gradX.map(o), "input-agreement"));
  }

  return {nodes, draw, inputChannel: () => state.o, inputMarks: marks,
    onPick: (p, q) => ({p, q, done: p * pool.columns + q + 1})};
}
