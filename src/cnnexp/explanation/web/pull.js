// How hard the image pulls the weights: its gradient by layer, and the images that pull hardest.

function pull() {
  const section = document.getElementById("pull"), found = trace.pull;
  if (!found) return section.remove();
  const rank = found.beside ? ` ${found.larger} of ${found.beside} other test images pull harder; their median is ${show(found.median, 3)}.` : "";
  section.append(make("p", {}, `Of class ${trace.classes[trace.label]}: ‖∂L/∂θ‖ = `, value(found.norm, "pull"), ` over all parameters θ.${rank}`));
  const greatest = Math.max(...found.layers.map(([, norm]) => norm));
  section.append(make("ol", {class: "bars", "aria-label": "norm of each layer's gradient"}, found.layers.map(([name, norm]) => {
    const bar = make("i");
    bar.style.width = greatest ? `${100 * norm / greatest}%` : "0";
    return make("li", {}, make("span", {}, name), make("span", {class: "bar"}, bar), make("span", {"data-value": norm}, show(norm, 3)));
  })));
  if (!found.hardest.length) return null;
  section.append(make("p", {class: "dim"}, "The hardest of these images: wrong labels, clutter and rare shapes come first."));
  section.append(make("div", {class: "maps rivals"}, found.hardest.map(rival => {
    const {shape: [channels, height, width], values} = tensor(rival.pixels), size = height * width, scale = Math.max(1, Math.floor(84 / width));
    const canvas = make("canvas", {width, height, role: "img", "aria-label": `test image ${rival.index}`});
    const pixels = new ImageData(width, height);
    for (let i = 0; i < size; i++) {
      for (let c = 0; c < 3; c++) pixels.data[4 * i + c] = Math.round(255 * values[(channels === 3 ? c : 0) * size + i]);
      pixels.data[4 * i + 3] = 255;
    }
    canvas.getContext("2d").putImageData(pixels, 0, 0);
    canvas.style.cssText = `width: ${scale * width}px; height: ${scale * height}px; image-rendering: pixelated;`;
    return make("figure", {}, canvas, make("figcaption", {}, `image ${rival.index}, ${trace.classes[rival.label]}`, make("br"), `‖∂L/∂θ‖ ${show(rival.norm, 3)}`));
  })));
  return null;
}
