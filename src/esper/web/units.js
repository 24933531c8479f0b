"use strict";
// Draws layers as columns and every unit as a cell: color tells how much it matters, marks what was done to it.

const KEPT = 0, MASKED = 1, CUT = 2, ROWS = 24, GAP = 14, SIDES = [16, 13, 10], LONGEST = 132;

function unitsOf(place) {
  const { layers, whys } = JSON.parse(place.querySelector(".unit-cells").textContent), cells = [];
  for (const layer of layers) {
    layer.first = cells.length;
    layer.columns = Math.max(1, Math.ceil(layer.state.length / ROWS));
    layer.rows = Math.ceil(layer.state.length / layer.columns);
    layer.state.forEach((state, n) => cells.push({ layer, n, state }));
  }
  return { layers, cells, whys };
}

// Cells as large as lets all layers be seen at once, and no smaller than can be pointed at.
function arrange(units, room, pen) {
  const wide = (side) => units.layers.reduce((sum, layer) => sum + layer.columns * side + GAP, GAP);
  units.side = SIDES.find((side) => wide(side) <= room) ?? SIDES.at(-1);
  units.head = Math.min(LONGEST, Math.max(0, ...units.layers.map((layer) => pen.measureText(layer.name).width + 16)));
  let x = GAP / 2;
  for (const layer of units.layers) {
    layer.x = x;
    x += layer.columns * units.side + GAP;
  }
  units.width = x;
  units.height = units.head + Math.max(1, ...units.layers.map((layer) => layer.rows)) * units.side + 4;
}

// From what lies under cells to the color of what matters and on to that of ink: lighter or darker all the way,
// so that nobody needs to tell hues apart.
function shades(color) {
  const stops = ["--card", "--run", "--ink"].map((name) => color(name)).map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  const between = (a, b, share) => "rgb(" + a.map((value, n) => Math.round(value + (b[n] - value) * share)).join(" ") + ")";
  return Array.from({ length: 101 }, (_, rank) => rank < 70 ? between(stops[0], stops[1], 0.14 + 0.86 * rank / 70) : between(stops[1], stops[2], 0.6 * (rank - 70) / 30));
}

function drawUnits(canvas) {
  const box = canvas.closest(".units"), units = canvas.units, scale = devicePixelRatio || 1;
  const width = box.clientWidth, left = box.scrollLeft, style = getComputedStyle(canvas), font = "12px system-ui, sans-serif";
  const color = (name) => style.getPropertyValue(name).trim(), pen = canvas.getContext("2d");
  pen.font = font;
  arrange(units, width, pen);
  canvas.parentElement.style.width = Math.max(units.width, width) + "px";
  canvas.width = width * scale; canvas.height = units.height * scale;
  canvas.style.width = width + "px"; canvas.style.height = units.height + "px";
  const pens = { pen, color, units, shades: shades(color), side: units.side - 1 };
  pen.scale(scale, scale);
  pen.translate(-left, 0);
  pen.font = font;
  for (const layer of units.layers) {
    if (layer.x + layer.columns * units.side + GAP < left || layer.x > left + width) continue; // nobody sees it
    nameLayer(pens, layer);
    for (let n = 0; n < layer.state.length; n++) drawUnit(pens, layer, n);
  }
  if (canvas.chosen >= 0) {
    const [x, y] = placeOf(units, units.cells[canvas.chosen]);
    pen.lineWidth = 2.5; pen.strokeStyle = color("--second"); pen.strokeRect(x - 1.5, y - 1.5, units.side + 2, units.side + 2);
  }
}

// Upright, the end of it next to the cells: that is what differs between names.
function nameLayer({ pen, color, units: { side, head } }, layer) {
  let name = layer.name;
  while (name.length > 4 && pen.measureText(name).width > head - 15) name = "…" + name.slice(2);
  pen.save();
  pen.translate(layer.x + Math.min(layer.columns * side, 14) / 2 + 4, head - 8);
  pen.rotate(-Math.PI / 2);
  pen.fillStyle = color("--ink-2");
  pen.fillText(name, 0, 0);
  pen.restore();
}

function placeOf({ side, head }, { layer, n }) {
  return [layer.x + (n % layer.columns) * side, head + Math.floor(n / layer.columns) * side];
}

function drawUnit({ pen, color, shades, side, units }, layer, n) {
  const [x, y] = placeOf(units, { layer, n }), state = layer.state[n], rank = layer.rank[n];
  pen.lineWidth = 1;
  if (state === CUT) { // nothing but a stroke where it was
    pen.strokeStyle = color("--line"); pen.strokeRect(x + .5, y + .5, side - 1, side - 1);
    pen.fillStyle = color("--twin"); pen.fillRect(x + 2, y + (side - 1) / 2, side - 4, 1.2);
    return;
  }
  if (state === MASKED) { // crossed out
    pen.strokeStyle = color("--ink"); pen.strokeRect(x + .5, y + .5, side - 1, side - 1);
    pen.beginPath(); pen.moveTo(x, y); pen.lineTo(x + side, y + side); pen.moveTo(x + side, y); pen.lineTo(x, y + side); pen.stroke();
  } else if (rank < 0) { // not measured: a frame with a dot
    pen.strokeStyle = color("--ink-3"); pen.strokeRect(x + .5, y + .5, side - 1, side - 1);
    pen.fillStyle = color("--ink-3"); pen.fillRect(x + side / 2 - 1.5, y + side / 2 - 1.5, 3, 3);
  } else {
    pen.fillStyle = shades[rank]; pen.fillRect(x, y, side, side);
  }
  if (layer.grown) { // a corner
    pen.fillStyle = color("--second"); pen.beginPath(); pen.moveTo(x, y); pen.lineTo(x + side * .6, y); pen.lineTo(x, y + side * .6); pen.fill();
  }
}

function wordsOf({ whys }, { layer, n, state }) {
  const count = layer.count[n], rank = layer.rank[n], fate = layer.fates[n], rise = layer.rise[n];
  const which = layer.unit[n] >= 0 ? layer.kind + " " + layer.unit[n] : count + " " + layer.kind + (count > 1 ? "s" : "");
  if (state === CUT) return which + ": cut out.";
  const importance = rank < 0 ? "importance not measured" : "importance " + rank + " of 100" + (count > 1 ? " on average" : "");
  const parts = [state === MASKED ? "masked" : "kept, " + importance];
  if (state === KEPT && typeof rise === "number") parts.push("without it the loss is expected to change by " + rise + " ± " + layer.error[n] + " (one standard error)");
  if (fate) {
    const [why, epoch, loss, sure] = fate;
    parts.push("after epoch " + epoch + " decided: " + whys[why] + (loss === null ? "" : " (measured change of the loss " + loss + (sure === null ? "" : ", below the cut in " + Math.round(100 * sure) + " % of resamples") + ")"));
  } else if (layer.unit[n] >= 0) {
    parts.push("no decision that is known has looked at it");
  }
  return which + ": " + parts.join("; ") + ".";
}

function tellUnit(canvas, n) {
  const { units } = canvas, cell = units.cells[n], said = canvas.closest("section").querySelector(".unit-said");
  const layer = Object.assign(document.createElement("span"), { textContent: cell.layer.told });
  canvas.chosen = n;
  said.replaceChildren(wordsOf(units, cell), document.createElement("br"), layer);
  const box = canvas.closest(".units"), [x] = placeOf(units, cell);
  if (x < box.scrollLeft) box.scrollLeft = x - GAP;
  else if (x + units.side > box.scrollLeft + box.clientWidth) box.scrollLeft = x + units.side + GAP - box.clientWidth;
  drawUnits(canvas);
}

function moved({ layers, cells }, now, key) {
  const { layer } = cells[now];
  switch (key) {
    case "ArrowLeft": return now - 1;
    case "ArrowRight": return now + 1;
    case "ArrowUp": return now - layer.columns;
    case "ArrowDown": return now + layer.columns;
    case "Home": return 0;
    case "End": return cells.length - 1;
    case "PageDown": return (layers[layers.indexOf(layer) + 1] ?? layer).first;
    case "PageUp": return (layers[layers.indexOf(layer) - 1] ?? layer).first;
    default: return null;
  }
}

function readyUnits(canvas) {
  const place = canvas.closest("section"), box = canvas.closest(".units");
  canvas.units = unitsOf(place);
  canvas.chosen = -1;
  drawUnits(canvas);
  canvas.addEventListener("keydown", (event) => {
    const next = moved(canvas.units, Math.max(canvas.chosen, 0), event.key);
    if (next === null) return;
    event.preventDefault();
    tellUnit(canvas, Math.min(Math.max(next, 0), canvas.units.cells.length - 1));
  });
  canvas.addEventListener("focus", () => canvas.units.cells.length && tellUnit(canvas, Math.max(canvas.chosen, 0)));
  canvas.addEventListener("pointerdown", (event) => {
    const { side, head } = canvas.units, x = event.offsetX + box.scrollLeft, row = Math.floor((event.offsetY - head) / side);
    const layer = canvas.units.layers.findLast((one) => x >= one.x - GAP / 2);
    if (!layer) return;
    event.preventDefault();
    const column = Math.min(Math.max(Math.floor((x - layer.x) / side), 0), layer.columns - 1);
    const n = row < 0 ? 0 : row * layer.columns + column; // a name stands for its first cell
    canvas.chosen = layer.first + Math.min(n, layer.state.length - 1);
    canvas.focus({ preventScroll: true });
    tellUnit(canvas, canvas.chosen);
  });
  let due = false;
  const redraw = () => {
    if (due) return;
    due = true;
    requestAnimationFrame(() => { due = false; if (canvas.isConnected) drawUnits(canvas); });
  };
  box.addEventListener("scroll", redraw, { passive: true });
  new ResizeObserver(redraw).observe(box);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}
