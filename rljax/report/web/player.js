// The player of replays, in the elements of player.html.
// Plays what rljax.report.replay.player_data gives; keys pressed within `keys` steer it.
function player(data, keys) {
  const horizon = Math.max(...data.replays.map(replay => replay.rewards.length));
  const [low, high] = data.rewards;
  const ACTION_COLORS = ["#6a3d9a", "#f2c230", "#1b9e77", "#e7298a", "#66c2e0", "#8c510a", "#a6d854", "#333333"];

  // Shapes lie on a grid of whole numbers, y down: see rljax.report.replay.place.
  function shape([kind, color, ...rest]) {
    if (kind === "polygon") return svg("polygon", { points: rest.join(" "), fill: color });
    const [size, x, y, anchor, text] = rest;
    if (kind === "line")
      return svg("polyline", { points: rest.slice(1).join(" "), fill: "none", stroke: color,
        "stroke-width": size, "stroke-linejoin": "round" });
    if (kind === "circle") return svg("circle", { cx: x, cy: y, r: size, fill: color });
    return svg("text", { x, y, "font-size": size, "text-anchor": anchor, fill: color }, text);
  }

  // From orange (the least reward seen) over sand to blue (the most).
  function rewardColor(reward) {
    const share = high > low ? (reward - low) / (high - low) : 1;
    const [from, to, t] = share < 0.5
      ? [[200, 62, 12], [236, 230, 218], 2 * share] : [[236, 230, 218], [44, 127, 170], 2 * share - 1];
    return `rgb(${from.map((x, i) => Math.round(x + t * (to[i] - x))).join(" ")})`;
  }

  function actionColor(action) {
    return ACTION_COLORS[action] ?? `hsl(${(137.5 * action) % 360} 55% ${action % 2 ? 45 : 65}%)`;
  }

  // One row over time: neighbours of one color are one rectangle.
  function strip(label, colors) {
    const row = svg("svg", { class: "strip", viewBox: `0 0 ${horizon} 1`, preserveAspectRatio: "none",
      "shape-rendering": "crispEdges", role: "img", "aria-label": `${label} over time` });
    for (let start = 0, end; start < colors.length; start = end) {
      for (end = start + 1; colors[end] === colors[start]; ) end++;
      row.append(svg("rect", { x: start, width: end - start, height: 1, fill: colors[start] }));
    }
    row.addEventListener("pointerdown", event => {
      const box = row.getBoundingClientRect();
      pause();
      show(Math.round((horizon * (event.clientX - box.left)) / box.width));
    });
    return [html("span", {}, label), row];
  }

  function axis() {
    const row = html("div", { class: "axis" });
    const rough = horizon / (horizon < 10000 ? 5 : 3), power = 10 ** Math.floor(Math.log10(rough));
    const step = Math.max(1, power * [1, 2, 5, 10].find(x => x * power >= rough));
    for (let t = 0; t <= horizon; t += step) {
      const place = t === 0 ? "first" : t > 0.97 * horizon ? "last" : "";
      const tick = html("span", { class: place }, String(t));
      tick.style.left = `${(100 * t) / horizon}%`;
      row.append(tick);
    }
    return [html("span", {}, "step"), row];
  }

  function panel(replay) {
    const length = replay.rewards.length;
    const totals = [0];
    for (const reward of replay.rewards) totals.push(totals.at(-1) + reward);
    const picture = svg("svg", { class: "picture", viewBox: `0 0 ${data.units} ${replay.height}`,
      "font-family": "system-ui, sans-serif", role: "img", "aria-label": replay.title });
    const step = html("span"), total = html("span", { class: "total" });
    const cursor = html("div", { class: "cursor" });
    const rows = [...strip("reward", replay.rewards.map(rewardColor))];
    if (replay.actions) rows.push(...strip("action", replay.actions.map(actionColor)));
    const over = html("div", { class: "over" }, cursor);
    over.style.gridRow = `1 / ${1 + rows.length / 2}`;
    rows.forEach((node, i) => {
      node.style.gridRow = 1 + Math.floor(i / 2);
      node.style.gridColumn = 1 + (i % 2);
    });
    document.getElementById("panels").append(html("section", { class: "panel", "aria-label": replay.title },
      html("h2", {}, replay.title), picture,
      html("div", { class: "status" }, step, total),
      html("div", { class: "strips" }, ...rows, over, ...axis())));
    return now => {
      const t = Math.min(now, length);
      picture.replaceChildren(...replay.pictures[t].map(i => shape(data.shapes[i])));
      step.className = now < length ? "step" : `step ending ${replay.ending}`;
      step.textContent = now < length ? `step ${t}` : `${replay.ending || "recording ends"} at step ${t}`;
      total.textContent = `reward so far ${totals[t].toFixed(data.decimals)}`;
      cursor.style.left = `${(100 * t) / horizon}%`;
    };
  }

  function legend() {
    const node = document.getElementById("legend");
    const scale = html("i", { class: "scale" }), number = x => String(Number(x.toPrecision(4)));
    scale.style.background = `linear-gradient(to right, ${[0, 0.5, 1].map(
      x => rewardColor(low + x * (high - low))).join(", ")})`;
    const ends = high > low ? [number(low), scale, number(high)] : [scale, number(high)];
    node.append(html("span", {}, html("b", {}, "reward"), ...ends.map(end => html("span", {}, end))));
    const actions = [...new Set(data.replays.flatMap(replay => replay.actions ?? []))].sort((a, b) => a - b);
    if (actions.length && actions.length <= 16)
      node.append(html("span", {}, html("b", {}, "action"), ...actions.flatMap(action => {
        const chip = html("i");
        chip.style.background = actionColor(action);
        return [chip, String(action)];
      })));
  }

  const [play, back, forward, speed, slider, clock] =
    ["play", "back", "forward", "speed", "slider", "clock"].map(id => document.getElementById(id));
  let now = 0;  // the step shown
  let playing = false, position = 0, last = 0;  // position: the step and the part of the next one

  function show(step) {
    now = Math.max(0, Math.min(horizon, step));
    panels.forEach(draw => draw(now));
    slider.value = now;
    slider.setAttribute("aria-valuetext", `step ${now} of ${horizon}`);
    clock.textContent = `${now} / ${horizon}`;
  }

  function setPlaying(on) {
    playing = on;
    play.setAttribute("aria-label", on ? "pause" : "play");
    play.replaceChildren(svg("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" },
      svg("path", { d: on ? "M3 2h4v12H3zM9 2h4v12H9z" : "M3 1v14l11-7z" })));
  }

  function pause() { setPlaying(false); }

  function toggle() {
    if (playing) return pause();
    if (now >= horizon) show(0);
    setPlaying(true);
    position = now;
    last = performance.now();
    requestAnimationFrame(tick);
  }

  function tick(time) {
    if (!playing) return;
    // A page that was out of sight does not leap ahead.
    const seconds = Math.min(Math.max(time - last, 0) / 1000, 0.25);
    last = time;
    position += seconds * data.frames_per_second * Number(speed.value);
    if (Math.floor(position) !== now) show(Math.floor(position));
    if (now >= horizon) return pause();
    requestAnimationFrame(tick);
  }

  function move(steps) { pause(); show(now + steps); }

  const panels = data.replays.map(panel);
  slider.max = horizon;
  legend();
  setPlaying(false);
  show(0);

  play.addEventListener("click", toggle);
  back.addEventListener("click", () => move(-1));
  forward.addEventListener("click", () => move(1));
  slider.addEventListener("input", () => { pause(); show(Number(slider.value)); });
  keys.addEventListener("keydown", event => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const at = event.target;  // what a control does with a key itself, it goes on doing
    if (event.key === " " && at.tagName !== "BUTTON" && at !== speed) toggle();
    else if (event.key === "ArrowLeft" && at !== speed) move(-1);
    else if (event.key === "ArrowRight" && at !== speed) move(1);
    else return;
    event.preventDefault();
  });
}
