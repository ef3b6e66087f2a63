// The page's own drawing: curves with the values of what is pointed at, a legend of buttons,
// pictures to save, light and dark; and of a page that is served, its news every few seconds.
"use strict";
(() => {
  const page = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const hidden = new Set(); // keys of buttons that are off: "width 48", "arm µP"
  const POLL_MS = 3000, BUSY_MS = 500, AWAY_MS = 30000;
  const LEAST_WIDTH = 240; // pixels of a picture
  const NEAR = 28; // pixels within which a mark is pointed at

  // ---- elements ----

  const NAMESPACE = (() => {
    const holder = document.createElement("div");
    holder.innerHTML = "<svg></svg>";
    return holder.firstChild.namespaceURI;
  })();

  function html(tag, properties = {}, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  }

  function svg(tag, attributes = {}, style = {}, ...children) {
    const made = document.createElementNS(NAMESPACE, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    Object.assign(made.style, style);
    made.append(...children);
    return made;
  }

  const themed = (color) => `var(--c${color.slice(1)})`; // as page.py names each colour
  const button = (text, onclick) => html("button", { type: "button", textContent: text, onclick });
  const isOff = (kind, key) => hidden.has(`${kind} ${key}`);

  let clips = 0;
  const clipName = () => `clip-${++clips}`;

  // ---- scales ----

  function scale([low, high], [start, end]) {
    return (value) => start + ((value - low) / (high - low)) * (end - start);
  }

  function round(value) { // as short as it can be told
    if (value !== 0 && (Math.abs(value) < 1e-4 || Math.abs(value) >= 1e6)) {
      return value.toExponential(0).replace("e+", "e");
    }
    return String(Number(value.toPrecision(6))).replace("-", "−");
  }

  function linearTicks([low, high], most) {
    const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
    const ticks = [], digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    for (let i = Math.ceil(low / step); i * step <= high; i++) {
      ticks.push({ at: i * step, text: (i * step).toFixed(digits).replace("-", "−") });
    }
    return ticks;
  }

  // The axis is in octaves; its ticks stand at 1, 2, 5 or 1, 3 of each power of ten.
  function octaveTicks([low, high], most) {
    const tried = [[1, 2, 5], [1, 3], [1]].map((steps) => {
      const ticks = [];
      for (let p = Math.floor(low * Math.log10(2)); p <= Math.ceil(high * Math.log10(2)); p++) {
        for (const step of steps) {
          const at = Math.log2(step * 10 ** p);
          if (at >= low && at <= high) ticks.push({ at, text: round(step * 10 ** p) });
        }
      }
      return ticks;
    });
    return tried.find((ticks) => ticks.length <= most) || tried[2];
  }

  const ticksOf = (axis, most) =>
    axis.log ? octaveTicks(axis.limits, most) : linearTicks(axis.limits, most);

  // Places for labels at least `gap` apart, in the same order.
  function spread(wanted, gap, low, high) {
    const order = wanted.map((_, i) => i).sort((a, b) => wanted[a] - wanted[b]);
    const placed = [...wanted];
    order.forEach((i, n) => {
      if (n) placed[i] = Math.max(placed[i], placed[order[n - 1]] + gap);
    });
    const last = Math.max(...placed), first = Math.min(...placed);
    const shift = Math.max(Math.min(0, high - last), low - first);
    return placed.map((place) => place + shift);
  }

  // ---- a pair of axes ----

  const FONT = { fontFamily: "system-ui, sans-serif", fontSize: "12px" };

  function axes(width, height, right, label) {
    const box = { left: 58, right: width - right, top: 8, bottom: height - 42 };
    const root = svg("svg",
      { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label, tabindex: 0 }, FONT);
    return { root, box, marks: [] };
  }

  function text(x, y, content, style = {}, attributes = {}) {
    const made = svg("text", { x, y, ...attributes }, { fill: "var(--ink)", ...style });
    made.textContent = content;
    return made;
  }

  const line = (x1, y1, x2, y2, style) => svg("line", { x1, y1, x2, y2 }, style);

  function drawFrame({ root, box }, x, y, xTicks, yTicks, xLabel, yLabel) {
    const grid = { stroke: "var(--line)", strokeWidth: 1 };
    const middle = { "text-anchor": "middle" };
    for (const tick of yTicks) {
      root.append(line(box.left, y(tick.at), box.right, y(tick.at), grid));
      root.append(text(box.left - 7, y(tick.at) + 4, tick.text, {}, { "text-anchor": "end" }));
    }
    for (const tick of xTicks) {
      root.append(line(x(tick.at), box.top, x(tick.at), box.bottom, grid));
      root.append(text(x(tick.at), box.bottom + 16, tick.text, {}, middle));
    }
    const edge = { stroke: "var(--muted)", strokeWidth: 1 };
    root.append(line(box.left, box.bottom, box.right, box.bottom, edge));
    root.append(line(box.left, box.top, box.left, box.bottom, edge));
    const muted = { fill: "var(--muted)" };
    root.append(text((box.left + box.right) / 2, box.bottom + 35, xLabel, muted, middle));
    const turned = { ...middle, transform: `rotate(-90 13 ${(box.top + box.bottom) / 2})` };
    root.append(text(13, (box.top + box.bottom) / 2, yLabel, muted, turned));
  }

  const path = (points, style) =>
    svg("path", { d: "M" + points.map(([a, b]) => `${a.toFixed(1)} ${b.toFixed(1)}`).join("L") },
      { fill: "none", strokeWidth: 2, ...style });

  // A value with its interval: a dot, hollow where it is censored.
  function drawMark(chart, group, mark, x, y, color, { sideways = false, shape = "dot" } = {}) {
    const [px, py] = [x(mark.x), y(mark.y)];
    if (mark.interval) {
      const [a, b] = mark.interval.map((end) => (sideways ? x(end) : y(end)));
      const bar = { stroke: color, strokeWidth: 2.2 };
      for (const end of [a, b]) {
        group.append(sideways ? line(end, py - 5, end, py + 5, bar)
          : line(px - 5, end, px + 5, end, bar));
      }
      group.append(sideways ? line(a, py, b, py, bar) : line(px, a, px, b, bar));
    }
    const look = { stroke: color, strokeWidth: 2, fill: mark.hollow ? "var(--paper)" : color };
    if (shape === "square") {
      look.fill = "var(--paper)";
      group.append(svg("rect", { x: px - 5, y: py - 5, width: 10, height: 10 }, look));
    } else if (shape === "star") {
      const points = [...Array(10).keys()].map((i) => {
        const r = i % 2 ? 3.6 : 9, turn = (i * Math.PI) / 5;
        return `${px + r * Math.sin(turn)},${py - r * Math.cos(turn)}`;
      });
      group.append(svg("polygon", { points: points.join(" ") }, look));
    } else if (mark.hollow) {
      const d = `M${px} ${py - 6}L${px + 6} ${py}L${px} ${py + 6}L${px - 6} ${py}Z`;
      group.append(svg("path", { d }, look));
    } else {
      group.append(svg("circle", { cx: px, cy: py, r: 5 }, look));
    }
    chart.marks.push({ px, py, text: mark.text, group });
  }

  // ---- loss over the hyperparameter, a curve per width ----

  function drawPanel(panel, width) {
    const chart = axes(width, Math.min(380, Math.max(300, width * 0.8)), 40,
      `${panel.title}: ${panel.y.label} over ${panel.x.label}`);
    const { root, box } = chart;
    const x = scale(panel.x.limits, [box.left, box.right]);
    const y = scale(panel.y.limits, [box.bottom, box.top]);
    const below = { limits: [panel.y.limits[0], panel.ceiling] };
    drawFrame(chart, x, y, ticksOf(panel.x, (box.right - box.left) / 46), ticksOf(below, 6),
      panel.x.label, panel.y.label);
    const clip = clipName();
    const inside = { x: box.left, y: y(panel.ceiling), width: box.right - box.left,
      height: box.bottom - y(panel.ceiling) };
    root.append(svg("clipPath", { id: clip }, {}, svg("rect", inside)));
    root.append(line(box.left, y(panel.ceiling), box.right, y(panel.ceiling),
      { stroke: "var(--muted)", strokeDasharray: "1 3" }));
    const shown = panel.curves.filter((curve) => !isOff("width", curve.key));
    for (const curve of shown) root.append(drawCurve(chart, curve, x, y, `url(#${clip})`));
    const levels = spread(shown.map((c) => y(c.optimum.y)), 14, box.top + 8, box.bottom - 4);
    shown.forEach((curve, i) => root.append(text(box.right + 5, levels[i] + 4, curve.name,
      { fill: themed(curve.color), fontWeight: 650 })));
    return chart;
  }

  function drawCurve(chart, curve, x, y, clip) {
    const color = themed(curve.color), group = svg("g", { class: "curve" });
    const { box } = chart, lane = y(curve.lane);
    const inside = svg("g", { "clip-path": clip });
    group.append(inside);
    joined(curve).forEach(([a, b]) => inside.append(
      line(x(a.x), y(a.y), x(b.x), y(b.y), { stroke: color, strokeWidth: 1, opacity: 0.6 })));
    if (curve.fit.length) {
      inside.append(path(curve.fit.map(([t, loss]) => [x(t), y(loss)]), { stroke: color }));
    }
    for (const point of curve.points) {
      const [px, py] = [x(point.x), y(point.y)];
      inside.append(line(px, y(point.low), px, y(point.high), { stroke: color }));
      group.append(svg("circle", { cx: px, cy: py, r: 3 }, { fill: color }));
      chart.marks.push({ px, py, text: point.text, group });
    }
    if (curve.cliff !== null) {
      group.append(line(x(curve.cliff), lane, box.right, lane,
        { stroke: color, strokeWidth: 7, opacity: 0.2 }));
    }
    for (const point of curve.above) {
      const px = x(point.x), d = `M${px} ${lane - 4}L${px + 4} ${lane + 3}L${px - 4} ${lane + 3}Z`;
      group.append(svg("path", { d }, { fill: color, opacity: 0.7 }));
      chart.marks.push({ px, py: lane, text: point.text, group });
    }
    for (const point of curve.failed) {
      const px = x(point.x);
      const d = `M${px - 4} ${lane - 4}L${px + 4} ${lane + 4}M${px - 4} ${lane + 4}L${px + 4} ${lane - 4}`;
      group.append(svg("path", { d }, { stroke: color, strokeWidth: 2 }));
      chart.marks.push({ px, py: lane, text: point.text, group });
    }
    const optimum = curve.optimum, edge = box.right;
    group.append(line(x(optimum.x), y(optimum.y), edge, y(optimum.y),
      { stroke: color, strokeDasharray: "1 4", opacity: 0.8 }));
    drawMark(chart, group, optimum, x, y, color, { sideways: true });
    return group;
  }

  // Neighbouring points that no fitted curve joins, and no failed point parts.
  function joined({ points, failed, fit }) {
    const ends = fit.length ? [fit[0][0], fit[fit.length - 1][0]] : [0, 0];
    return points.slice(1).map((b, i) => [points[i], b]).filter(([a, b]) =>
      !(ends[0] <= a.x && b.x <= ends[1]) && !failed.some((f) => a.x < f.x && f.x < b.x));
  }

  // ---- the optimum over the width ----

  function drawOver(over, width) {
    const height = Math.min(380, Math.max(300, width * 0.8));
    const chart = axes(width, height, 24, `${over.y.label} over ${over.x.label}`);
    const { root, box } = chart;
    const places = [...over.x.places, ...(over.x.target ? [over.x.target] : [])].map(Math.log2);
    const across = scale([Math.min(...places) - 0.35, Math.max(...places) + 0.35],
      [box.left, box.right]);
    const x = (value) => across(Math.log2(value)), y = scale(over.y.limits, [box.bottom, box.top]);
    const ticks = over.x.places.map((at) => ({ at, text: round(at) }));
    if (over.x.target && !over.x.places.includes(over.x.target)) {
      ticks.push({ at: over.x.target, text: `${round(over.x.target)} (target)` });
    }
    drawFrame(chart, x, y, ticks, ticksOf(over.y, 7), over.x.label, over.y.label);
    if (over.x.target) {
      root.append(line(x(over.x.target), box.top, x(over.x.target), box.bottom,
        { stroke: "var(--muted)", strokeDasharray: "4 3" }));
    }
    const clip = clipName();
    root.append(svg("clipPath", { id: clip }, {}, svg("rect",
      { x: box.left, y: box.top, width: box.right - box.left, height: box.bottom - box.top })));
    const shown = over.tracks.filter((track) => !isOff("arm", track.arm));
    shown.forEach((track, i) => {
      const nudge = (i - (shown.length - 1) / 2) * 7; // arms stand beside one another
      root.append(drawTrack(chart, track, (at) => x(at) + nudge, x, y, `url(#${clip})`));
    });
    if (over.realised) {
      const group = svg("g", { class: "curve" });
      drawMark(chart, group, over.realised, (at) => x(at) + 14, y, "var(--ink)",
        { shape: over.realised.hollow ? "dot" : "star" });
      root.append(group);
    }
    return chart;
  }

  function drawTrack(chart, track, beside, x, y, clip) {
    const color = themed(track.color), group = svg("g", { class: "curve", "clip-path": clip });
    if (track.band) {
      const { at, value, low, high } = track.band;
      if (low.length) {
        const around = [...at.map((a, i) => [x(a), y(low[i])]),
          ...at.map((a, i) => [x(a), y(high[i])]).reverse()];
        group.append(path(around, { fill: color, opacity: 0.15, stroke: "none" }));
      }
      group.append(path(at.map((a, i) => [x(a), y(value[i])]), { stroke: color, strokeWidth: 1.6 }));
    }
    for (const mark of track.marks) {
      if (!isOff("width", mark.key)) drawMark(chart, group, mark, beside, y, color);
    }
    if (track.target) drawMark(chart, group, track.target, beside, y, color, { shape: "square" });
    return group;
  }

  // ---- values of what is pointed at, by pointer or arrow keys ----

  function pointable(figure, chart) {
    const { root, marks } = chart;
    const tip = html("div", { className: "tip", hidden: true });
    tip.setAttribute("role", "status");
    figure.append(tip);
    let current = -1;

    function show(index) {
      current = index;
      root.querySelectorAll("g.on").forEach((group) => group.classList.remove("on"));
      root.classList.toggle("pointed", index >= 0);
      tip.hidden = index < 0;
      if (index < 0) return;
      const mark = marks[index];
      mark.group.classList.add("on");
      tip.replaceChildren(...mark.text.map((words) => html("div", { textContent: words })));
      const [left, top] = [root.getBoundingClientRect(), figure.getBoundingClientRect()]
        .reduce((a, b) => [a.left - b.left, a.top - b.top]);
      const fits = left + mark.px + 12 + tip.offsetWidth < figure.clientWidth;
      const beside = left + mark.px + (fits ? 12 : -12 - tip.offsetWidth);
      tip.style.left = `${Math.max(4, beside)}px`;
      const above = top + mark.py - tip.offsetHeight - 12;
      tip.style.top = `${above > 0 ? above : top + mark.py + 14}px`;
    }

    function nearest(event) {
      const box = root.getBoundingClientRect();
      const [px, py] = [event.clientX - box.left, event.clientY - box.top];
      let best = -1, least = NEAR;
      marks.forEach((mark, i) => {
        const away = Math.hypot(mark.px - px, mark.py - py);
        if (away < least) [best, least] = [i, away];
      });
      return best;
    }

    root.addEventListener("pointermove", (event) => show(nearest(event)));
    root.addEventListener("pointerdown", (event) => show(nearest(event)));
    root.addEventListener("pointerleave", () => show(-1));
    root.addEventListener("blur", () => show(-1));
    root.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (event.key === "Escape") show(-1);
      if (!step || !marks.length) return;
      event.preventDefault();
      show((current + step + marks.length) % marks.length);
    });
  }

  // ---- pictures to save ----

  function save(picture, name) {
    const copy = picture.cloneNode(true), style = getComputedStyle(document.documentElement);
    const [, , width, height] = picture.getAttribute("viewBox").split(" ");
    copy.setAttribute("width", width);
    copy.setAttribute("height", height);
    copy.classList.remove("pointed");
    copy.prepend(svg("rect", { width, height }, { fill: "var(--paper)" }));
    const source = new XMLSerializer().serializeToString(copy)
      .replace(/var\((--\w+)\)/g, (_, variable) => style.getPropertyValue(variable).trim());
    const address = URL.createObjectURL(new Blob([source], { type: "image/svg+xml" }));
    html("a", { href: address, download: `${name}.svg` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
  }

  function addSaving(figure, name) {
    const asked = button("Save SVG", () => save(figure.querySelector("svg"), name));
    asked.className = "save";
    figure.append(asked);
  }

  // ---- everything that is drawn ----

  const fileName = (words) => words.replace(/[^\p{L}\p{N}_-]+/gu, "_");

  function figures() {
    const { sweep, panels, over } = page.charts;
    return [
      ...panels.filter((panel) => !isOff("arm", panel.arm)).map((panel) => ({
        name: `${sweep}-curves-${panel.arm}`, title: panel.title,
        note: `A curve for each ${page.charts.axis}; the large dot is its optimum.`,
        draw: (width) => drawPanel(panel, width) })),
      ...over.map((each) => ({ name: `${sweep}-${each.y.label}`, title: each.title,
        note: each.key, draw: (width) => drawOver(each, width) })),
    ];
  }

  let drawnAt = 0; // the width of the page that was drawn

  function draw() {
    const place = byId("charts");
    if (!place) return;
    drawnAt = place.parentElement.clientWidth;
    const focused = [...place.querySelectorAll("svg")].indexOf(document.activeElement);
    place.replaceChildren(...figures().map(({ name, title, note, draw }) => {
      const caption = html("figcaption", { textContent: title },
        html("small", { textContent: note }));
      const figure = html("figure", { className: "drawn" }, caption);
      figure.draw = draw;
      addSaving(figure, fileName(name));
      return figure;
    }));
    for (const figure of place.children) {
      const style = getComputedStyle(figure);
      const inner = figure.clientWidth - 2 * parseFloat(style.paddingLeft);
      const chart = figure.draw(Math.max(inner, LEAST_WIDTH));
      figure.append(chart.root);
      pointable(figure, chart);
    }
    if (focused >= 0) place.querySelectorAll("svg")[focused]?.focus();
    byId("curves").hidden = !page.charts.panels.length;
  }

  function drawLegend() {
    const place = byId("legend");
    if (!place) return;
    const groups = [["width", page.charts.axis, page.charts.settings],
      ["arm", "parametrization", page.charts.arms]];
    const wanted = JSON.stringify(groups);
    if (place.dataset.shown === wanted) return; // a button that has the focus keeps it
    place.dataset.shown = wanted;
    place.replaceChildren(...groups.filter(([, , items]) => items.length > 1)
      .map(([kind, label, items]) => {
        const group = html("div", {}, html("span", { textContent: `${label}:` }));
        group.setAttribute("role", "group");
        group.setAttribute("aria-label", label);
        group.append(...items.map((item) => legendButton(kind, item)));
        return group;
      }));
  }

  function legendButton(kind, item) {
    const key = `${kind} ${item.key}`, dot = html("i");
    dot.style.background = themed(item.color);
    const made = button("", () => {
      hidden.has(key) ? hidden.delete(key) : hidden.add(key);
      made.setAttribute("aria-pressed", String(!hidden.has(key)));
      draw();
    });
    made.append(dot, item.name);
    made.setAttribute("aria-pressed", String(!hidden.has(key)));
    return made;
  }

  // ---- light and dark ----

  function addTheme() {
    const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)");
    const isDark = () => (root.dataset.theme || (dark.matches ? "dark" : "light")) === "dark";
    const other = () => (isDark() ? "light" : "dark");
    const made = button("", () => { root.dataset.theme = other(); label(); });
    const label = () => { made.textContent = isDark() ? "Light" : "Dark"; };
    made.id = "theme";
    dark.addEventListener("change", label);
    label();
    document.querySelector("main").append(made);
  }

  // ---- news of a page that is served ----

  const parts = new Map(); // what each part of the page shows

  function renew(id, content) {
    const place = byId(id);
    if (!place || parts.get(id) === content) return;
    parts.set(id, content);
    const open = [...place.querySelectorAll("details")].map((each) => each.open);
    place.innerHTML = content; // escaped where it was made
    place.querySelectorAll("details").forEach((each, i) => { each.open = Boolean(open[i]); });
  }

  function listen() {
    const fresh = html("div", { id: "fresh", textContent: "live" });
    fresh.setAttribute("role", "status");
    document.body.append(fresh);
    let tag = page.tag, timer;
    const askIn = (ms) => { clearTimeout(timer); timer = setTimeout(ask, ms); };

    async function ask() {
      try {
        const answer = await fetch("data.json",
          { headers: tag ? { "If-None-Match": tag } : {}, cache: "no-store" });
        if (answer.status === 200) {
          tag = answer.headers.get("ETag");
          show(await answer.json());
        } else if (answer.status !== 304) throw new Error(answer.statusText);
        fresh.className = "";
        fresh.textContent = page.busy ? "reading new rows …" : "live";
      } catch (error) {
        fresh.className = "lost";
        fresh.textContent = "not live: the command that serves this page does not answer";
      }
      askIn(document.hidden ? AWAY_MS : page.busy ? BUSY_MS : POLL_MS);
    }
    document.addEventListener("visibilitychange", () => { if (!document.hidden) askIn(0); });
    askIn(page.busy ? BUSY_MS : POLL_MS);
  }

  function show(news) {
    for (const [id, content] of Object.entries(news.parts)) renew(id, content);
    const before = JSON.stringify(page.charts);
    page.busy = news.busy;
    document.title = news.title;
    if (JSON.stringify(news.charts) === before) return;
    page.charts = news.charts;
    drawLegend();
    draw();
  }

  addTheme();
  if (page.charts) {
    drawLegend();
    draw();
    for (const figure of document.querySelectorAll("figure[data-name]")) {
      addSaving(figure, fileName(`${page.charts.sweep}-${figure.dataset.name}`));
    }
    const place = byId("charts").parentElement;
    new ResizeObserver(() => { if (place.clientWidth !== drawnAt) draw(); }).observe(place);
  }
  if (page.live) listen();
})();
