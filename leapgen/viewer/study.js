// A study: what was asked, a table of arms, figures, and every problem with its paths by arm.

const DOTS = { pitch: 6, radius: 2.1, most: 32 }; // of small multiples: in px; a longer row is folded

class StudyView {
  constructor(study, title, runs) {
    Object.assign(this, { study, title, runs });
    this.inPage = new Set(runs.map(link));
    this.rows = study.problems.map((problem, i) => ({ problem, place: i, element: this._problem(problem), rates: this._rates(problem) }));
    this.body = h("tbody", {});
    this.element = h("div", { class: "study" }, this._asked(), this._arms(), this._figures(), this._problems(), this._left());
    this._arrange();
  }

  _asked() {
    const { study } = this;
    return h("header", { class: "asked-of" }, h("h1", {}, this.title),
      h("dl", { class: "facts" }, study.facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
      study.warning && h("p", { class: "warning", role: "status" }, study.warning),
      h("details", {}, h("summary", {}, "All settings"), h("div", { class: "columns" },
        Object.entries(study.settings).map(([name, values]) => listed(values, name)))));
  }

  // -- arms -----------------------------------------------------------------------------------------------------------

  _arms() {
    const { arms } = this.study;
    if (!arms.length) return h("p", { class: "muted" }, "No arm has a finished unit.");
    const has = (name) => arms.some((arm) => arm[name]), gains = this._gains();
    const reach = [percent(gains[0], true), "0", percent(gains[1], true)].map((text) => text.replace(/\.\d/, ""));
    const columns = [["pass", ["Pass@1", this._scale(["0", "50", "100"])], (arm) => this._interval(arm.pass, [0, 1])],
      ["spread", "spread between groups", (arm) => arm.spread && percent(arm.spread)],
      ["cons", "Cons@N", (arm) => this._estimate(arm.cons)], ["any", "Pass@N", (arm) => this._estimate(arm.any)],
      ["shortest", "shortest majority", (arm) => this._estimate(arm.shortest)],
      ["tokens", "tokens a path", (arm) => this._tokens(arm)],
      ["gain", [`over ${this.study.baseline}`, this._scale(reach)], (arm) => this._interval(arm.gain, gains, true)],
      ["equal", ["at equal tokens", this._scale(reach)], (arm) => this._interval(arm.equal, gains, true)],
    ].filter(([name]) => has(name));
    return h("section", { "aria-labelledby": "arms" }, h("h2", { id: "arms" }, "Arms"),
      h("div", { class: "scroll", tabindex: 0, role: "region", "aria-labelledby": "arms" },
        h("table", { class: "arms", role: "table" }, h("caption", {}, this.study.caption),
          h("thead", {}, h("tr", { role: "row" }, h("th", { scope: "col", role: "columnheader" }, "arm"),
            columns.map(([name, heading]) => h("th", { scope: "col", role: "columnheader", class: name }, heading)))),
          h("tbody", {}, arms.map((arm) => h("tr", { role: "row" }, h("th", { scope: "row", role: "rowheader" }, arm.name,
            h("span", { class: "changes" }, arm.changes.map(([name, value]) => h("span", {}, `${name} ${plain(value)}`)))),
          columns.map(([name, heading, cell]) => h("td", { role: "cell", class: name, "data-name": [heading].flat()[0] },
            cell(arm) || h("span", { class: "muted" }, "–")))))))),
      this._legend());
  }

  _legend() {
    const used = KINDS.filter((kind) => this.study.arms.some((arm) => arm.tokens && arm.tokens[kind]));
    return h("p", { class: "legend" }, "tokens: ", used.map((kind) => [h("span", { class: `swatch back-${kind}` }), KIND_NAMES[kind], " "]));
  }

  _estimate(one) {
    return one && [h("b", {}, percent(one.mean)), h("small", {}, ` ${percent(one.low)} to ${percent(one.high)}`)];
  }

  /** What a column's bars stand on. */
  _scale([left, middle, right]) {
    const mark = (x, anchor, text) => svg("text", { x, y: 9, "text-anchor": anchor }, text);
    return svg("svg", { class: "scale", viewBox: "0 0 120 12", width: 120, height: 12, "aria-hidden": "true" },
      mark(4, "start", left), mark(60, "middle", middle), mark(116, "end", right));
  }

  /** The span that holds every gain, zero in its middle. */
  _gains() {
    const all = this.study.arms.flatMap((arm) => [arm.gain, arm.equal]).filter(Boolean);
    const most = Math.max(0.05, ...all.flatMap((one) => [Math.abs(one.low), Math.abs(one.high)]));
    return [-most, most];
  }

  _interval(one, [low, high], signed = false) {
    if (!one) return null;
    const x = (value) => 4 + (112 * (value - low)) / (high - low);
    const said = `${percent(one.mean, signed)} [${percent(one.low, signed)}, ${percent(one.high, signed)}]`;
    const ticks = signed ? [0] : [0, 0.25, 0.5, 0.75, 1];
    return [svg("svg", { class: "interval", viewBox: "0 0 120 16", width: 120, height: 16, role: "img", "aria-label": said },
      ticks.map((tick) => svg("line", { x1: x(tick), x2: x(tick), y1: 0, y2: 16, class: "tick" })),
      svg("line", { x1: 4, x2: 116, y1: 8, y2: 8, class: "tick" }),
      svg("rect", { x: x(one.low), width: Math.max(x(one.high) - x(one.low), 1), y: 5, height: 6, class: "between" }),
      svg("line", { x1: x(one.mean), x2: x(one.mean), y1: 2, y2: 14, class: "mean" })),
    h("span", { class: "numbers" }, h("b", {}, percent(one.mean, signed)),
      h("small", {}, ` ${percent(one.low, signed)} to ${percent(one.high, signed)}`))];
  }

  _tokens(arm) {
    if (!arm.tokens) return null;
    const most = Math.max(...this.study.arms.map((one) => sum(Object.values(one.tokens ?? {}))));
    const total = sum(Object.values(arm.tokens));
    const said = KINDS.filter((kind) => arm.tokens[kind]).map((kind) => [kind, `${KIND_NAMES[kind]} ${number(Math.round(arm.tokens[kind]))}`]);
    return [stackedBar(said.map(([kind, words]) => [arm.tokens[kind], `fill-${kind}`, words]), most || 1,
      said.map(([, words]) => words).join(", ")), h("span", { class: "numbers" }, number(Math.round(total)))];
  }

  // -- figures --------------------------------------------------------------------------------------------------------

  _figures() {
    const { figures } = this.study;
    return figures.length > 0 && h("section", { "aria-labelledby": "figures" }, h("h2", { id: "figures" }, "Figures"),
      h("div", { class: "figures" }, figures.map((figure) => h("figure", {},
        figure.picture && h("div", { class: "sheet" }, h("img", { src: figure.picture, alt: `${figure.title}: drawn from the table below`,
          loading: "lazy" })),
        h("figcaption", {}, h("strong", {}, figure.title), figure.source && h("span", { class: "muted" }, ` ${figure.source}`),
          (figure.notes ?? []).map((words) => h("p", {}, words))),
        figure.rows && h("details", { open: !figure.picture }, h("summary", {}, "Numbers"), this._numbers(figure))))));
  }

  _numbers({ columns, rows, paper }) {
    const known = (column) => rows.some((row) => row.values[column.name]?.paper !== undefined);
    const value = (one) => (one?.mean === undefined ? "–" : `${+one.mean.toFixed(2)} [${+one.low.toFixed(2)}, ${+one.high.toFixed(2)}]`);
    return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Numbers" }, h("table", { class: "numbers-of" },
      paper && h("caption", {}, `paper: ${paper}`),
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, ""), columns.map((column) => [
        h("th", { scope: "col" }, `${column.name} (${column.unit})`), known(column) && h("th", { scope: "col" }, "paper")]))),
      h("tbody", {}, rows.map((row) => h("tr", {}, h("th", { scope: "row" }, row.label), columns.map((column) => [
        h("td", {}, value(row.values[column.name])), known(column) && h("td", {}, row.values[column.name]?.paper ?? "–")]))))));
  }

  // -- problems -------------------------------------------------------------------------------------------------------

  _problems() {
    const { study } = this;
    const names = study.arms.map((arm) => arm.name);
    this.order = h("select", { id: "order", onchange: () => this._arrange() }, h("option", { value: "given" }, "as given"),
      names.map((name, i) => h("option", { value: `hard ${i}` }, `hardest for ${name}`)),
      names.length > 1 && range(names.length - 1).map((i) =>
        h("option", { value: `gain ${i + 1}` }, `most changed from ${names[0]} to ${names[i + 1]}`)));
    this.filter = h("input", { type: "search", placeholder: "Filter", "aria-label": "Filter problems", oninput: () => this._arrange() });
    this.shown = h("output", { class: "muted" });
    return h("section", { "aria-labelledby": "problems" }, h("div", { class: "tools" }, h("h2", { id: "problems" }, "Problems"),
      h("label", {}, "order ", this.order), this.filter, this.shown),
    h("p", { class: "muted hint" }, "A dot is a path: ", this._key("1", "right"), ", ", this._key("0", "wrong"), ", ",
      this._key("-", "no answer"), "; a row of them is a group, ✓ or ✗ its vote. An underlined count opens the group’s paths."),
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-labelledby": "problems" },
      h("table", { class: "problems", role: "table" }, h("thead", {}, h("tr", { role: "row" }, h("th", { scope: "col", role: "columnheader" }, "problem"),
        names.map((name) => h("th", { scope: "col", role: "columnheader" }, name)))), this.body)));
  }

  _key(sign, words) {
    return [svg("svg", { class: "dots", width: 8, height: 8, "aria-hidden": "true" }, this._dot(sign, 4, 4)), ` ${words}`];
  }

  _problem(problem) {
    return h("tr", { role: "row", class: "problem" },
      h("th", { scope: "row", role: "rowheader" }, h("span", { class: "id" }, problem.id), " ",
        folded(problem.question, 160, "span"), h("span", { class: "muted" }, ` → ${short(problem.answer, 60)}`)),
      this.study.arms.map((arm, i) => h("td", { role: "cell", "data-name": arm.name },
        problem.units.filter((unit) => unit.arm === i).map((unit) => this._unit(problem, arm, unit)))));
  }

  /** A group's paths as dots, those that are right first; a link where its run is in the page. */
  _unit(problem, arm, unit) {
    const signs = [...unit.paths].sort((a, b) => "10-".indexOf(a) - "10-".indexOf(b));
    const right = signs.filter((sign) => sign === "1").length;
    const said = `${arm.name}, group ${unit.group}: ${right} of ${signs.length} right; majority ${unit.majority ?? "none"}, `
      + (unit.right ? "right" : "wrong");
    const across = Math.min(signs.length, DOTS.most), rows = Math.ceil(signs.length / DOTS.most);
    const at = (i) => DOTS.pitch * (i + 0.5);
    const picture = svg("svg", { class: "dots", width: across * DOTS.pitch, height: rows * DOTS.pitch, role: "img", "aria-label": said },
      svg("title", {}, said), signs.map((sign, i) => this._dot(sign, at(i % DOTS.most), at(Math.floor(i / DOTS.most)))));
    const content = [picture, h("span", { class: `mark ${unit.right ? "right" : "wrong"}`, "aria-hidden": "true" }, unit.right ? "✓" : "✗"),
      h("span", { class: "count", "aria-hidden": "true" }, `${right}`)];
    const parts = [problem.id, arm.name, unit.group];
    return this.inPage.has(link(parts)) ? h("a", { class: "unit", href: link(parts) }, content) : h("span", { class: "unit" }, content);
  }

  _dot(sign, x, y) {
    if (sign === "-") return svg("line", { x1: x - 1.8, x2: x + 1.8, y1: y, y2: y, class: "silent" });
    return svg("circle", { cx: x, cy: y, r: DOTS.radius, class: sign === "1" ? "right" : "wrong" });
  }

  /** The share of right paths, by arm. */
  _rates(problem) {
    return this.study.arms.map((_, i) => {
      const signs = problem.units.filter((unit) => unit.arm === i).map((unit) => unit.paths).join("");
      return signs ? [...signs].filter((sign) => sign === "1").length / signs.length : NaN;
    });
  }

  _arrange() {
    const [how, arm] = this.order.value.split(" ");
    const wanted = this.filter.value.trim().toLowerCase();
    const key = { given: (row) => row.place, hard: (row) => row.rates[arm],
      gain: (row) => -Math.abs(row.rates[arm] - row.rates[0]) }[how];
    const rows = this.rows.filter(({ problem }) => `${problem.id} ${problem.question} ${problem.answer}`.toLowerCase().includes(wanted));
    const last = (value) => (Number.isNaN(value) ? Infinity : value);
    rows.sort((a, b) => last(key(a)) - last(key(b)) || a.place - b.place);
    this.body.replaceChildren(...rows.map((row) => row.element));
    this.shown.textContent = wanted ? `${rows.length} of ${this.rows.length}` : "";
  }

  _left() {
    return h("footer", { class: "muted" }, this.study.left_out && h("p", { id: "left-out" }, this.study.left_out),
      h("p", {}, this.study.made_with));
  }
}
