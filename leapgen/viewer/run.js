// The view of one run: its vote, the grid, what a path said and read at a block, and a path's whole text.

const KEYS = [["← → ↑ ↓", "go through the grid"], ["[ ]", "path before, path after"], ["t", "to the path's text"],
  ["g", "back to the grid"], ["r", "all routes, or those of one cell"], ["/", "search"], ["n N", "next place, place before"],
  ["Esc", "leave the search, or the run"]];

class RunView {
  /** `onMove(path, block)`: what is shown has changed, and the address can follow; block counts from 1, null is the end. */
  constructor(run, onMove) {
    this.run = run;
    this.onMove = onMove;
    this.answers = new Answers(run);
    this.grid = new Grid(run, this.answers, (path, row) => this.select(path, row));
    this.text = new PathText(run, (path, block) => { this.select(path, block); this.grid.focus(); });
    this.detail = h("section", { class: "detail", "aria-live": "polite" });
    this.pathName = h("h2", { id: "path-name" });
    this.found = h("output", { class: "muted" });
    this.input = h("input", {
      type: "search", id: "search", placeholder: "Search all paths", "aria-label": "Search all paths",
      oninput: () => this._search(),
      onkeydown: (event) => { if (event.key === "Enter") this.find(event.shiftKey ? -1 : 1); },
    });
    this.element = h("div", { class: "run" }, this._question(), this.answers.vote(),
      h("section", { "aria-label": "Grid" }, this._gridTools(), this.grid.element), this.detail,
      h("section", { class: "reading", "aria-labelledby": "path-name" },
        h("div", { class: "tools" }, this.pathName,
          h("button", { type: "button", class: "quiet", "aria-label": "Path before", onclick: () => this.step(-1) }, "‹"),
          h("button", { type: "button", class: "quiet", "aria-label": "Path after", onclick: () => this.step(1) }, "›"),
          this.input, this.found), this.text.chips, this.text.body), this._folded());
  }

  /** Shows a path and a row of the grid. Rows that are not there are the end, paths that are not there the first. */
  select(path, row) {
    const { paths, blocks } = this.run;
    if (!(path >= 0 && path < paths.length)) path = 0;
    if (!(row >= 0 && row < blocks.length)) row = blocks.length;
    const same = this.text.path === path;
    this.grid.select(path, row);
    this.text.show(path);
    this.pathName.textContent = `Path ${path}`;
    if (!same && this.text.query) this._say();
    this.detail.replaceChildren(...this._details(path, row));
    this.onMove(path, row === blocks.length ? null : row + 1);
  }

  step(by) {
    const path = this.grid.path + by;
    if (path >= 0 && path < this.run.paths.length) this.select(path, this.grid.row);
  }

  /** To the next place found, if need be in another path. */
  find(by) {
    if (!this.counts || this.text.step(by)) return;
    const count = this.run.paths.length;
    for (const i of range(count)) {
      const path = (this.grid.path + by * (i + 1) + count * (i + 2)) % count;
      if (!this.counts[path]) continue;
      this.select(path, this.grid.row);
      if (path === this.text.path && i === count - 1) this.text.at = -1; // around, in the same path
      if (by < 0) this.text.toLast();
      this.text.step(by);
      return;
    }
  }

  /** Whether a key meant something here. */
  key(event) {
    const typing = document.activeElement === this.input;
    if (event.key === "Escape" && (typing || this.input.value)) {
      this.input.value = "";
      this._search();
      this.grid.focus();
      return true;
    }
    if (typing) return false;
    const actions = { "/": () => this.input.focus(), n: () => this.find(1), N: () => this.find(-1), "[": () => this.step(-1),
      "]": () => this.step(1), t: () => this.toText(), g: () => this.grid.focus(), r: () => this.every.click() };
    actions[event.key]?.();
    return event.key in actions;
  }

  toText() {
    this.text.reveal(this.grid.row);
  }

  _question() {
    const { run } = this;
    const facts = [counted(run.paths.length, "path"), counted(run.blocks.length, "block"), `seed ${run.seed}`, run.model,
      !run.finished && "not finished"];
    return h("header", { class: "question" }, h("p", { class: "label" }, facts.filter(Boolean).join(", ")),
      folded(run.question, 400, "h1"));
  }

  _gridTools() {
    this.every = h("input", { type: "checkbox", id: "every", onchange: () => this.grid.showEveryRoute(this.every.checked) });
    const held = this.run.blocks.length;
    return h("div", { class: "tools" }, h("h2", {}, "Who told whom"),
      held > 0 && h("label", {}, this.every, " all routes"),
      h("p", { class: "muted hint" }, held
        ? "A cell is what a path claimed at a block. Lines from above are what it had read, lines below who read it."
        : "The paths were on their own: no block was held."));
  }

  _details(path, row) {
    const { blocks, paths } = this.run;
    const claim = paths[path].claims[row];
    const end = row === blocks.length;
    const said = end ? null : blocks[row].said[path];
    const into = this.grid.into(path, row), out = this.grid.outOf(path, row);
    const peer = ([sender, block, , similarity]) => {
      const words = blocks[block].said[sender];
      return h("li", {}, this._cellLink(sender, block),
        h("span", { class: "muted" }, similarity === null ? "" : ` similarity ${similarity.toFixed(2)}`),
        h("p", { class: "words" }, words ? words.text.trim() || "(nothing)" : "(not kept)"));
    };
    return [
      h("h2", {}, `Path ${path}, ${end ? "at the end" : `block ${row + 1}`}`,
        h("span", { class: "claim" }, this.answers.badge(claim), ` ${short(this.answers.text(claim), 120)}`,
          this.answers.right(claim) && h("span", { class: "right" }, " ✓"))),
      h("button", { type: "button", class: "quiet", onclick: () => this.toText() }, "read it in the text ↓"),
      h("div", { class: "cell-words" }, h("div", {}, end ? this._ending(path) : this._said(said, row),
        !end && [h("h3", {}, "Who read it"), out.length
          ? h("p", { class: "readers" }, out.map(([, block, reader]) => [this._cellLink(reader, block + 1), " "]))
          : h("p", { class: "muted" }, "nobody")]),
      row > 0 && h("div", {}, h("h3", {}, `What it had read, at block ${row}`),
        into.length ? h("ol", { class: "peers" }, into.map(peer)) : h("p", { class: "muted" }, "nothing"))),
    ];
  }

  _said(said, row) {
    const title = h("h3", {}, "Its summary");
    if (!said) return [title, h("p", { class: "muted" }, "It wrote none: it had ended, or its context was full.")];
    return [title, h("p", { class: "words own-words" }, said.text.trim() || "(nothing)"),
      h("p", { class: "muted" }, counted(said.tokens, "token"), said.closed ? "" : ", cut short",
        said.block === row ? "" : `, written at block ${said.block + 1}`)];
  }

  _ending(path) {
    const { ended, tokens } = this.run.paths[path];
    return [h("h3", {}, "How it ended"), h("p", {}, this._ended(ended)), listed(Object.fromEntries(
      KINDS.filter((kind) => tokens[kind]).map((kind) => [KIND_NAMES[kind], tokens[kind]])), "Its tokens")];
  }

  _cellLink(path, row) {
    const claim = this.run.paths[path].claims[row];
    const go = () => { this.select(path, row); this.grid.focus(); };
    return h("button", { type: "button", class: "peer", onclick: go }, this.answers.badge(claim), ` path ${path}`);
  }

  _ended(reason) {
    return { stop: "by itself", stop_string: "at a stop string", forced: "when it was asked for its answer",
      length: "out of budget", interrupted: "it was interrupted", null: "it has not",
      retired: "after the last block: it was there for the others and does not vote" }[reason] ?? reason;
  }

  _folded() {
    const { settings, ledger } = this.run;
    const { seconds, ...counts } = ledger;
    const spent = Object.entries(seconds ?? {}).map(([phase, value]) => [phase, `${value.toFixed(1)} s`]);
    const given = Object.entries(settings).filter(([, values]) => Object.keys(values).length);
    const fold = (id, name, ...content) => h("details", { id }, h("summary", {}, name), content);
    return h("section", { class: "folded" },
      fold("ledger", "Ledger", h("div", { class: "columns" }, listed(counts, "tokens, unless said otherwise"),
        spent.length > 0 && listed(Object.fromEntries(spent), "time by phase"))),
      fold("settings", "Settings", h("div", { class: "columns" }, given.map(([name, values]) => listed(values, name)))),
      fold("keys", "Keys", h("dl", { class: "keys" }, KEYS.map(([keys, what]) => [
        h("dt", {}, keys.split(" ").map((key) => [h("kbd", {}, key), " "])), h("dd", {}, what)]))));
  }

  _search() {
    this.counts = this.text.search(this.input.value);
    this.grid.mark(this.counts);
    this._say();
    this.text.step(1);
  }

  _say() {
    if (!this.counts) { this.found.textContent = ""; return; }
    this.found.textContent = `${number(sum(this.counts))} in ${counted(this.counts.filter(Boolean).length, "path")}, `
      + `${number(this.counts[this.text.path])} here`;
  }
}
