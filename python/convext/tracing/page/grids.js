// Small helpers for the DOM, and matrices as tables.

function byId(id) {
  return document.getElementById(id);
}

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null) continue;
    node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

// Of an SVG.
function drawing(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// A name that may be broken after its underscores and slashes.
function breakable(name) {
  return name.split(/(?<=[_/])/).flatMap(part => [part, element("wbr")]);
}

// Rows as lists of texts below a row of heads.
function plainTable(caption, heads, rows) {
  return element("table", { class: "list" },
    element("caption", {}, caption),
    element("thead", {}, element("tr", {}, ...heads.map(
      head => element("th", { scope: "col" }, head)))),
    element("tbody", {}, ...rows.map(row => element("tr", {}, ...row.map(
      (cell, i) => element(i ? "td" : "th", i ? {} : { scope: "row" }, cell))))));
}

// A matrix of numbers with numbered rows and columns.
//   options.caption          what it is, read out and shown
//   options.cell(i, j)       class names of a cell
//   options.text(i, j)       its text, if not the value
//   options.label(i, j)      what a button in the cell is called; cells are buttons then
//   options.press(i, j)      what pressing one does
//   options.rows, .columns   heads, if not 0, 1, 2
class Grid {
  constructor(holder, values, options) {
    this.values = values;
    this.options = options;
    const width = values.length ? values[0].length : 0;
    const columns = options.columns || Array.from({ length: width }, (_, j) => j);
    const rows = options.rows || values.map((_, i) => i);
    this.cells = values.map((row, i) => row.map((value, j) => this.makeCell(value, i, j)));
    const table = element("table", { class: "grid" },
      element("caption", {}, options.caption),
      element("thead", {}, element("tr", {}, element("td", { class: "corner" }), ...columns.map(
        head => element("th", { scope: "col" }, String(head))))),
      element("tbody", {}, ...this.cells.map((row, i) => element("tr", {},
        element("th", { scope: "row" }, String(rows[i])), ...row.map(cell => cell.node)))));
    table.style.setProperty("--digits", String(this.longest()));
    holder.replaceChildren(table);
    this.table = table;
  }

  makeCell(value, i, j) {
    const text = this.options.text ? this.options.text(i, j) : shown(value);
    const base = this.options.cell ? this.options.cell(i, j) : "";
    if (!this.options.press) {
      return { node: element("td", { class: base }, text), text, base };
    }
    const button = element("button", {
      type: "button",
      tabindex: i + j === 0 ? "0" : "-1",
      "aria-label": this.options.label(i, j),
    }, text);
    button.addEventListener("click", () => this.options.press(i, j));
    button.addEventListener("keydown", event => this.moveFocus(event, i, j));
    return { node: element("td", { class: base }, button), text, base, button };
  }

  longest() {
    return Math.max(1, ...this.cells.flat().map(cell => cell.text.length));
  }

  // Arrow keys go from button to button; one of them is in the order of the Tab key.
  moveFocus(event, i, j) {
    const step = ARROWS[event.key];
    if (!step) return;
    event.preventDefault();
    const row = this.cells[i + step[0]];
    const cell = row && row[j + step[1]];
    if (!cell) return;
    this.select(i + step[0], j + step[1]);
    cell.button.focus();
    cell.button.click();
  }

  select(i, j) {
    this.cells.flat().forEach(cell => cell.button && (cell.button.tabIndex = -1));
    this.cells[i][j].button.tabIndex = 0;
  }

  // Gives every cell the classes that `mark(i, j)` names, beside its own.
  mark(mark) {
    this.cells.forEach((row, i) => row.forEach((cell, j) => {
      const name = `${cell.base} ${mark(i, j) || ""}`.trim();
      if (cell.node.className !== name) cell.node.className = name;
    }));
  }
}

const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

function fillSelect(select, count, label) {
  const before = Number(select.value);
  select.replaceChildren(...Array.from({ length: count }, (_, i) => element(
    "option", { value: i, selected: i === Math.min(before, count - 1) }, label(i))));
  select.disabled = count < 2;
}

// Copies the text of a node; where the browser does not let a page copy, it selects the text.
async function copyText(node, status) {
  try {
    await navigator.clipboard.writeText(node.textContent);
    status.textContent = "Copied.";
  } catch {
    window.getSelection().selectAllChildren(node);
    status.textContent = "This browser does not let the page copy; the text is selected.";
  }
}
