// A study: what was asked, a table of arms, figures, and every problem with its paths by arm.

const SPENT = [...KINDS, "discarded"];
const is = (value) => value !== null && value !== undefined;
const SLICE = 25; // problems that are put into the table at a time
const DOTS = { pitch: 6, radius: 2.1, most: 32 }; // of small multiples: in px; a longer row is folded

class StudyView {
  constructor(study, title, runs) {
    Object.assign(this, { study, title, runs });
    this.inPage = new Set(runs.map(link));
    this.rows = study.problems.map((problem, place) => ({ problem, place, rates: this._rates(problem) }));
    this.body = h("tbody", {});
    this.element = h("div", { class: "study" },
      this._asked(), this._arms(), this._figures(), this._problems(), this._left());
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
    const { arms, baseline } = this.study;
    const gains = this._gains();
    const reach = [gains[0], 0, gains[1]].map((gain) => percent(gain, true).replace(/\.\d/, ""));
    const columns = [
      ["pass_at_1", ["Pass@1", this._scale(["0", "50", "100"])], (one) => this._interval(one, [0, 1])],
      ["spread_between_groups", "spread between groups", (one) => percent(one)],
      ["cons_at_n", "Cons@N", (one) => this._estimate(one)],
      ["pass_at_n", "Pass@N", (one) => this._estimate(one)],
      ["shortest_majority", "shortest majority", (one) => this._estimate(one)],
      ["tokens", "tokens a path", (one) => this._tokens(one)],
      ["gain", [`over ${baseline}`, this._scale(reach)], (one) => this._interval(one.pass_at_1, gains, true)],
      ["gain_at_equal_tokens", ["at equal tokens", this._scale(reach)], (one) => this._interval(one.pass_at_1, gains, true)],
    ].filter(([name]) => arms.some((arm) => is(arm[name])));
    const row = (arm) => h("tr", { role: "row" }, h("th", { scope: "row", role: "rowheader" }, arm.name,
      h("span", { class: "changes" }, arm.changes.map(([name, value]) => h("span", {}, `${name} ${plain(value)}`)))),
    columns.map(([name, heading, shown]) => h("td", { role: "cell", class: name, "data-name": [heading].flat()[0] },
      is(arm[name]) ? shown(arm[name]) : h("span", { class: "muted" }, "–"))));
    return h("section", { "aria-labelledby": "arms" }, h("h2", { id: "arms" }, "Arms"),
      h("div", { class: "scroll", tabindex: 0, role: "region", "aria-labelledby": "arms" },
        h("table", { class: "arms", role: "table" }, h("caption", {}, this.study.caption),
          h("thead", {}, h("tr", { role: "row" }, h("th", { scope: "col", role: "columnheader" }, "arm"),
            columns.map(([name, heading]) => h("th", { scope: "col", role: "columnheader", class: name }, heading)))),
          h("tbody", {}, arms.map(row)))),
      this._legend());
  }

  _legend() {
    const used = SPENT.filter((kind) => this.study.arms.some((arm) => arm.tokens?.[kind]));
    return h("p", { class: "legend" }, "tokens: ",
      used.map((kind) => h("span", {}, h("span", { class: `swatch back-${kind}` }), KIND_NAMES[kind], " ")));
  }

  _estimate(one) {
    return [h("b", {}, percent(one.mean)), h("small", {}, ` ${percent(one.low)} to ${percent(one.high)}`)];
  }

  /** What a column's bars stand on. */
  _scale([left, middle, right]) {
    const mark = (x, anchor, text) => svg("text", { x, y: 9, "text-anchor": anchor }, text);
    return svg("svg", { class: "scale", viewBox: "0 0 120 12", width: 120, height: 12, "aria-hidden": "true" },
      mark(4, "start", left), mark(60, "middle", middle), mark(116, "end", right));
  }

  /** The span that holds every gain, zero in its middle. */
  _gains() {
    const all = this.study.arms.flatMap((arm) => [arm.gain?.pass_at_1, arm.gain_at_equal_tokens?.pass_at_1]).filter(is);
    const most = Math.max(0.05, ...all.flatMap((one) => [Math.abs(one.low), Math.abs(one.high)]));
    return [-most, most];
  }

  _interval(one, [low, high], signed = false) {
    if (!one) return "–";
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

  _tokens(tokens) {
    const cost = (one) => sum(SPENT.map((kind) => one?.[kind] ?? 0));
    const most = Math.max(...this.study.arms.map((arm) => cost(arm.tokens)));
    const said = SPENT.filter((kind) => tokens[kind])
      .map((kind) => [kind, `${KIND_NAMES[kind]} ${number(Math.round(tokens[kind]))}`]);
    return [stackedBar(said.map(([kind, words]) => [tokens[kind], `fill-${kind}`, words]), most || 1,
      said.map(([, words]) => words).join(", ")), h("span", { class: "numbers" }, number(Math.round(cost(tokens))))];
  }

  // -- figures --------------------------------------------------------------------------------------------------------

  _figures() {
    const { figures } = this.study;
    const drawn = (figure) => h("figure", {},
      figure.picture && h("img", { src: figure.picture, alt: `${figure.title}, as a picture` }),
      h("figcaption", {}, h("strong", {}, figure.title),
        figure.source && h("span", { class: "muted" }, ` ${figure.source}`),
        (figure.notes ?? []).map((words) => h("p", {}, words))),
      figure.rows && h("details", { open: !figure.picture }, h("summary", {}, "Numbers"), this._numbers(figure)));
    return figures.length > 0 && h("section", { "aria-labelledby": "figures" }, h("h2", { id: "figures" }, "Figures"),
      h("div", { class: "figures" }, figures.map(drawn)));
  }

  /** A figure's table, with the paper's numbers where there are some. */
  _numbers({ columns, rows, paper }) {
    const inPaper = (column) => rows.some((row) => is(row.values[column.name]?.paper));
    const shown = (value) => String(+value.toFixed(2));
    const value = (one) => (is(one?.mean) ? `${shown(one.mean)} [${shown(one.low)}, ${shown(one.high)}]` : "–");
    const heads = columns.flatMap((one) => [`${one.name} (${one.unit})`, inPaper(one) && "paper"]).filter(Boolean);
    const cells = (row) => columns.flatMap((column) => [value(row.values[column.name]),
      inPaper(column) && String(row.values[column.name]?.paper ?? "–")]).filter(Boolean);
    return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Numbers" },
      h("table", { class: "numbers-of" }, paper && h("caption", {}, `paper: ${paper}`),
        h("thead", {}, h("tr", {}, h("td"), heads.map((head) => h("th", { scope: "col" }, head)))),
        h("tbody", {}, rows.map((row) => h("tr", {}, h("th", { scope: "row" }, row.label),
          cells(row).map((cell) => h("td", {}, cell)))))));
  }

  // -- problems -------------------------------------------------------------------------------------------------------

  _problems() {
    const names = this.study.arms.map((arm) => arm.name);
    const option = (value, words) => h("option", { value }, words);
    this.order = h("select", { id: "order", onchange: () => this._arrange() }, option("given", "as given"),
      names.map((name, i) => option(`hard ${i}`, `hardest for ${name}`)),
      names.slice(1).map((name, i) => option(`gain ${i + 1}`, `most changed from ${names[0]} to ${name}`)));
    this.filter = h("input", { type: "search", placeholder: "Filter", "aria-label": "Filter problems",
      oninput: () => this._arrange() });
    this.shown = h("output", { class: "muted" });
    const head = (name) => h("th", { scope: "col", role: "columnheader" }, name);
    return h("section", { "aria-labelledby": "problems" },
      h("div", { class: "tools" }, h("h2", { id: "problems" }, "Problems"), h("label", {}, "order ", this.order),
        this.filter, this.shown),
      h("p", { class: "muted hint" }, "A dot is a path: ", this._key("1", "right"), ", ", this._key("0", "wrong"), ", ",
        this._key("-", "no answer"), "; a row is a group, ✓ or ✗ its vote. An underlined count opens the group’s paths."),
      h("div", { class: "scroll", tabindex: 0, role: "region", "aria-labelledby": "problems" },
        h("table", { class: "problems", role: "table" },
          h("thead", {}, h("tr", { role: "row" }, head("problem"), names.map(head))), this.body)));
  }

  _key(sign, words) {
    return [svg("svg", { class: "dots", width: 8, height: 8, "aria-hidden": "true" }, this._dots([[sign, 4, 4]])), ` ${words}`];
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
    const { pitch, most } = DOTS;
    const width = pitch * Math.min(signs.length, most), height = pitch * Math.ceil(signs.length / most);
    const dots = this._dots(signs.map((sign, i) => [sign, pitch * (i % most + 0.5), pitch * (Math.floor(i / most) + 0.5)]));
    const content = [
      svg("svg", { class: "dots", width, height, role: "img", "aria-label": said }, svg("title", {}, said), dots),
      h("span", { class: `mark ${unit.right ? "right" : "wrong"}`, "aria-hidden": "true" }, unit.right ? "✓" : "✗"),
      h("span", { class: "count", "aria-hidden": "true" }, right)];
    const href = link([problem.id, arm.name, unit.group]);
    return this.inPage.has(href) ? h("a", { class: "unit", href }, content) : h("span", { class: "unit" }, content);
  }

  /** An element for each kind of dot, however many there are: a study has hundreds of thousands. Of each: sign, x, y. */
  _dots(all) {
    const { radius: r } = DOTS;
    const circle = (x, y) => `M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0`;
    const kinds = { 1: ["right", circle], 0: ["wrong", circle], "-": ["silent", (x, y) => `M${x - 1.8} ${y}h3.6`] };
    return Object.entries(kinds).map(([kind, [name, drawn]]) => {
      const d = all.filter(([sign]) => sign === kind).map(([, x, y]) => drawn(x, y)).join("");
      return d && svg("path", { d, class: name });
    });
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
    const rows = this.rows.filter(({ problem: { id, question, answer } }) =>
      `${id} ${question} ${answer}`.toLowerCase().includes(wanted));
    const last = (value) => (Number.isNaN(value) ? Infinity : value);
    rows.sort((a, b) => last(key(a)) - last(key(b)) || a.place - b.place);
    this._fill(rows);
    this.shown.textContent = wanted ? `${rows.length} of ${this.rows.length}` : "";
  }

  /** Puts rows into the table: some at once, and more whenever the browser has nothing else to do. */
  _fill(rows) {
    const filling = this.filling = {};
    const more = (from) => {
      if (filling !== this.filling) return; // arranged anew meanwhile
      for (const row of rows.slice(from, from + SLICE)) this.body.append(row.element ??= this._problem(row.problem));
      if (from + SLICE < rows.length) setTimeout(more, 0, from + SLICE);
    };
    this.body.replaceChildren();
    more(0);
  }

  _left() {
    return h("footer", { class: "muted" }, this.study.left_out && h("p", { id: "left-out" }, this.study.left_out),
      h("p", {}, this.study.made_with));
  }
}
