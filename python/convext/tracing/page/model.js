// The model tab: a prediction, the training before it, and the layers.

class ModelView {
  constructor(app, model) {
    this.app = app;
    if (model.prediction) this.showPrediction(model.prediction);
    if (model.training) this.showTraining(model.training);
    this.showLayers(model);
  }

  showPrediction(prediction) {
    const { image, label, shares, guess } = prediction, right = guess === label;
    byId("prediction").hidden = false;
    byId("prediction-text").replaceChildren(`A test image labelled ${label}. The network sees ${withArticle(guess)}: `,
      element("span", { class: right ? "right" : "wrong" }, right ? "right" : "wrong"), ".");
    const rows = image.length, columns = image[0].length;
    byId("prediction-image").replaceChildren(drawing("svg", {
      viewBox: `0 0 ${columns} ${rows}`, role: "img", "aria-label": `The image, labelled ${label}`,
    }, ...image.flatMap((row, i) => row.map((shade, j) => drawing("rect", {
      x: j, y: i, width: 1, height: 1, "fill-opacity": Number.isFinite(shade) ? shade : 0,
    })))));
    byId("prediction-shares").replaceChildren(plainTable("Probabilities", ["digit", "", "", ""],
      shares.map((share, digit) => [String(digit), bar(share), percent(share, 4),
        digit === label ? element("span", { class: "right" }, "the label")
          : digit === guess ? element("span", { class: "wrong" }, "the guess") : ""])));
  }

  showTraining({ steps, losses, accuracies }) {
    byId("training").hidden = false;
    byId("training-curves").replaceChildren(
      curve(`Loss of ${steps.length} steps, by epoch`, steps.map((loss, i) => [(i + 1) / steps.length, loss]), losses.length,
        Math.max(...steps.filter(Number.isFinite), 0), value => shown(value, 3)),
      curve("Accuracy on test images, by epoch", [...accuracies.entries()].map(([i, share]) => [(i + 1) / accuracies.length, share]),
        accuracies.length, 1, value => percent(value, 0)));
    byId("training-table").replaceChildren(plainTable("Epochs", ["epoch", "mean loss", "accuracy"],
      losses.map((loss, i) => [String(i + 1), loss.toFixed(4), percent(accuracies[i])])));
  }

  showLayers(model) {
    byId("model-text").textContent =
      `${model.name} on ${model.input_size.join("x")}. Milliseconds are the shortest of three runs. ` +
      "Show puts a convolution into the form, as large as this page can show it, with small integers; " +
      "too large: its kernel, stride, padding or dilation is beyond this page.";
    const number = value => (value === null ? "-" : shown(value, 3));
    const twoLines = (name, first, second) => element("div", { class: name }, first,
      second ? element("span", { class: "second" }, ...breakable(second)) : "");
    const rows = model.layers.map(layer => [
      twoLines("layer", layer.name, layer.type), this.showButton(layer), layer.input_size.slice(1).join("x"), layer.padded,
      twoLines("kernel", layer.kernel, layer.plans ? layer.plans.forward.kernel : ""),
      layer.output_size.slice(1).join("x"), number(layer.mean), number(layer.std),
      number(layer.minimum), number(layer.maximum), layer.milliseconds.toFixed(3),
    ]);
    byId("model-layers").replaceChildren(plainTable("Layers", ["layer, type", "", "input", "padded",
      "kernel, planned forward", "output", "mean", "std", "min", "max", "ms"], rows));
  }

  showButton(layer) {
    if (!layer.setting) return "";
    if (!layer.shown) return "too large";
    const button = element("button", { type: "button", "aria-label": `Show ${layer.name}` }, "Show");
    button.addEventListener("click", () => {
      this.app.controls.write(layer.shown);
      this.app.openTab("forward");
      byId("tab-forward").focus();
    });
    return button;
  }
}

function withArticle(digit) {
  return `${digit === 8 ? "an" : "a"} ${digit}`;
}

function percent(share, digits = 2) {
  return `${(100 * share).toFixed(digits)} %`;
}

function bar(share) {
  const width = Number.isFinite(share) ? 100 * share : 0;
  return element("div", { class: "share" }, element("div", { style: `width: ${width}%` }));
}

// A line through points [x, y], x from 0 to 1 and y from 0 to `top`, with a mark below for each
// epoch.
function curve(title, points, epochs, top, written) {
  const [width, height, left, low, high] = [320, 150, 52, 130, 10];
  const x = share => left + share * (width - left - 8);
  const y = value => low - (value / (top || 1)) * (low - high);
  const line = points.filter(point => Number.isFinite(point[1]))
    .map(([at, value]) => `${x(at).toFixed(1)},${y(value).toFixed(1)}`);
  const marks = Array.from({ length: epochs }, (_, i) => i + 1).filter(epoch => epochs <= 12 || epoch % Math.ceil(epochs / 8) === 0);
  return element("figure", {}, element("figcaption", {}, title), drawing("svg", {
    viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title}: the same values are in the table`,
  },
  ...[0, top / 2, top].flatMap(value => [
    drawing("line", { class: "rule", x1: left, x2: width - 8, y1: y(value), y2: y(value) }),
    drawing("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, written(value)),
  ]),
  ...marks.map(epoch => drawing("text", { x: x(epoch / epochs), y: height - 4, "text-anchor": "middle" }, String(epoch))),
  drawing("polyline", { points: line.join(" ") }),
  ...(points.length <= 12 ? line.map(at => drawing("circle", { cx: at.split(",")[0], cy: at.split(",")[1], r: 3 })) : [])));
}
