// The views of values: the forward pass and the two gradients. `app` holds what they share:
// setting, operands, padded, output, k and c (channels shown; c counts within k's group).

class ForwardView {
  constructor(app) {
    this.app = app;
    this.index = 0;
    this.timer = null;
    byId("first").addEventListener("click", () => this.go(0));
    byId("previous").addEventListener("click", () => this.go(this.index - 1));
    byId("next").addEventListener("click", () => this.go(this.index + 1));
    byId("position").addEventListener("input", event => this.go(Number(event.target.value)));
    byId("play").addEventListener("click", () => (this.timer ? this.stop() : this.play()));
    this.listen(byId("padded"));
  }

  listen(holder) {
    holder.addEventListener("keydown", event => {
      const [P, Q] = this.size, [p, q] = this.at();
      const step = ARROWS[event.key];
      if (step) {
        const row = p + step[0], column = q + step[1];
        if (row >= 0 && row < P && column >= 0 && column < Q) this.go(row * Q + column);
      } else if (event.key === "Home") this.go(0);
      else if (event.key === "End") this.go(P * Q - 1);
      else return;
      event.preventDefault();
    });
    const drag = event => {
      if (!(event.buttons & 1) && event.type === "pointermove") return;
      const target = document.elementFromPoint(event.clientX, event.clientY);
      const cell = target && target.closest("#padded tbody td");
      if (cell) this.goUnder(cell.parentNode.rowIndex - 1, cell.cellIndex - 1);
    };
    holder.addEventListener("pointerdown", drag);
    holder.addEventListener("pointermove", drag);
  }

  // Moves the window so that its middle comes as near to a cell as the stride allows.
  goUnder(row, column) {
    const s = this.app.setting, span = effectiveKernel(s);
    const [p, q] = [row, column].map((at, axis) => {
      const index = Math.round((at - (span[axis] - 1) / 2) / s.stride[axis]);
      return Math.max(0, Math.min(this.size[axis] - 1, index));
    });
    this.go(p * this.size[1] + q);
  }

  at() {
    return [Math.floor(this.index / this.size[1]), this.index % this.size[1]];
  }

  play() {
    byId("play").setAttribute("aria-pressed", "true");
    byId("play").textContent = "Pause";
    byId("window-text").setAttribute("aria-live", "off");
    const count = this.size[0] * this.size[1];
    this.timer = setInterval(() => this.go((this.index + 1) % count), 700);
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    byId("play").setAttribute("aria-pressed", "false");
    byId("play").textContent = "Play";
    byId("window-text").setAttribute("aria-live", "polite");
  }

  update() {
    const { setting: s, padded, output, k, channel } = this.app;
    this.size = outputSize(s);
    const count = this.size[0] * this.size[1];
    this.index = Math.min(this.index, count - 1);
    byId("position").max = count - 1;
    const drops = dropped(s);
    byId("formulas").replaceChildren(
      element("p", { class: "faint" }, "output = floor((input + before + after - dilation * (kernel - 1) - 1) / stride) + 1"),
      ...formulas(s).map(line => element("p", {}, line)), ...this.notes(drops));
    this.padded = new Grid(byId("padded"), padded[channel], {
      caption: `Padded input ${paddedSize(s).join("x")}, channel ${channel}`,
      cell: (i, j) => [
        isPadding(s, i, j) ? "padding" : "",
        drops[0].includes(i) || drops[1].includes(j) ? "dropped" : "",
      ].join(" ").trim(),
    });
    const { operands, c } = this.app, columns = this.size[1];
    this.weights = new Grid(byId("weights"), operands.weight[k][c], { caption: `Kernel ${s.R}x${s.S}` });
    this.output = new Grid(byId("output"), output[k], {
      caption: `Output ${this.size.join("x")}, channel ${k}`,
      label: (p, q) => `output ${p}, ${q}: ${shown(output[k][p][q])}`,
      press: (p, q) => this.go(p * columns + q),
    });
    const holder = byId("padded");
    holder.classList.toggle("wide", holder.scrollWidth > holder.clientWidth + 1);
    this.go(this.index);
  }

  notes(drops) {
    return ["row", "column"].flatMap((name, axis) => {
      if (!drops[axis].length) return [];
      const which = `${name}${drops[axis].length > 1 ? "s" : ""} ${drops[axis].join(", ")}`;
      return [element("p", { class: "drop-note" },
        `floor drops ${which} of the padded input: no window gets there`)];
    });
  }

  go(index) {
    const { setting: s, operands, padded, output, k, c } = this.app;
    this.index = Math.max(0, Math.min(this.size[0] * this.size[1] - 1, index));
    const [p, q] = this.at();
    const { rows, columns } = windowAt(s, p, q);
    this.padded.mark((i, j) => (rows.includes(i) && columns.includes(j) ? "window" : ""));
    this.output.mark((i, j) => (i === p && j === q ? "window" : ""));
    this.output.select(p, q);
    const products = productsAt(s, operands, padded, k, p, q);
    new Grid(byId("products"), products[c].map(row => row.map(item => item.product)), {
      caption: "Window * kernel",
      text: (r, t) => `${shown(products[c][r][t].value)}*${shown(products[c][r][t].weight)}`,
      cell: (r, t) => (isPadding(s, rows[r], columns[t]) ? "padding" : ""),
    });
    byId("position").value = this.index;
    byId("position").setAttribute("aria-valuetext", `output ${p}, ${q}`);
    byId("window-text").textContent =
      `Window ${this.index + 1} of ${this.size[0] * this.size[1]}: output[${k}, ${p}, ${q}] = ` +
      `${shown(output[k][p][q])}, padded rows ${rows.join(", ")}, columns ${columns.join(", ")}`;
    byId("sum").textContent = this.sumText(products, output[k][p][q]);
  }

  sumText(products, result) {
    const terms = products.flat(2).map(item => item.product);
    const written = terms.slice(0, 36).map((term, i) => {
      if (i === 0) return shown(term);
      return `${term < 0 ? "-" : "+"} ${shown(Math.abs(term))}`;
    });
    if (terms.length > 36) written.push(`+ ... (${terms.length} products of all channels)`);
    const { operands, k } = this.app;
    if (operands.bias) written.push(`, bias ${shown(operands.bias[k])}`);
    return `${written.join(" ")} = ${shown(result)}`;
  }
}

class InputGradientView {
  constructor(app) {
    this.app = app;
    this.pixel = [0, 0];
  }

  update() {
    const { setting: s, operands, padded, output, k, channel } = this.app;
    this.pixel = [Math.min(this.pixel[0], s.H - 1), Math.min(this.pixel[1], s.W - 1)];
    this.input = new Grid(byId("touch-input"), operands.input[channel], {
      caption: `Input, channel ${channel}`,
      label: (h, w) => `input ${h}, ${w}: ${shown(operands.input[channel][h][w])}`,
      press: (h, w) => this.choose(h, w),
    });
    this.output = new Grid(byId("touch-output"), output[k], { caption: `Output, channel ${k}` });
    this.padded = new Grid(byId("touch-padded"), padded[channel], {
      caption: "Where the padded input holds it",
      cell: (i, j) => (isPadding(s, i, j) ? "padding" : ""),
    });
    this.choose(...this.pixel);
  }

  choose(h, w) {
    const { setting: s, operands, k, c, channel } = this.app;
    this.pixel = [h, w];
    const found = touches(s, h, w), from = sources(s);
    const counts = filled(outputSize(s), () => 0);
    found.forEach(touch => counts[touch.p][touch.q]++);
    this.input.mark((i, j) => (i === h && j === w ? "window" : ""));
    this.input.select(h, w);
    this.output.mark((p, q) => (counts[p][q] ? "window" : ""));
    this.padded.mark((i, j) => (from.rows[i] === h && from.columns[j] === w ? "window" : ""));
    const outputs = counts.flat().filter(Boolean).length;
    byId("touch-text").textContent = outputs
      ? `Input pixel ${h}, ${w} touches ${outputs} of ${counts.flat().length} outputs of a channel, ` +
        `through ${found.length} tap${found.length > 1 ? "s" : ""}.`
      : `Input pixel ${h}, ${w} touches no output: no window reads it.`;
    byId("touch-sum").textContent =
      `grad_input[${channel}, ${h}, ${w}] = sum of grad_output * weight over these pairs and all ` +
      `output channels of the group; with a grad_output of ones: ` +
      shown(inputGradient(s, operands, channel, h, w));
    byId("touch-list").replaceChildren(...(found.length ? [plainTable(
      `Pairs of output channel ${k}${found.length > 24 ? ", the first 24" : ""}`,
      ["output p, q", "tap r, s", "weight", "read at padded row, column"],
      found.slice(0, 24).map(t => [`${t.p}, ${t.q}`, `${t.r}, ${t.s}`,
        shown(operands.weight[k][c][t.r][t.s]), `${t.row}, ${t.column}`]))] : []));
  }
}

class WeightGradientView {
  constructor(app) {
    this.app = app;
    this.tap = [0, 0];
  }

  update() {
    const { setting: s, operands, padded, output, k, c, channel } = this.app;
    this.tap = [Math.min(this.tap[0], s.R - 1), Math.min(this.tap[1], s.S - 1)];
    this.weight = new Grid(byId("pair-weight"), operands.weight[k][c], {
      caption: `Weight[${k}, ${c}]`,
      label: (r, t) => `weight ${r}, ${t}: ${shown(operands.weight[k][c][r][t])}`,
      press: (r, t) => this.choose(r, t),
    });
    this.padded = new Grid(byId("pair-padded"), padded[channel], {
      caption: `Padded input, channel ${channel}`,
      cell: (i, j) => (isPadding(s, i, j) ? "padding" : ""),
    });
    this.output = new Grid(byId("pair-output"), output[k], { caption: `Output, channel ${k}` });
    this.choose(...this.tap);
  }

  choose(r, t) {
    const { setting: s, padded, k, c, channel } = this.app;
    this.tap = [r, t];
    const pairs = pairsOf(s, r, t);
    const read = new Set(pairs.map(pair => `${pair.row},${pair.column}`));
    this.weight.mark((i, j) => (i === r && j === t ? "window" : ""));
    this.weight.select(r, t);
    this.padded.mark((i, j) => (read.has(`${i},${j}`) ? "window" : ""));
    this.output.mark(() => "window");
    const zeros = pairs.filter(pair => pair.h < 0 || pair.w < 0).length;
    byId("pair-text").textContent =
      `Weight ${r}, ${t} is used in ${pairs.length} products, one for each output pixel` +
      (zeros ? `; ${zeros} of them meet a zero of the padding.` : ".");
    byId("pair-sum").textContent =
      `grad_weight[${k}, ${c}, ${r}, ${t}] = sum of input * grad_output over these pairs; with a ` +
      `grad_output of ones: ${shown(weightGradient(s, padded, k, c, r, t))}`;
    byId("pair-list").replaceChildren(plainTable(
      `Pairs${pairs.length > 24 ? `, the first 24 of ${pairs.length}` : ""}`,
      ["output p, q", "padded row, column", "input pixel", "value"],
      pairs.slice(0, 24).map(pair => [`${pair.p}, ${pair.q}`, `${pair.row}, ${pair.column}`,
        pair.h < 0 || pair.w < 0 ? "zero of the padding" : `${pair.h}, ${pair.w}`,
        shown(padded[channel][pair.row][pair.column])])));
  }
}
