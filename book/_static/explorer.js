// The explorer of the sweep. Each .lbp-explorer holds a picture, its numbers as JSON and a table; this
// puts controls and a drawing in the place of the picture. What they show is in explorer.py.
"use strict";

(() => {
  const HEIGHT = 340;
  const MARGIN = { left: 44, right: 12, top: 10, bottom: 40 };

  function html(tag, attributes = {}, ...children) {
    return fill(document.createElement(tag), attributes, children);
  }

  function svg(tag, attributes = {}, ...children) {
    return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
  }

  function fill(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  // Returns a labelled choice; `options` are pairs of value and text.
  function choice(text, options, chosen, changed) {
    const select = html("select");
    for (const [value, name] of options) select.append(html("option", { value }, name));
    select.value = chosen;
    select.addEventListener("change", () => changed(select.value));
    return html("label", {}, html("span", {}, text), select);
  }

  // --- what is shown

  // Writes a number as the book does: 0.1, 0.01, 1e-3.
  function written(value) {
    return value >= 0.01 ? `${value}` : value.toExponential();
  }

  // Returns a line for each chosen rule: its run at the chosen scale, and the paper's curve.
  function linesOf(data, view) {
    const fits = (curve, rule) =>
      curve.rule === rule.name && curve.lr === view.lr && curve.l2 === view.l2;
    return data.rules
      .filter((rule) => view.rule === "both" || rule.name === view.rule)
      .map((rule) => ({
        rule,
        run: data.runs.find((run) => run.scale === view.scale && fits(run, rule)),
        paper: data.paper.find((curve) => fits(curve, rule)),
      }));
  }

  // Returns the last epoch on the axis: the beginning of long runs fills the drawing.
  function lastEpoch(lines) {
    const there = Math.max(0, ...lines.map(({ run }) => (run ? run.accuracy.length : 0)));
    const goal = Math.max(1, ...lines.map(({ run }) => (run ? run.goal : 1)));
    return there === 0 ? goal : Math.min(goal, Math.max(5, Math.floor(1.2 * there)));
  }

  function percent(value) {
    return `${value.toFixed(1)} %`;
  }

  // Says what a line is at an epoch.
  function words({ rule, run, paper }, epoch) {
    const state = run ? run.state : "not yet run";
    const value = run && run.accuracy[epoch - 1];
    const ours = value === undefined ? `no value (${state})` : percent(value);
    const theirs = paper ? papers(paper, epoch) : "no curve";
    return `${rule.label}: this book ${ours}, the paper ${theirs}.`;
  }

  // Says what the paper's curve is at the epoch next to the chosen one at which it was digitised.
  function papers(curve, epoch) {
    let near = 0;
    curve.epochs.forEach((other, at) => {
      if (Math.abs(other - epoch) < Math.abs(curve.epochs[near] - epoch)) near = at;
    });
    const at = curve.epochs[near] === epoch ? "" : ` at epoch ${curve.epochs[near]}`;
    const [low, high] = [curve.low[near], curve.high[near]].map((value) => value.toFixed(1));
    return `${percent(curve.mid[near])} (${low} to ${high})${at}`;
  }

  // --- the drawing

  function mark(shape, x, y, attributes) {
    if (shape === "^") {
      const points = `${x},${y - 5} ${x - 5},${y + 4} ${x + 5},${y + 4}`;
      return svg("polygon", { points, ...attributes });
    }
    return svg("circle", { cx: x, cy: y, r: 4, ...attributes });
  }

  function drawing(lines, last, epoch, width, name) {
    const right = width - MARGIN.right;
    const bottom = HEIGHT - MARGIN.bottom;
    const x = (value) => MARGIN.left + (value / last) * (right - MARGIN.left);
    const y = (value) => bottom - (value / 100) * (bottom - MARGIN.top);
    const path = (xs, ys) => xs.map((value, at) => `${x(value)},${y(ys[at])}`).join(" ");
    const image = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": name });

    for (let value = 0; value <= 100; value += 20) {
      image.append(
        svg("line", { class: "grid", x1: MARGIN.left, x2: right, y1: y(value), y2: y(value) }),
        svg("text", { x: MARGIN.left - 6, y: y(value) + 4, "text-anchor": "end" }, `${value}`),
      );
    }
    const step = [1, 2, 5, 10, 20, 50, 100, 200].find((size) => last / size <= 6) || 500;
    for (let value = 0; value <= last; value += step) {
      image.append(svg("text", { x: x(value), y: bottom + 17, "text-anchor": "middle" }, `${value}`));
    }
    const middle = (MARGIN.left + right) / 2;
    image.append(
      svg("text", { x: middle, y: HEIGHT - 4, "text-anchor": "middle" }, "epoch"),
      svg("line", { class: "cursor", x1: x(epoch), x2: x(epoch), y1: MARGIN.top, y2: bottom }),
    );

    for (const { rule, run, paper } of lines) {
      const stroke = rule.colour;
      if (paper) {
        const shown = paper.epochs.filter((value) => value <= last);
        const band = `${path(shown, paper.high)} ${path([...shown].reverse(),
          paper.low.slice(0, shown.length).reverse())}`;
        image.append(
          svg("polygon", { points: band, fill: stroke, "fill-opacity": 0.15 }),
          svg("polyline", { class: "paper", points: path(shown, paper.mid), stroke }),
        );
      }
      if (!run || run.accuracy.length === 0) continue;
      const epochs = run.accuracy.map((_, at) => at + 1);
      image.append(svg("polyline", { class: "book", points: path(epochs, run.accuracy), stroke }));
      const every = run.accuracy.length < 12 ? 1 : 10;
      for (const value of epochs.filter((e) => e === 1 || e % every === 0 || e === epoch)) {
        const top = y(run.accuracy[value - 1]);
        image.append(mark(rule.mark, x(value), top, { fill: stroke }));
      }
      if (run.diverged) {
        const [left, top] = [x(epochs.length), y(run.accuracy[epochs.length - 1])];
        const cross = `M${left - 7},${top - 7}l14,14m0,-14l-14,14`;
        image.append(svg("path", { d: cross, stroke, "stroke-width": 3 }));
      }
    }
    return image;
  }

  function entry(kind, rule, text) {
    const line = svg("line", { class: kind, x1: 1, x2: 35, y1: 7, y2: 7, stroke: rule.colour });
    const sample = svg("svg", { width: 36, height: 14, "aria-hidden": "true" }, line);
    if (kind === "book") sample.append(mark(rule.mark, 18, 7, { fill: rule.colour }));
    return html("li", {}, sample, text);
  }

  function legend(lines) {
    return lines.flatMap(({ rule, run, paper }) => {
      const state = run ? run.state : "not yet run";
      const ours = entry("book", rule, `${rule.label}: this book, ${state}`);
      return paper ? [ours, entry("paper", rule, `${rule.label}: the paper`)] : [ours];
    });
  }

  // --- one explorer

  function start(root) {
    const data = JSON.parse(root.querySelector("script").textContent);
    const view = { rule: "both", ...data.first };
    const figure = html("div", { class: "drawing" });
    const key = html("ul", { class: "legend" });
    const said = html("p", { role: "status" });
    const range = html("input", { type: "range", min: 1, step: 1 });
    const chosen = html("span");

    function show() {
      const lines = linesOf(data, view);
      const last = lastEpoch(lines);
      const epoch = Math.min(view.epoch, last);
      range.max = last;
      range.value = epoch;
      chosen.textContent = `epoch ${epoch} of ${last}`;
      const scale = data.scales.find(({ name }) => name === view.scale).title;
      const setting = `learning rate ${written(view.lr)}, weight decay ${written(view.l2)}, ${scale}`;
      const text = `Epoch ${epoch}, ${setting}. ${lines.map((l) => words(l, epoch)).join(" ")}`;
      said.textContent = text;
      const name = `Test accuracy in percent over ${last} epochs, ${setting}.`;
      const width = Math.max(280, figure.clientWidth);
      figure.replaceChildren(drawing(lines, last, epoch, width, name));
      key.replaceChildren(...legend(lines));
    }

    const set = (name, read) => (value) => {
      view[name] = read(value);
      show();
    };
    const same = (values) => values.map((value) => [value, written(value)]);
    const scales = data.scales.map(({ name, title }) => [name, title]);
    const rules = data.rules.map(({ name, label }) => [name, label]);
    range.addEventListener("input", () => set("epoch", Number)(range.value));
    const controls = html(
      "div",
      { class: "controls no-print", role: "group", "aria-label": "What is drawn" },
      choice("scale", scales, view.scale, set("scale", String)),
      choice("learning rate", same(data.rates), view.lr, set("lr", Number)),
      choice("weight decay", same(data.decays), view.l2, set("l2", Number)),
      choice("rule", [["both", "both"], ...rules], view.rule, set("rule", String)),
      html("label", { class: "epoch" }, chosen, range),
    );
    const unit = html("p", { class: "unit" }, "test accuracy (%); dashed: the paper, solid: this book");
    root.querySelector("img").replaceWith(controls, unit, figure, key, said);
    show();
    new ResizeObserver(() => {
      const image = figure.firstElementChild;
      if (image.viewBox.baseVal.width !== Math.max(280, figure.clientWidth)) show();
    }).observe(figure);
  }

  document.addEventListener("DOMContentLoaded", () => {
    document.querySelectorAll(".lbp-explorer").forEach(start);
  });
})();
