(function () {
  "use strict";
  const data = JSON.parse(document.getElementById("chart-data").textContent);
  const page = document.querySelector(".page");
  const DASHES = [[], [6, 3], [2, 3], [9, 3, 2, 3], [], [6, 3], [2, 3], [9, 3, 2, 3]];

  const WHOLE = [];  // no step lies between two
  for (let power = 1; power < 1e9; power *= 10) WHOLE.push(power, 2 * power, 5 * power);

  function recall(name) {
    try { return localStorage.getItem("yangtuo-" + name); } catch (error) { return null; }
  }

  function remember(name, value) {
    try { localStorage.setItem("yangtuo-" + name, value); } catch (error) { /* a browser that keeps nothing */ }
  }

  function language() {
    return document.getElementById("language-zh").checked ? "zh" : "en";
  }

  function colour(name) {
    return getComputedStyle(page).getPropertyValue(name).trim();
  }

  function digits(value) {
    if (value == null) return "–";
    const size = Math.abs(value);
    if (size !== 0 && (size < 1e-3 || size >= 1e7)) return value.toExponential(3).replace(/\.?0+e/, "e").replace("e+", "e");
    return size >= 1000 ? Math.round(value).toLocaleString("en") : String(+value.toPrecision(5));
  }

  function joined(curves) {
    if (curves.length === 1) return [curves[0].x, curves[0].y];
    return uPlot.join(curves.map(function (curve) { return [curve.x, curve.y]; }), curves.map(function () { return [1, 1]; }));
  }

  function marks(chart) {
    return function (plot) {
      const pixels = devicePixelRatio, context = plot.ctx, box = plot.bbox;
      context.save();
      context.strokeStyle = colour("--note");
      context.setLineDash([3 * pixels, 3 * pixels]);
      context.lineWidth = pixels;
      chart.marks.forEach(function (mark) {
        const across = plot.valToPos(mark[0], "x", true);
        if (across < box.left || across > box.left + box.width) return;
        context.beginPath();
        context.moveTo(across, box.top);
        context.lineTo(across, box.top + box.height);
        context.stroke();
      });
      context.restore();
    };
  }

  function axis(size, format) {
    return {
      stroke: colour("--dim"), size: size, font: "12px system-ui, sans-serif",
      grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1, size: 4 },
      values: function (plot, ticks) { return ticks.map(format); }
    };
  }

  function options(chart, width) {
    const several = data.charts.some(function (one) { return one.curves.some(function (curve) { return curve.run > 0; }); });
    const line = function (curve) {
      return {
        label: curve.label[language()],
        stroke: colour("--c" + curve.run) + (curve.pale ? "55" : ""),
        width: curve.pale ? 1 : 1.75,
        dash: several && !curve.pale ? DASHES[curve.run] : [],
        points: { show: curve.points, size: 6, fill: colour("--c" + curve.run) },
        spanGaps: false,
        value: function (plot, value) { return digits(value); }
      };
    };
    return {
      width: width, height: 240, cursor: { sync: { key: "step" }, drag: { x: true, y: true, uni: 30 } },
      scales: { x: { time: false } },
      axes: [Object.assign(axis(34, digits), { incrs: WHOLE }), axis(62, digits)],
      series: [{ label: data.step[language()], value: function (plot, value) { return digits(value); } }].concat(chart.curves.map(line)),
      hooks: { draw: chart.marks.length ? [marks(chart)] : [] }
    };
  }

  const plots = [];

  function draw() {
    plots.splice(0).forEach(function (plot) { plot.destroy(); });
    document.querySelectorAll("[data-chart]").forEach(function (figure) {
      const chart = data.charts[Number(figure.dataset.chart)], place = figure.querySelector(".plot");
      const width = place.clientWidth;
      const fallback = place.querySelector("svg");
      if (!width || !chart) return;
      plots.push(new uPlot(options(chart, width), joined(chart.curves), place));
      if (fallback) fallback.remove();
      figure.dataset.drawn = "true";
    });
  }

  function settle() {
    document.documentElement.lang = language() === "zh" ? "zh-CN" : "en";
    const theme = document.querySelector("input[name=theme]:checked").id.slice(6);
    document.documentElement.style.colorScheme = theme === "auto" ? "light dark" : theme;
    document.body.style.background = colour("--back");
    draw();
  }

  const wanted = recall("language") || ((navigator.language || "").toLowerCase().startsWith("zh") ? "zh" : "en");
  document.getElementById(wanted === "zh" ? "language-zh" : "language-en").checked = true;
  const chosen = document.getElementById("theme-" + recall("theme"));
  if (chosen) chosen.checked = true;
  document.querySelectorAll(".state").forEach(function (input) {
    input.addEventListener("change", function () {
      remember(input.name, input.id.slice(input.name.length + 1));
      settle();
    });
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", settle);
  let last = 0;
  new ResizeObserver(function () {
    if (page.clientWidth === last) return;
    last = page.clientWidth;
    document.querySelectorAll("[data-chart]").forEach(function (figure, i) {
      if (plots[i]) plots[i].setSize({ width: figure.querySelector(".plot").clientWidth, height: 240 });
    });
  }).observe(page);
  settle();
})();
