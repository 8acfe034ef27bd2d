// The sums of convolution and pooling, by definition, as docs/derivation.md writes them; no access to the page.

// The position on an axis that padded position i copies; −1 where the padding is 0.
function continued(i, size, mode) {
  if (i >= 0 && i < size) return i;
  if (mode === "replicate") return Math.max(0, Math.min(size - 1, i));
  if (mode === "circular") return ((i % size) + size) % size;
  if (mode === "reflect") return i < 0 ? -i : 2 * (size - 1) - i;
  return -1;
}

// The places that the window of output (p, q) reads, in row-major order: row and column, −1 off the image.
function windowAt({kernel, stride, dilation, padding, mode}, height, width, p, q) {
  const places = [];
  for (let u = 0; u < kernel[0]; u++) {
    for (let v = 0; v < kernel[1]; v++) {
      const row = continued(p * stride[0] + u * dilation[0] - padding[0], height, mode);
      const column = continued(q * stride[1] + v * dilation[1] - padding[2], width, mode);
      const inside = row >= 0 && column >= 0;
      places.push({row, column, place: inside ? row * width + column : -1});
    }
  }
  return places;
}

class Convolution {
  constructor(step) {
    this.settings = step.settings;
    this.x = view(step.input);
    this.grad = view(step.grad_output);
    this.bias = tensor(step.bias);
    this.weight = new Weight(step);
    [this.height, this.width] = step.input_shape.slice(-2);
    [this.rows, this.columns] = step.output_shape.slice(-2);
    this.positions = this.rows * this.columns;
    this.windows = new Map();
  }

  window(p, q) {
    const key = p * this.columns + q;
    if (!this.windows.has(key)) this.windows.set(key, windowAt(this.settings, this.height, this.width, p, q));
    return this.windows.get(key);
  }

  // The values that the window reads in one input channel; 0 off the image.
  read(c, p, q) {
    const map = this.x.map(c);
    return this.window(p, q).map(({place}) => place < 0 ? 0 : map[place]);
  }

  // Σ_{u,v} x · w over one input channel.
  channelSum(o, c, p, q) {
    const kernel = this.weight.kernel(o, c);
    return this.read(c, p, q).reduce((sum, x, i) => sum + x * kernel[i], 0);
  }

  // y[o, p, q]: the sums over all input channels, and the bias.
  output(o, p, q) {
    const own = this.weight.inputsOf(o).map(c => this.channelSum(o, c, p, q));
    const all = own.reduce((sum, v) => sum + v, 0), bias = this.bias ? this.bias.values[o] : 0;
    return {all, bias, total: all + bias};
  }

  // ∂L/∂w[o, c] after the first `count` positions: Σ g[o, p, q] · window of x at (p, q).
  weightAfter(count, o, c) {
    const sum = new Float64Array(this.weight.size), grad = this.grad.map(o), x = this.x.map(c);
    for (let k = 0; k < count; k++) {
      const g = grad[k], places = this.window(Math.floor(k / this.columns), k % this.columns);
      for (let i = 0; i < places.length; i++) {
        if (places[i].place >= 0) sum[i] += g * x[places[i].place];
      }
    }
    return sum;
  }

  // ∂L/∂x[c] after the first `count` positions: each adds g[o, p, q] · w[o, c] to its window, for each o.
  inputAfter(count, c, outputs) {
    const sum = new Float64Array(this.height * this.width);
    for (const o of outputs) {
      const kernel = this.weight.columnKernel(o, c), grad = this.grad.map(o);
      for (let k = 0; k < count; k++) {
        const g = grad[k];
        if (g === 0) continue;
        const places = this.window(Math.floor(k / this.columns), k % this.columns);
        for (let i = 0; i < places.length; i++) {
          if (places[i].place >= 0) sum[places[i].place] += g * kernel[i];
        }
      }
    }
    return sum;
  }
}

class Pooling {
  constructor(step) {
    this.kind = step.kind;
    this.settings = step.settings;
    this.x = view(step.input);
    this.grad = view(step.grad_output);
    [this.height, this.width] = step.input_shape.slice(-2);
    [this.rows, this.columns] = step.output_shape.slice(-2);
    this.positions = this.rows * this.columns;
  }

  // {places, width, divisor} of the window of output (p, q); the mean is the sum over the divisor.
  window(p, q) {
    if (this.kind === "AdaptiveAvgPool2d") return this._adaptive(p, q);
    const {kernel, stride, padding, count_padding, divisor} = this.settings;
    const places = windowAt(this.settings, this.height, this.width, p, q);
    const top = p * stride[0] - padding[0], left = q * stride[1] - padding[2];
    const padded = (Math.min(top + kernel[0], this.height + padding[1]) - top)
      * (Math.min(left + kernel[1], this.width + padding[3]) - left);
    const inside = places.filter(({place}) => place >= 0).length;
    return {places, width: kernel[1], divisor: divisor || (count_padding ? padded : inside)};
  }

  // Windows that divide the image evenly.
  _adaptive(p, q) {
    const ends = (i, size, count) => [Math.floor(i * size / count), Math.ceil((i + 1) * size / count)];
    const [top, bottom] = ends(p, this.height, this.rows), [left, right] = ends(q, this.width, this.columns);
    const places = [];
    for (let row = top; row < bottom; row++) {
      for (let column = left; column < right; column++) places.push({row, column, place: row * this.width + column});
    }
    return {places, width: right - left, divisor: places.length};
  }

  // The index in the window of its greatest value, the first in row-major order; as torch, NaN wins.
  winner(c, p, q) {
    const map = this.x.map(c);
    let best = -1;
    this.window(p, q).places.forEach(({place}, i, places) => {
      if (place < 0) return;
      if (best < 0 || map[place] > map[places[best].place] || Number.isNaN(map[place])) best = i;
    });
    return best;
  }

  output(c, p, q) {
    const map = this.x.map(c), {places, divisor} = this.window(p, q);
    if (this.kind === "MaxPool2d") return map[places[this.winner(c, p, q)].place];
    return places.reduce((sum, {place}) => place < 0 ? sum : sum + map[place], 0) / divisor;
  }

  // ∂L/∂x[c] after the first `count` positions.
  inputAfter(count, c) {
    const sum = new Float64Array(this.height * this.width), grad = this.grad.map(c);
    for (let k = 0; k < count; k++) {
      const p = Math.floor(k / this.columns), q = k % this.columns, {places, divisor} = this.window(p, q);
      if (this.kind === "MaxPool2d") sum[places[this.winner(c, p, q)].place] += grad[k];
      else for (const {place} of places) if (place >= 0) sum[place] += grad[k] / divisor;
    }
    return sum;
  }
}
