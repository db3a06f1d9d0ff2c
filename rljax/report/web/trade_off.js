// A second chart: each finished run's end, one of training's metrics over another.
// Returns what marks a configuration's points.
function tradeOff({ line, line_label, goals, ends, xlabel, ylabel }, { rows, color, tip, choose, leave }) {
  const [section, chart, key] = ["trade_off", "points", "points_key"].map(id => document.getElementById(id));
  const runs = ends.flatMap((list, i) => list.map(([seed, ...place]) => ({ i, seed, place })));
  const shown = [...line, ...goals, ...runs.map(run => run.place)];
  const [across, up] = [0, 1].map(axis => limits(shown.map(place => place[axis])));
  const words = x => brief(Number(x.toPrecision(4)));
  let axes, groups;

  function draw() {
    axes = frame(chart, across, up, xlabel, ylabel);
    const circle = ([x, y], r, kind) => svg("circle", { cx: axes.x(x), cy: axes.y(y), r, class: kind });
    groups = rows.map((_, i) => svg("g", { class: "ranked", style: color(i) },
      ...goals.slice(i, i + 1).map(goal => circle(goal, 9, "goal"))));
    for (const run of runs) groups[run.i].append(run.dot = circle(run.place, 4.5, "run"));
    if (line.length) axes.picture.append(
      svg("path", { class: "line", d: `M${line.map(([x, y]) => `${axes.x(x)} ${axes.y(y)}`).join("L")}` }));
    axes.picture.append(...groups.toReversed());
  }

  function explain() {
    const dot = i => svg("svg", { viewBox: "0 0 26 14", class: "ranked", style: color(i) },
      svg("circle", { cx: 13, cy: 7, r: 5, class: "run" }));
    entry(key, "Each point: a run's end, as means over training since the evaluation before.");
    if (rows.length > 8) entry(key, ...ramp());
    else rows.forEach((row, i) => entry(key, dot(i), row.label));
    if (line.length) entry(key, sample("line", "M0 7H26"), line_label);
    if (goals.length) entry(key, svg("svg", { viewBox: "0 0 26 14", class: "ranked", style: color(0) },
      svg("circle", { cx: 13, cy: 7, r: 6, class: "goal" })), `${line_label} for a configuration`);
  }

  function mark(chosen) {
    groups.forEach((group, i) => group.classList.toggle("on", i === chosen));
    chart.classList.toggle("busy", chosen !== null);
    chart.querySelector(".seen")?.classList.remove("seen");
  }

  function point(event) {
    const box = chart.getBoundingClientRect(), [px, py] = [event.clientX - box.left, event.clientY - box.top];
    const distance = run => Math.hypot(axes.x(run.place[0]) - px, axes.y(run.place[1]) - py);
    const run = runs.reduce((best, run) => (distance(run) < distance(best) ? run : best), runs[0]);
    leave();
    if (!run) return;
    choose(run.i);
    groups[run.i].append(run.dot);
    run.dot.classList.add("seen");
    const [x, y] = run.place, row = rows[run.i];
    tell(tip, chart, axes.x(x), axes.y(y), [`${row.label}, seed ${run.seed}:`, `${ylabel}: ${words(y)}`,
      `${xlabel}: ${words(x)}`, `rank ${row.rank} of ${rows.length}`]);
  }

  section.hidden = false;
  explain();
  draw();
  new ResizeObserver(() => { if (chart.clientWidth !== axes.width) { leave(); draw(); } }).observe(chart);
  for (const kind of ["pointermove", "pointerdown"]) chart.addEventListener(kind, point);
  chart.addEventListener("pointerleave", leave);
  return mark;
}
