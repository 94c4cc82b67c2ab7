// Puts the page together: data from Python, the form, the tabs and the views.

// What JSON has no numbers for, as _finite in html.py writes it.
const NOT_FINITE = new Map([["@nan", NaN], ["@inf", Infinity], ["@-inf", -Infinity]]);
const DATA = JSON.parse(byId("data").textContent, (_, value) => NOT_FINITE.get(value) ?? value);

class App {
  constructor() {
    this.k = this.c = 0;
    this.forward = new ForwardView(this);
    this.views = {
      forward: this.forward,
      "input-grad": new InputGradientView(this),
      "weight-grad": new WeightGradientView(this),
      kernel: new KernelView(this, DATA),
    };
    this.tabs = [...document.querySelectorAll("[role=tab]")].filter(tab => tab.id !== "tab-model" || DATA.model);
    this.shownTab = "forward";
    for (const tab of this.tabs) this.listenTab(tab);
    for (const [id, key] of [["shown-k", "k"], ["shown-c", "c"]]) {
      byId(id).addEventListener("change", event => {
        this[key] = Number(event.target.value);
        this.refresh();
      });
    }
    for (const button of document.querySelectorAll(".copy")) {
      button.addEventListener("click", () => copyText(byId(button.dataset.from), byId("copied")));
    }
    byId("theme").addEventListener("change", event => (document.documentElement.dataset.theme = event.target.value));
    this.quiz = new QuizView(DATA.quiz);
    this.controls = new Controls(byId("settings"), DATA.limits, (setting, complaint) => this.set(setting, complaint));
    byId("reset").addEventListener("click", () => this.controls.write(DATA.setting));
    if (DATA.model) new ModelView(this, DATA.model);
    byId("footer").textContent = `Made by convext ${DATA.versions.convext} with PyTorch ${DATA.versions.torch}.`;
    this.controls.write(DATA.setting);
    this.openTab(DATA.model ? "model" : "forward");
    byId("setting-box").open = !window.matchMedia("(max-width: 56rem)").matches;
  }

  listenTab(tab) {
    tab.hidden = false;
    const name = tab.id.slice("tab-".length);
    tab.addEventListener("click", () => this.openTab(name));
    tab.addEventListener("keydown", event => {
      const at = this.tabs.indexOf(tab), last = this.tabs.length - 1;
      const to = { ArrowRight: at === last ? 0 : at + 1, ArrowLeft: at ? at - 1 : last, Home: 0, End: last }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      this.tabs[to].focus();
      this.tabs[to].click();
    });
  }

  openTab(name) {
    this.shownTab = name;
    if (name !== "forward") this.forward.stop();
    for (const tab of this.tabs) {
      const chosen = tab.id === `tab-${name}`;
      tab.setAttribute("aria-selected", String(chosen));
      tab.tabIndex = chosen ? 0 : -1;
    }
    this.showPanel();
  }

  // Values of a refused setting do not exist, so its views are hidden; quiz and model stay.
  showPanel() {
    const name = this.shownTab, hasValues = name in this.views || name === "code";
    for (const tab of this.tabs) {
      const own = tab.id === `tab-${name}`;
      byId(tab.getAttribute("aria-controls")).hidden = !own || (hasValues && !this.setting);
    }
    byId("channels").hidden = !(name in this.views) || !this.setting;
    if (this.setting && this.views[name]) this.views[name].update();
  }

  // A new setting from the form; null with a complaint where a field cannot be read.
  set(setting, complaint) {
    const wrong = setting ? refusal(setting) : { by: "", text: complaint };
    const error = byId("error");
    error.hidden = !wrong;
    this.setting = wrong ? null : setting;
    byId("summary").textContent = wrong ? "This setting is impossible." : this.summary(setting);
    if (wrong) {
      this.forward.stop();
      error.replaceChildren(wrong.by ? `${wrong.by} refuses this setting: ` : "", element(wrong.by ? "code" : "span", {}, wrong.text));
    } else {
      const first = sameSetting(setting, DATA.setting);
      this.operands = first ? DATA.operands : smallIntegers(setting);
      this.output = first ? DATA.output : forward(setting, this.operands);
      this.padded = padInput(setting, this.operands.input);
      byId("values-from").textContent = !first ? "Outputs: small integers, computed in this page."
        : DATA.original ? "The first pixels and channels of what was traced. Outputs: from convext.conv2d."
        : "Outputs: from convext.conv2d.";
      this.refresh();
      return;
    }
    this.showPanel();
  }

  summary(s) {
    const [P, Q] = outputSize(s);
    return `${s.C}x${s.H}x${s.W} input, padded ${paddedSize(s).join("x")}, ${s.R}x${s.S} kernel, stride ` +
      `${pythonPair(s.stride)}: ${s.K}x${P}x${Q} output`;
  }

  refresh() {
    const s = this.setting;
    this.k = Math.min(this.k, s.K - 1);
    this.c = Math.min(this.c, s.C / s.groups - 1);
    this.channel = firstChannel(s, this.k) + this.c;
    byId("shown-k").value = this.k;
    fillSelect(byId("shown-k"), s.K, k => String(k));
    byId("shown-c").value = this.c;
    fillSelect(byId("shown-c"), s.C / s.groups, c => String(firstChannel(s, this.k) + c));
    byId("code-torch").textContent = torchCode(s);
    byId("code-convext").textContent = convextCode(s);
    byId("code-trace").textContent = traceCommand(s);
    byId("code-explain").textContent = explainCommand(s);
    this.showPanel();
  }
}

const APP = new App();
