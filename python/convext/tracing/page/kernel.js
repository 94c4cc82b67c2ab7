// The kernel tab: the planned kernel, the implicit matrices, register tiles, bytes.

const MOST_MATRIX = [36, 36], MOST_TILES = [36, 64];

// {from: "trace" | "table", forward, input_grad, weight_grad} with kernels, or null if no plan is
// known for a setting.
function planOf(s, data) {
  if (sameSetting(s, data.setting)) return { from: "trace", ...data.plans };
  const axes = data.table.axes;
  const pad = s.padding[0];
  if (s.padding.some(side => side !== pad)) return null;
  const wanted = {
    size: [s.H, s.W], kernel: [s.R, s.S], stride: s.stride, padding: pad, dilation: s.dilation,
    channels: [s.C, s.K, s.groups], mode: s.mode,
  };
  let index = 0;
  for (const [name, values] of Object.entries(axes)) {
    const at = values.findIndex(value => JSON.stringify(value) === JSON.stringify(wanted[name]));
    if (at < 0) return null;
    index = index * values.length + at;
  }
  const plan = data.table.plans[data.table.index[index]];
  if (!plan) return null;
  const [forward, input_grad, weight_grad] = plan.map(place => data.table.kernels[place]);
  return { from: "table", forward, input_grad, weight_grad };
}

// How the forward pass's tiles cover the results: segments of rows and of lanes, none of which
// shares a tile with another, and how often the whole repeats.
function tileUse(s, plan, tiles) {
  const [P, Q] = outputSize(s);
  const kind = tiles[plan.algorithm];
  const depth = s.C / s.groups * s.R * s.S;
  const segments = name => {
    if (name === "pixels") return [P * Q];
    if (name === "row pixels") return Array(P).fill(Q);
    if (name === "channels") return [s.K / s.groups];
    if (name === "all channels") return [s.K];
    if (name === "depth") return [depth];
    const m = Number(name.split(" ").pop());
    return [Math.ceil(P / m) * Math.ceil(Q / m)];
  };
  const [mr, nr] = plan.tile;
  const rows = segments(kind.rows), lanes = segments(kind.lanes);
  let repeats = kind.lanes === "all channels" ? 1 : s.groups;
  if (kind.lanes === "depth") repeats *= P * Q;
  const total = list => list.reduce((sum, length) => sum + length, 0);
  const tilesOf = (list, size) => total(list.map(length => Math.ceil(length / size)));
  const count = tilesOf(rows, mr) * tilesOf(lanes, nr) * repeats;
  const used = total(rows) * total(lanes) * repeats;
  return { kind, rows, lanes, mr, nr, repeats, count, used, computed: count * mr * nr };
}

class KernelView {
  constructor(app, data) {
    this.app = app;
    this.data = data;
  }

  update() {
    const s = this.app.setting;
    const plan = planOf(s, this.data);
    this.showPlan(s, plan);
    const use = plan && tileUse(s, plan.forward, this.data.tiles);
    this.showMatrix(s, use);
    this.showTiles(s, plan, use);
    this.showBytes(s, plan);
  }

  showPlan(s, plan) {
    const holder = byId("plan");
    if (!plan) {
      holder.replaceChildren(
        element("p", { class: "unknown" }, "The plan of this setting is not known to this page: it " +
          "is not among those that were asked for when the page was made, or none could run. To ask " +
          "the planner:"),
        element("pre", { id: "ask", tabindex: "0" }, explainCommand(s)));
      return;
    }
    const names = ["forward", "input_grad", "weight_grad", "bias_grad"].filter(name => plan[name]);
    const rows = names.map(name => [name, element("span", {}, ...breakable(plan[name].kernel)), plan[name].tile.join("x"),
      plan[name].reason || ""]);
    const known = plan.from === "trace";
    holder.replaceChildren(
      element("p", {}, `Planned on ${this.data.isa} for one contiguous image` +
        (known ? "." : ", from the table in this page.")),
      element("div", { class: "scroll" }, plainTable("Planned kernels",
        known ? ["pass", "kernel", "tile", "why"] : ["pass", "kernel", "tile"],
        known ? rows : rows.map(row => row.slice(0, 3)))),
      element("div", { class: "scroll", id: "sources" }, plainTable("Where to read them",
        ["pass", "sources, the driver last", "chapter of the book"], names.map(name => [name,
          element("div", {}, ...plan[name].sources.map(place => element("code", {}, ...breakable(place)))),
          element("code", {}, ...breakable(plan[name].chapter))]))));
    if (known && plan.forward.refused) {
      holder.append(element("details", {}, element("summary", {}, "Why not the others"),
        element("div", { class: "scroll" }, plainTable("Refused in the forward pass",
          ["kernel", "why not"], plan.forward.refused))));
    }
    if (known && this.data.original) holder.append(element("p", {}, this.data.original.note));
  }

  showMatrix(s, use) {
    const { padded, c, k } = this.app;
    const [P, Q] = outputSize(s), group = s.C / s.groups, first = firstChannel(s, k);
    const columns = group * s.R * s.S;
    byId("gemm-text").textContent =
      `Rows are output pixels, columns taps x channels${s.groups > 1 ? " of one group" : ""}: ` +
      `${P * Q} x ${columns}, times ${columns} x ${s.K / s.groups} of weights. The matrix is never ` +
      "built whole; kernels reach it through addresses. " + this.stripText(use) +
      (P * Q > MOST_MATRIX[0] || columns > MOST_MATRIX[1] ? " The first rows and columns are shown." : "");
    const pixels = Math.min(P * Q, MOST_MATRIX[0]), taps = Math.min(columns, MOST_MATRIX[1]);
    const tapAt = j => [Math.floor(j / (s.R * s.S)), Math.floor(j / s.S) % s.R, j % s.S];
    const cellAt = (i, j) => {
      const [channel, r, t] = tapAt(j);
      const row = Math.floor(i / Q) * s.stride[0] + r * s.dilation[0];
      const column = (i % Q) * s.stride[1] + t * s.dilation[1];
      return { row, column, value: padded[first + channel][row][column] };
    };
    const ends = this.stripEnds(use, P * Q);
    new Grid(byId("gemm"), filled([pixels, taps], (i, j) => cellAt(i, j).value), {
      caption: "Implicit matrix of the forward pass",
      rows: Array.from({ length: pixels }, (_, i) => `${Math.floor(i / Q)},${i % Q}`),
      columns: Array.from({ length: taps }, (_, j) => (group > 1 ? tapAt(j) : tapAt(j).slice(1)).join(",")),
      cell: (i, j) => [
        isPadding(s, cellAt(i, j).row, cellAt(i, j).column) ? "padding" : "",
        ends.has(i) ? "strip-end" : "",
        group > 1 && tapAt(j)[0] === c ? "channel" : "",
      ].join(" ").trim(),
    });
  }

  // The rows of the matrix after which a tile ends.
  stripEnds(use, count) {
    if (!use) return new Set();
    const [segments, size] = use.kind.rows.endsWith("pixels") ? [use.rows, use.mr]
      : use.kind.lanes.endsWith("pixels") ? [use.lanes, use.nr] : [[], 1];
    const ends = new Set();
    let start = 0;
    for (const length of segments) {
      for (let i = size; i < length; i += size) ends.add(start + i - 1);
      start += length;
      ends.add(start - 1);
    }
    ends.delete(count - 1);
    return ends;
  }

  stripText(use) {
    if (!use) return "";
    const size = use.kind.rows.endsWith("pixels") ? use.mr
      : use.kind.lanes.endsWith("pixels") ? use.nr : 0;
    return size ? `Lines part the strips of up to ${size} pixels that a tile takes.` : "";
  }

  showTiles(s, plan, use) {
    const map = byId("tile-map");
    byId("tile-key").hidden = !use;
    if (!use) {
      byId("tile-text").textContent = "The plan of this setting is not known, so neither are its tiles.";
      map.replaceChildren();
      map.removeAttribute("aria-label");
      return;
    }
    const wasted = 1 - use.used / use.computed;
    const summary = `${use.count} tile${use.count > 1 ? "s" : ""} of ${use.mr}x${use.nr} compute ` +
      `${use.computed} values, of which ${use.used} are wanted: up to ${(100 * wasted).toFixed(1)} % ` +
      "of the lanes are wasted";
    byId("tile-text").textContent =
      `${plan.forward.algorithm}: ${use.kind.text}. Rows are ${use.kind.rows}, lanes ` +
      `${use.kind.lanes}. ${summary}; at most, for kernels have narrower instances for what is left ` +
      `over. ${this.drawnText(use)}`;
    map.setAttribute("aria-label", summary);
    const rows = tileAxis(use.rows, use.mr, MOST_TILES[0]), lanes = tileAxis(use.lanes, use.nr, MOST_TILES[1]);
    map.style.setProperty("--lanes", String(lanes.length));
    map.replaceChildren(...rows.flatMap(row => lanes.map(lane => element("span", {
      class: [row.used && lane.used ? "used" : "wasted", row.end ? "row-end" : "",
        lane.end ? "lane-end" : ""].join(" ").trim(),
    }))));
  }

  drawnText(use) {
    const height = tileAxis(use.rows, use.mr, Infinity).length, width = tileAxis(use.lanes, use.nr, Infinity).length;
    const parts = [];
    if (use.repeats > 1) parts.push(`one of ${use.repeats} alike`);
    if (height > MOST_TILES[0] || width > MOST_TILES[1]) parts.push("the first rows and lanes");
    return parts.length ? `Drawn: ${parts.join(", ")}.` : "";
  }

  showBytes(s, plan) {
    const [P, Q] = outputSize(s);
    const sizes = {
      input: s.C * s.H * s.W, weight: s.K * s.C / s.groups * s.R * s.S, output: s.K * P * Q,
      matrix: P * Q * s.C * s.R * s.S,
    };
    const zeros = pairsWithZeros(s) * s.C;
    const rows = [
      ["input", `${4 * sizes.input}`, `${s.C} x ${s.H} x ${s.W} float32`],
      ["weight", `${4 * sizes.weight}`, `${s.K} x ${s.C / s.groups} x ${s.R} x ${s.S}`],
      ["output", `${4 * sizes.output}`, `${s.K} x ${P} x ${Q}`],
      ["implicit matrix, if it were built", `${4 * sizes.matrix}`,
        `${(sizes.matrix / sizes.input).toFixed(2)} times the input`],
      ["of it, zeros of the padding", `${4 * zeros}`,
        `${(100 * zeros / sizes.matrix).toFixed(1)} % of the products add nothing`],
    ];
    if (plan && plan.forward.workspace_bytes !== undefined) {
      rows.push(["working memory of the planned kernel", `${plan.forward.workspace_bytes}`,
        "beside the buffers of each thread"]);
    }
    byId("bytes").replaceChildren(plainTable("Bytes of one image", ["what", "bytes", ""], rows));
  }
}

// The places of an axis in its tiles, up to `most` of them: whether each is used and ends a tile.
function tileAxis(segments, size, most) {
  const places = [];
  for (const length of segments) {
    const end = Math.ceil(length / size) * size;
    for (let i = 0; i < end && places.length < most; i++) {
      places.push({ used: i < length, end: (i + 1) % size === 0 });
    }
  }
  return places;
}

// Products of one channel that meet a zero of the padding, over all windows.
function pairsWithZeros(s) {
  let count = 0;
  for (let r = 0; r < s.R; r++) {
    for (let t = 0; t < s.S; t++) count += pairsOf(s, r, t).filter(pair => pair.h < 0 || pair.w < 0).length;
  }
  return count;
}
