// The form of the setting: fields to a setting and back, limits, presets.

const FIELDS = {
  H: "height", W: "width", C: "in-channels", K: "out-channels", R: "kernel-height",
  S: "kernel-width", groups: "groups",
};
const PAIRS = { stride: ["stride-h", "stride-w"], dilation: ["dilation-h", "dilation-w"] };
const SIDES = ["pad-left", "pad-right", "pad-top", "pad-bottom"];

class Controls {
  // `changed(setting, complaint)` hears of every change; the setting is null where a field holds
  // no integer in its range.
  constructor(form, limits, changed) {
    this.form = form;
    this.changed = changed;
    this.kind = byId("padding-kind");
    this.mode = byId("padding-mode");
    for (const input of form.querySelectorAll("input[data-limit]")) {
      [input.min, input.max] = limits[input.dataset.limit];
    }
    form.addEventListener("input", event => this.heard(event));
    form.addEventListener("submit", event => event.preventDefault());
  }

  heard(event) {
    const id = event.target.id;
    if (this.kind.value === "symmetric") {
      if (id === "pad-top" || id === "padding-kind") byId("pad-bottom").value = byId("pad-top").value;
      if (id === "pad-left" || id === "padding-kind") byId("pad-right").value = byId("pad-left").value;
    }
    this.showKind();
    this.report();
  }

  // Only the sides that can be chosen are shown.
  showKind() {
    const kind = this.kind.value;
    this.form.dataset.padding = kind;
    for (const id of SIDES) {
      const mirrored = kind === "symmetric" && (id === "pad-bottom" || id === "pad-right");
      byId(id).closest(".field").hidden = kind === "same" || mirrored;
    }
    byId("pad-top-label").textContent = kind === "symmetric" ? "Height" : "Top";
    byId("pad-left-label").textContent = kind === "symmetric" ? "Width" : "Left";
  }

  integer(id) {
    const input = byId(id);
    const value = Number(input.value);
    const fits = input.value.trim() !== "" && Number.isInteger(value) &&
      value >= Number(input.min) && value <= Number(input.max);
    input.setAttribute("aria-invalid", String(!fits));
    if (fits) return value;
    const name = input.dataset.name || input.labels[0].textContent;
    this.complaint = this.complaint ||
      `${name} must be an integer from ${input.min} to ${input.max} on this page.`;
    return null;
  }

  read() {
    this.complaint = "";
    const s = { mode: this.mode.value, same: this.kind.value === "same" };
    for (const [key, id] of Object.entries(FIELDS)) s[key] = this.integer(id);
    for (const [key, ids] of Object.entries(PAIRS)) s[key] = ids.map(id => this.integer(id));
    s.padding = s.same ? [0, 0, 0, 0] : SIDES.map(id => this.integer(id));
    if (this.complaint) return null;
    if (s.same) s.padding = samePadding(s);
    return s;
  }

  write(s) {
    for (const [key, id] of Object.entries(FIELDS)) byId(id).value = s[key];
    for (const [key, ids] of Object.entries(PAIRS)) ids.forEach((id, i) => (byId(id).value = s[key][i]));
    SIDES.forEach((id, i) => (byId(id).value = s.padding[i]));
    this.kind.value = s.same ? "same" : isSymmetric(s) ? "symmetric" : "four-sided";
    this.mode.value = s.mode;
    this.showKind();
    this.report();
  }

  report() {
    const setting = this.read();
    this.changed(setting, this.complaint);
  }
}
