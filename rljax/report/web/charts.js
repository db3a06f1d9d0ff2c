// What charts share: numbers, axes, the key, and what the pointer is on.

const grouped = (x, options) => x.toLocaleString("en", options);
const brief = x => grouped(x, Math.abs(x) < 1e4
  ? { maximumSignificantDigits: 6 } : { notation: "compact", maximumSignificantDigits: 4 });

// About `most` round numbers from `low` to `high`.
function ticks(low, high, most) {
  const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find(x => x * power >= 0.999 * rough);
  const first = Math.ceil(low / step - 1e-6), last = Math.floor(high / step + 1e-6);
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

// The least and the greatest of some numbers, or 0 where that is near.
function limits(shown) {
  let low = Math.min(...shown), high = Math.max(...shown);
  if (!shown.length) [low, high] = [0, 1];
  if (low > 0 && low < high / 2) low = 0;
  if (low === high) [low, high] = [low - (Math.abs(low) || 1) / 2, high + (Math.abs(high) || 1) / 2];
  return [low, high];
}

// Draws the axes between these ends anew; returns where numbers are, and the picture.
function frame(chart, [start, end], [low, high], xlabel, ylabel, whole = false) {
  const width = chart.clientWidth, height = chart.clientHeight;
  const marks = ticks(low, high, Math.max(3, height / 70));
  const left = 14 + 8 * Math.max(...marks.map(y => brief(y).length)), right = width - 14;
  const top = 34, bottom = height - 52;
  const x = value => left + (right - left) * (value - start) / (end - start);
  const y = value => bottom + (top - bottom) * (Math.min(Math.max(value, low), high) - low) / (high - low);
  const text = (x, y, anchor, words, kind = "") => svg("text", { x, y, "text-anchor": anchor, class: kind }, words);
  const line = (x1, y1, x2, y2, kind = "") => svg("line", { x1, y1, x2, y2, class: kind });
  const along = ticks(start, end, Math.max(2, (right - left) / (whole ? 110 : 80))).filter(mark => !whole || Number.isInteger(mark));
  const picture = svg("svg", { role: "img", "aria-label": `${ylabel} over ${xlabel}` },
    text(left, 18, "start", ylabel, "name"),
    text((left + right) / 2, height - 8, "middle", xlabel, "name"),
    ...marks.flatMap(mark => [line(left, y(mark), right, y(mark)), text(left - 8, y(mark) + 4, "end", brief(mark))]),
    ...along.flatMap(mark => [
      line(x(mark), bottom, x(mark), bottom + 6),
      text(Math.min(x(mark), right - 4 * brief(mark).length + 10), bottom + 21, "middle", brief(mark))]));
  chart.querySelector("svg")?.remove();
  chart.prepend(picture);
  return { width, left, right, top, bottom, x, y, line, picture };
}

// Lines through the points of each run of neighbours that are not null.
function path(points) {
  let d = "";
  points.forEach((point, i) => {
    if (point) d += (i && points[i - 1] ? "L" : "M") + point + (points[i + 1] ? "" : "h0");
  });
  return d;
}

// Shows what a chart has at a place.
function tell(tip, chart, x, y, words) {
  tip.replaceChildren(...words.map(word => html("div", {}, word)));
  chart.append(tip);
  tip.hidden = false;
  const above = y - 14 - tip.offsetHeight;
  tip.style.left = `${Math.max(0, Math.min(x - tip.offsetWidth / 2, chart.clientWidth - tip.offsetWidth))}px`;
  tip.style.top = `${above < 0 ? y + 14 : above}px`;
}

// Entries of a chart's key: a sample of a shape, a ramp of colors.
const entry = (key, ...parts) => key.append(html("span", {}, ...parts));
const sample = (kind, shape, style = "") => svg("svg", { viewBox: "0 0 26 14", class: "ranked best", style },
  svg("path", { class: kind, d: shape }));
function ramp() {
  const colors = html("span", { class: "ramp" });
  for (let i = 0; i < 24; i++) colors.append(html("i", { class: "ranked", style: `--at: ${i / 23}` }));
  return ["best", colors, "worst"];
}
