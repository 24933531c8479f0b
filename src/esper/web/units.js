"use strict";
// Draws every unit as a cell: lightness tells how much it matters, marks what was done to it.

function unitsOf(canvas) {
  const text = atob(canvas.dataset.cells), groups = JSON.parse(canvas.dataset.groups), cells = [];
  let at = 0;
  for (const group of groups) {
    for (let n = 0; n < group.cells; n++, at++) {
      const code = text.charCodeAt(at);
      cells.push({ group, n, rank: (code & 127) - 1, masked: code > 127 });
    }
  }
  return { groups, cells };
}

function drawUnits(canvas) {
  const { groups, cells } = canvas.units ??= unitsOf(canvas);
  const style = getComputedStyle(canvas), color = (name) => style.getPropertyValue(name).trim();
  const width = canvas.parentElement.clientWidth || 320, size = width < 500 ? 9 : 11, head = 16, gap = 8;
  const columns = Math.max(8, Math.floor(width / size));
  let y = 0, first = 0;
  for (const group of groups) {
    group.top = y + head;
    group.first = first;
    first += group.cells;
    y = group.top + Math.ceil(group.cells / columns) * size + gap;
  }
  const scale = Math.min(devicePixelRatio || 1, 16000 / Math.max(y, 1));
  canvas.width = width * scale; canvas.height = y * scale;
  canvas.style.width = width + "px"; canvas.style.height = y + "px";
  canvas.shape = { columns, size };
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  pen.font = "12px system-ui, sans-serif";
  for (const group of groups) {
    pen.fillStyle = color("--ink-2");
    pen.fillText(group.name + ", " + group.width + " " + group.kind + "s" + (group.grown ? ", grown" : ""), 0, group.top - 4, width);
  }
  cells.forEach((cell, n) => drawUnit(pen, color, placeOf(canvas, n), cell));
  if (canvas.chosen >= 0 && document.activeElement === canvas) {
    const [x, top, side] = placeOf(canvas, canvas.chosen);
    pen.lineWidth = 2.5; pen.strokeStyle = color("--ink"); pen.strokeRect(x - 1, top - 1, side + 2, side + 2);
  }
}

function placeOf(canvas, n) {
  const { columns, size } = canvas.shape, cell = canvas.units.cells[n];
  return [(cell.n % columns) * size + 1, cell.group.top + Math.floor(cell.n / columns) * size + 1, size - 2];
}

function drawUnit(pen, color, [x, y, side], cell) {
  pen.lineWidth = 1;
  if (cell.rank < 0) { // not measured: a frame with a dot
    pen.strokeStyle = color("--ink-3"); pen.strokeRect(x + .5, y + .5, side - 1, side - 1);
    pen.fillStyle = color("--ink-3"); pen.fillRect(x + side / 2 - 1, y + side / 2 - 1, 2, 2);
  } else {
    pen.fillStyle = color("--run"); pen.globalAlpha = .12 + .88 * cell.rank / 100;
    pen.fillRect(x, y, side, side); pen.globalAlpha = 1;
  }
  if (cell.masked) { // crossed out
    pen.fillStyle = color("--card"); pen.fillRect(x, y, side, side);
    pen.strokeStyle = color("--ink"); pen.strokeRect(x + .5, y + .5, side - 1, side - 1);
    pen.beginPath(); pen.moveTo(x, y); pen.lineTo(x + side, y + side); pen.moveTo(x + side, y); pen.lineTo(x, y + side); pen.stroke();
  }
  if (cell.group.grown) { // a corner
    pen.fillStyle = color("--ink"); pen.beginPath(); pen.moveTo(x, y); pen.lineTo(x + side * .6, y); pen.lineTo(x, y + side * .6); pen.fill();
  }
}

function tellUnit(canvas, n) {
  canvas.chosen = n;
  const cell = canvas.units.cells[n], each = Number(canvas.dataset.each), from = cell.n * each, to = Math.min(from + each, cell.group.width) - 1;
  const which = to > from ? "units " + from + " to " + to : "unit " + from;
  const rank = cell.rank < 0 ? "importance not measured" : "importance " + cell.rank + " of 100";
  canvas.parentElement.parentElement.querySelector(".unit-said").textContent = cell.group.name + ", " + which + ": " + rank
    + (cell.masked ? ", masked" : "") + (cell.group.grown ? ", grown" : "") + ".";
  drawUnits(canvas);
}

function readyUnits(canvas) {
  drawUnits(canvas);
  const moves = { ArrowLeft: () => -1, ArrowRight: () => 1, ArrowUp: () => -canvas.shape.columns, ArrowDown: () => canvas.shape.columns };
  canvas.addEventListener("keydown", (event) => {
    const { groups, cells } = canvas.units, now = canvas.chosen ?? 0;
    let next = null;
    if (moves[event.key]) next = now + moves[event.key]();
    else if (event.key === "Home") next = 0;
    else if (event.key === "End") next = cells.length - 1;
    else if (event.key === "PageDown") next = (groups.find((group) => group.first > now) ?? groups.at(-1)).first;
    else if (event.key === "PageUp") next = (groups.findLast((group) => group.first < now) ?? groups[0]).first;
    if (next === null) return;
    event.preventDefault();
    tellUnit(canvas, Math.min(Math.max(next, 0), cells.length - 1));
  });
  canvas.addEventListener("focus", () => tellUnit(canvas, canvas.chosen ?? 0));
  canvas.addEventListener("blur", () => drawUnits(canvas));
  canvas.addEventListener("click", (event) => {
    const { columns, size } = canvas.shape;
    const group = canvas.units.groups.findLast((one) => event.offsetY >= one.top);
    const column = Math.floor(event.offsetX / size);
    const n = group ? Math.floor((event.offsetY - group.top) / size) * columns + column : -1;
    if (group && column < columns && n >= 0 && n < group.cells) tellUnit(canvas, group.first + n);
  });
  new ResizeObserver(() => drawUnits(canvas)).observe(canvas.parentElement);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawUnits(canvas));
}
