"use strict";

// Charts, in the colours of the page.
const dark = matchMedia("(prefers-color-scheme: dark)");
const plots = [...document.querySelectorAll(".plot")];

function colours(isDark) {
  const text = isDark ? "#e6e9ec" : "#1b1f24";
  const grid = isDark ? "#363e45" : "#e1e5e9";
  return { text, grid, hover: isDark ? "#1d2226" : "#ffffff" };
}

function withColours(layout, isDark) {
  const { text, grid, hover } = colours(isDark);
  const axis = { gridcolor: grid, zerolinecolor: grid, linecolor: grid, automargin: true };
  return {
    height: 300,
    margin: { l: 45, r: 15, t: 10, b: 40 },
    legend: { orientation: "h", y: -0.3, yanchor: "top" },
    colorway: ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"],
    hovermode: "closest",
    ...layout,
    paper_bgcolor: "transparent",
    plot_bgcolor: "transparent",
    font: { color: text, family: "system-ui, sans-serif", size: 12 },
    hoverlabel: { bgcolor: hover, bordercolor: grid, font: { color: text } },
    xaxis: { ...axis, ...layout.xaxis },
    yaxis: { ...axis, ...layout.yaxis },
  };
}

function draw(plot, isDark) {
  const chart = JSON.parse(plot.dataset.chart);
  const textfont = { color: colours(isDark).text };
  const data = chart.data.map((trace) => (trace.texttemplate ? { ...trace, textfont } : trace));
  const options = { responsive: true, displaylogo: false, displayModeBar: "hover" };
  return Plotly.react(plot, data, withColours(chart.layout, isDark), options);
}

const drawAll = (isDark) => plots.filter((plot) => plot.data).forEach((plot) => draw(plot, isDark));
const seen = new IntersectionObserver((entries) => {
  for (const { target } of entries.filter((entry) => entry.isIntersecting)) {
    seen.unobserve(target);
    draw(target, dark.matches);
  }
}, { rootMargin: "600px" });
plots.forEach((plot) => seen.observe(plot));
dark.addEventListener("change", () => drawAll(dark.matches));
addEventListener("beforeprint", () => plots.forEach((plot) => draw(plot, false)));
addEventListener("afterprint", () => drawAll(dark.matches));

// Tables, sorted by a click on a column's head.
for (const table of document.querySelectorAll("table.sortable")) {
  for (const [column, head] of [...table.tHead.rows[0].cells].entries()) {
    const sort = () => {
      const descending = head.ariaSort !== "descending" && column > 0;
      for (const other of table.tHead.rows[0].cells) other.ariaSort = null;
      head.ariaSort = descending ? "descending" : "ascending";
      const text = (row) => row.cells[column].textContent.trim();
      const compare = column === 0
        ? (first, second) => text(first).localeCompare(text(second))
        : (first, second) => (parseFloat(text(first)) || 0) - (parseFloat(text(second)) || 0);
      const rows = [...table.tBodies[0].rows].sort(compare);
      table.tBodies[0].append(...(descending ? rows.reverse() : rows));
    };
    head.tabIndex = 0;
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => event.key === "Enter" && sort());
  }
}

// Pictures, with the boxes over them.
function make(name, attributes = {}, ...children) {
  const isSvg = ["svg", "rect", "text"].includes(name);
  const element = isSvg
    ? document.createElementNS("http://www.w3.org/2000/svg", name)
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function boxes(picture, classes, options) {
  const size = picture.width / 22;
  const shown = [
    ...picture.truth.filter(() => options.truth).map((item) => ({ ...item, text: "" })),
    ...picture.detections
      .filter((item) => options.predictions && item.score >= options.threshold)
      .map((item) => ({ ...item, text: ` ${Math.round(100 * item.score)}%` })),
  ].filter((item) => !options.only || item.kind === options.only || item.kind === "truth");
  return shown.flatMap((item) => {
    const [left, top, right, bottom] = item.box;
    const title = `${classes[item.label]}${item.text}, ${item.kind.replace("_", " ")}`;
    const rect = make("rect", {
      class: item.kind, x: left, y: top, width: Math.max(right - left, 1), height: Math.max(bottom - top, 1),
    }, make("title", {}, title));
    if (!options.labels || (item.kind === "truth" && options.predictions)) return [rect];
    const y = top > size ? top - size / 5 : Math.min(top + size, picture.height);
    const place = { class: item.kind, x: Math.max(left, 0), y, style: `font-size:${size}px;stroke-width:${size / 5}px` };
    return [rect, make("text", place, classes[item.label] + item.text)];
  });
}

function figure(picture, classes, options) {
  const svg = make("svg", { viewBox: `0 0 ${picture.width} ${picture.height}`, preserveAspectRatio: "none" });
  svg.append(...boxes(picture, classes, options));
  const image = make("img", {
    src: picture.source, alt: picture.name, width: picture.width, height: picture.height, decoding: "async",
  });
  const counts = Object.entries(picture.mistakes).filter(([, count]) => count)
    .map(([kind, count]) => `${count} ${kind.replace("_", " ")}`).join(", ");
  const caption = `AP ${picture.ap} · ${picture.name} · ${picture.truth.length} objects${counts && `, ${counts}`}`;
  return make("figure", {}, make("div", { class: "frame" }, image, svg), make("figcaption", {}, caption));
}

for (const gallery of document.querySelectorAll(".gallery")) {
  const { pictures, worst, classes } = JSON.parse(gallery.querySelector("script").textContent);
  const form = gallery.querySelector("form");
  const update = () => {
    const { truth, predictions, labels, threshold, order, kind } = form.elements;
    const options = {
      truth: truth.checked, predictions: predictions.checked, labels: labels.checked, threshold: Number(threshold.value),
    };
    form.querySelector("output").value = options.threshold.toFixed(2);
    const chosen = pictures.filter((picture) => !kind.value || picture.mistakes[kind.value]);
    if (order.value === "best") chosen.reverse();
    gallery.querySelector(".pictures").replaceChildren(
      ...chosen.map((picture) => figure(picture, classes, options)));
    gallery.querySelector(".worst").replaceChildren(...worst
      .filter(([, places]) => places.length)
      .flatMap(([name, places]) => [
        make("h4", {}, name.replace("_", " ")),
        make("div", { class: "row" }, ...places.map((place) =>
          figure(pictures[place], classes, { ...options, only: name }))),
      ]));
  };
  form.addEventListener("input", update);
  form.addEventListener("submit", (event) => event.preventDefault());
  update();
}
