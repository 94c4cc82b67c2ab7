"use strict";
// Sorts tables by the column that is clicked, and filters long ones by what is typed: a row is
// shown if it has all words. NAME=VALUE asks for a column's whole value, NAME<VALUE and NAME>VALUE
// for its size; NAME is the column's head without spaces.
for (const table of document.querySelectorAll("table")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  const original = [...body.rows];
  const texts = new Map(original.map((row) => [row, [...row.cells].map((cell) => cell.textContent)]));

  const sort = (column) => {
    const head = heads[column];
    const rising = head.ariaSort !== "ascending";
    const number = head.classList.contains("n");
    const key = (row) => (number ? parseFloat(texts.get(row)[column]) : texts.get(row)[column]);
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (number && (isNaN(x) || isNaN(y))) return isNaN(x) - isNaN(y); // without a value: last
      return (number ? x - y : x.localeCompare(y)) * (rising ? 1 : -1);
    };
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", rising ? "ascending" : "descending");
    body.append(...[...original].sort(compare));
  };
  heads.forEach((head, column) => head.firstChild.addEventListener("click", () => sort(column)));

  const bar = table.parentNode.previousElementSibling;
  if (!bar?.classList.contains("filter")) continue;
  const names = heads.map((head) => head.textContent.replaceAll(" ", "").toLowerCase());
  const mean = heads.findIndex((head) => "ratio" in head.dataset);

  const test = (word) => {
    const [, name, sign, value] = word.match(/^([^=<>]+)([=<>])(.+)$/) ?? [];
    const column = names.indexOf(name);
    if (column < 0) return (row) => row.join(" ").toLowerCase().includes(word);
    if (sign === "=") return (row) => row[column].toLowerCase() === value;
    return (row) => (sign === "<" ? parseFloat(row[column]) < value : parseFloat(row[column]) > value);
  };
  const filter = () => {
    const tests = bar.firstChild.value.toLowerCase().split(/\s+/).filter(Boolean).map(test);
    const logs = [];
    for (const row of original) {
      const cells = texts.get(row);
      row.hidden = !tests.every((passes) => passes(cells));
      if (!row.hidden) logs.push(mean < 0 ? 0 : Math.log(parseFloat(cells[mean])));
    }
    const average = Math.exp(logs.reduce((sum, each) => sum + each, 0) / logs.length);
    const told = mean < 0 || !logs.length ? "" :
      `; geometric mean of ${heads[mean].textContent}: ${average.toFixed(3)}`;
    bar.lastChild.textContent = `${logs.length} of ${original.length} rows${told}`;
  };
  bar.firstChild.addEventListener("input", filter);
  filter();
}
