// What pages are made of: elements, drawings that fit their boxes, tables.
function html(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const key in attributes) node.setAttribute(key, attributes[key]);
  node.append(...children);
  return node;
}

function svg(name, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const key in attributes) node.setAttribute(key, attributes[key]);
  node.append(...children);
  return node;
}

// Draws anew whenever the width of its box changes.
function keepDrawn(box, draw) {
  let width = 0;
  new ResizeObserver(() => {
    if (box.clientWidth === width || !box.clientWidth) return;
    width = box.clientWidth;
    box.replaceChildren(draw(width));
  }).observe(box);
}

// Columns of numbers, but for those named in `kinds`, by place: "words" or "text".
function makeTable(table, heads, rows, kinds = {}) {
  const cells = (name, row) => html("tr", {}, ...row.map((words, i) => html(name, { class: kinds[i] ?? "" }, words)));
  table.append(html("thead", {}, cells("th", heads)), html("tbody", {}, ...rows.map(row => cells("td", row))));
  table.querySelectorAll("th").forEach(head => { head.scope = "col"; });
  return table;
}

// Fills in the fragment how_made.html.
function showHowMade({ command, versions }) {
  document.getElementById("command").textContent = command;
  document.getElementById("versions").append(...versions.map(([name, version]) =>
    html("div", {}, html("dt", {}, name), html("dd", {}, String(version)))));
}
