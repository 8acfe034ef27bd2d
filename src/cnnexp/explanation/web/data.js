"use strict";
// The page's data: the trace, its tensors decoded when they are first needed, and views of them as maps.

const trace = JSON.parse(document.getElementById("data").textContent);
const decoded = new Map();

// The tensor with this number: {shape, values}; null for null.
function tensor(number) {
  if (number === null || number === undefined) return null;
  if (!decoded.has(number)) {
    const {shape, data} = trace.tensors[number];
    const bytes = Uint8Array.from(atob(data), character => character.charCodeAt(0));
    decoded.set(number, {shape, values: new Float32Array(bytes.buffer)});
  }
  return decoded.get(number);
}

// A tensor as maps (channels, height, width): images as they are, a vector as rows of one map.
class View {
  constructor({shape, values}, channels) {
    this.values = values;
    this.isVector = shape.length === 1;
    if (this.isVector) {
      this.width = Math.min(shape[0], 32);
      this.height = Math.ceil(shape[0] / this.width);
      this.count = 1;
    } else {
      [this.height, this.width] = shape.slice(-2);
      this.count = values.length / Math.max(1, this.height * this.width);
    }
    this.names = channels || Array.from({length: this.count}, (_, i) => i);
    this.size = this.height * this.width;
  }

  // The values of one channel, in row-major order; a vector's last row may be short.
  map(channel) {
    const place = this.names.indexOf(channel);
    return this.values.subarray(place * this.size, (place + 1) * this.size);
  }

  at(channel, row, column) { return this.map(channel)[row * this.width + column]; }
}

const view = (number, channels) => { const t = tensor(number); return t && new View(t, channels); };

// The weight (C_out, C_in/groups, kernel) of a layer, of which the page may hold only some channels.
class Weight {
  constructor(step) {
    const packed = step.weight;
    this.rows = tensor(packed.rows);
    this.columns = tensor(packed.columns);
    this.grad = tensor(packed.grad);
    this.outputs = packed.outputs;
    this.inputs = packed.inputs;
    this.isWhole = packed.columns === null;
    this.groups = step.settings.groups || 1;
    this.channels = step.output_shape[0];
    this.perGroup = {outputs: this.channels / this.groups, inputs: this.rows.shape[1]};
    this.size = this.rows.shape.slice(2).reduce((product, n) => product * n, 1);
  }

  groupOf(output) { return Math.floor(output / this.perGroup.outputs); }

  // The input channels that an output channel reads.
  inputsOf(output) {
    const first = this.groupOf(output) * this.perGroup.inputs;
    return Array.from({length: this.perGroup.inputs}, (_, i) => first + i);
  }

  // The output channels that read an input channel.
  outputsOf(input) {
    const first = Math.floor(input / this.perGroup.inputs) * this.perGroup.outputs;
    return Array.from({length: this.perGroup.outputs}, (_, i) => first + i);
  }

  // The input channels to choose from, for an output channel.
  choices(output) {
    const all = this.inputsOf(output), held = all.filter(c => this.inputs.includes(c));
    return held.length ? held : all;
  }

  hasColumn(input) { return this.isWhole || this.inputs.includes(input); }

  // w[o, c] for an output channel whose row is held.
  kernel(output, input) { return this._ofRow(this.rows, output, input); }

  gradient(output, input) { return this._ofRow(this.grad, output, input); }

  _ofRow(tensor, output, input) {
    const place = this.outputs.indexOf(output) * this.perGroup.inputs + input % this.perGroup.inputs;
    return tensor.values.subarray(place * this.size, (place + 1) * this.size);
  }

  // w[o, c] for an input channel whose column is held, and any output channel of its group.
  columnKernel(output, input) {
    if (this.isWhole) return this.kernel(output, input);
    const place = this.inputs.indexOf(input) * this.perGroup.outputs + output % this.perGroup.outputs;
    return this.columns.values.subarray(place * this.size, (place + 1) * this.size);
  }
}
