"use strict";
(() => {
  const INK = "#1c2127";
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const coarse = matchMedia("(pointer: coarse)").matches;
  const hidden = new Set();
  const figures = [...document.querySelectorAll("figure[data-key]")].map((node) => ({
    node,
    plot: node.querySelector(".plot"),
    chips: node.querySelector(".chips"),
    text: node.querySelector("script").textContent,
  }));
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // Colours of the theme: text, grid and the ink that stands for black in the palette.
  function themed(text) {
    const spec = JSON.parse(text.replaceAll(`"${INK}"`, JSON.stringify(color("--ink"))));
    const layout = spec.layout;
    layout.font.color = color("--ink");
    layout.showlegend = false;
    layout.hoverlabel = { bgcolor: color("--card"), bordercolor: color("--line"), font: { color: color("--ink") }, namelength: -1, align: "left" };
    layout.modebar = { bgcolor: "rgba(0,0,0,0)", color: color("--soft"), activecolor: color("--accent") };
    if (coarse) layout.dragmode = false;
    for (const key of Object.keys(layout).filter((name) => /^[xy]axis\d*$/.test(name))) {
      Object.assign(layout[key], { gridcolor: color("--grid"), linecolor: color("--soft"), tickcolor: color("--soft"), zerolinecolor: color("--grid") });
    }
    for (const trace of spec.data) {
      if (hidden.has(trace.legendgroup)) trace.visible = false;
      if (trace.type === "parcoords") Object.assign(trace, { labelfont: { size: 12, color: color("--ink") }, tickfont: { size: 11, color: color("--ink") }, rangefont: { size: 1, color: "rgba(0,0,0,0)" }, unselected: { line: { color: color("--line") } } });
    }
    return spec;
  }

  function draw(figure) {
    const spec = themed(figure.text);
    // plotly.js offers to upload a chart to its makers' cloud unless told not to.
    const config = { responsive: true, displaylogo: false, displayModeBar: coarse ? false : "hover", showSendToCloud: false, plotlyServerURL: "", modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"] };
    return Plotly.react(figure.plot, spec.data, spec.layout, config).then(() => {
      addChips(figure, spec.data);
      figure.node.dataset.drawn = "true";
    });
  }

  // The legend is made of buttons below the title: they wrap on a phone, and switch an arm in every figure at once.
  function addChips(figure, traces) {
    const named = traces.filter((trace) => trace.legendgroup && trace.showlegend !== false && trace.name);
    figure.chips.replaceChildren(...(named.length > 1 ? named.map(chip) : []));
  }

  function chip(trace) {
    const button = document.createElement("button");
    const label = document.createElement("span");
    label.textContent = new DOMParser().parseFromString(trace.name, "text/html").documentElement.textContent;
    button.type = "button";
    button.className = "chip";
    button.dataset.group = trace.legendgroup;
    button.setAttribute("aria-pressed", String(!hidden.has(trace.legendgroup)));
    button.title = "Show or hide in every figure";
    button.append(swatch(trace), label);
    button.addEventListener("click", () => toggle(trace.legendgroup));
    return button;
  }

  function swatch(trace) {
    const name = "http://www.w3.org/2000/svg";
    const svg = document.createElementNS(name, "svg");
    const line = document.createElementNS(name, "line");
    const dashes = { dash: "6 3", dot: "2 3", dashdot: "6 3 2 3" };
    const paint = (trace.mode || "").includes("lines") ? trace.line.color : trace.marker.color;
    for (const [key, value] of Object.entries({ width: 22, height: 8, "aria-hidden": "true" })) svg.setAttribute(key, value);
    for (const [key, value] of Object.entries({ x1: 0, x2: 22, y1: 4, y2: 4, "stroke-width": 3, stroke: paint, "stroke-dasharray": dashes[trace.line?.dash] || "none" })) line.setAttribute(key, value);
    svg.append(line);
    return svg;
  }

  function toggle(group) {
    if (!hidden.delete(group)) hidden.add(group);
    for (const button of document.querySelectorAll(".chip")) button.setAttribute("aria-pressed", String(!hidden.has(button.dataset.group)));
    for (const figure of figures) {
      const members = (figure.plot.data || []).flatMap((trace, i) => (trace.legendgroup === group ? [i] : []));
      if (members.length) Plotly.restyle(figure.plot, { visible: !hidden.has(group) }, members);
    }
    remember();
  }

  // One figure per task, so that the page can be read and scrolled while the rest is drawn.
  function drawAll(queue) {
    if (!queue.length) { document.body.dataset.ready = "true"; return; }
    draw(queue[0]).finally(() => setTimeout(() => drawAll(queue.slice(1))));
  }

  function sortBy(table, column, direction) {
    const body = table.tBodies[0];
    const value = (row) => { const raw = row.cells[column].dataset.value; return raw === "" || isNaN(raw) ? raw : Number(raw); };
    const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true }));
    const unknown = (row) => row.cells[column].dataset.value === "" ? 1 : 0;
    const rows = [...body.rows].sort((a, b) => unknown(a) - unknown(b) || direction * compare(value(a), value(b)));
    body.append(...rows);
    [...table.tHead.rows[0].cells].forEach((cell, i) => {
      if (i === column) cell.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
      else cell.removeAttribute("aria-sort");
    });
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    table.tHead.addEventListener("click", (event) => {
      const cell = event.target.closest("button")?.closest("th");
      if (!cell) return;
      sortBy(table, cell.cellIndex, cell.getAttribute("aria-sort") === "ascending" ? -1 : 1);
      remember();
    });
  }

  const filter = document.getElementById("filter");
  function applyFilter() {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = [...document.querySelectorAll("#runs-table tbody tr")];
    for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
    document.getElementById("shown").textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} runs`;
  }
  filter?.addEventListener("input", () => { applyFilter(); remember(); });

  // A page that reloads itself keeps its place: filter, hidden arms, order of the tables, scroll position.
  const period = Number(document.body.dataset.refresh || 0);
  const store = { key: `symbreak ${location.pathname}`, get: () => JSON.parse(sessionStorage.getItem(store.key) || "{}"), set: (state) => sessionStorage.setItem(store.key, JSON.stringify(state)) };
  function remember() {
    if (!period) return;
    const sorts = [...document.querySelectorAll("table.sortable")].map((table) => {
      const cell = table.querySelector("th[aria-sort]");
      return cell && [cell.cellIndex, cell.getAttribute("aria-sort") === "ascending" ? 1 : -1];
    });
    try { store.set({ filter: filter?.value, hidden: [...hidden], sorts, scroll: scrollY }); } catch { /* storage may be off */ }
  }
  function restore() {
    let state = {};
    try { state = store.get(); } catch { return; }
    for (const group of state.hidden || []) hidden.add(group);
    if (filter && state.filter) { filter.value = state.filter; applyFilter(); }
    document.querySelectorAll("table.sortable").forEach((table, i) => { if (state.sorts?.[i]) sortBy(table, ...state.sorts[i]); });
    if (state.scroll) scrollTo({ top: state.scroll, behavior: "instant" });
  }
  if (period) {
    const live = document.querySelector(".live");
    let paused = false;
    live.querySelector("button").addEventListener("click", (event) => {
      paused = !paused;
      live.classList.toggle("paused", paused);
      event.target.textContent = paused ? "resume" : "pause";
    });
    setInterval(() => { if (!paused) { remember(); location.reload(); } }, period * 1000);
    restore();
  }

  dark.addEventListener("change", () => drawAll(figures));
  drawAll(figures);
})();
