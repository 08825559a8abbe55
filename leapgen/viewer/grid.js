// The run as a grid: a column a path, a row a block, a cell what the path claimed there; lines show who told whom.

const WIDE = 8; // up to so many paths, a cell has its answer's words

class Grid {
  /** `onSelect(path, row)`: a cell was chosen. The last row is the end of the run. */
  constructor(run, answers, onSelect) {
    Object.assign(this, { run, answers, onSelect, path: 0, row: run.blocks.length, everyRoute: false, previewed: null });
    this.lines = svg("svg", { class: "routes", "aria-hidden": "true" });
    this.heads = run.paths.map((_, i) => h("div", { role: "columnheader", class: "head", id: `column-${i}` }, i));
    this.cells = range(run.blocks.length + 1).map((row) => run.paths.map((_, path) => this._cell(path, row)));
    const rows = this.cells.map((cells, row) => h("div", { role: "row" },
      h("div", { role: "rowheader", class: "row" }, this._rowName(row)), cells,
      h("div", { role: "gridcell", class: "share" }, answers.bar(row === run.blocks.length ? -1 : row, this._rowName(row)))));
    this.board = h("div", {
      role: "grid", class: run.paths.length > WIDE ? "grid" : "grid wide", "aria-label": "Paths by block",
      style: { "--paths": run.paths.length }, onkeydown: (event) => this._key(event),
    }, h("div", { role: "row" }, h("div", { role: "columnheader", class: "row" }, "path"), this.heads,
      h("div", { role: "columnheader", class: "head" }, "claims")), rows, this.lines);
    this.element = h("div", { class: "scroll", tabindex: -1 }, this.board);
    new ResizeObserver(() => this._draw()).observe(this.board);
  }

  select(path, row) {
    this.cells[this.row][this.path].setAttribute("tabindex", -1);
    this.cells[this.row][this.path].removeAttribute("aria-selected");
    this.heads[this.path].classList.remove("selected");
    Object.assign(this, { path, row, previewed: null });
    this.cells[row][path].setAttribute("tabindex", 0);
    this.cells[row][path].setAttribute("aria-selected", true);
    this.heads[path].classList.add("selected");
    this._draw();
  }

  focus() {
    this.cells[this.row][this.path].focus({ preventScroll: false });
  }

  /** A number under each path's, as of what was found there; null takes them away. */
  mark(counts) {
    this.heads.forEach((head, i) => head.replaceChildren(String(i), counts && counts[i]
      ? h("span", { class: "found" }, counts[i] > 999 ? "1k" : counts[i]) : ""));
  }

  showEveryRoute(on) {
    this.everyRoute = on;
    this._draw();
  }

  /** Routes as [sender, row of its words, reader, similarity]: into a cell from the row above, or out of it. */
  into(path, row) {
    const routes = row ? this.run.blocks[row - 1].routes[path] ?? [] : [];
    return routes.map(([peer, similarity]) => [peer, row - 1, path, similarity]);
  }

  outOf(path, row) {
    if (row === this.run.blocks.length) return [];
    return this.run.paths.flatMap((_, reader) => this.into(reader, row + 1)).filter(([sender]) => sender === path);
  }

  _rowName(row) {
    return row === this.run.blocks.length ? "end" : `block ${row + 1}`;
  }

  _cell(path, row) {
    const claim = this.run.paths[path].claims[row];
    const silent = row < this.run.blocks.length ? !this.run.blocks[row].said[path] : !this.run.paths[path].votes;
    const before = row ? this.run.paths[path].claims[row - 1] : claim;
    const told = this.into(path, row).map(([peer]) => peer);
    const label = `Path ${path}, ${this._rowName(row)}: ${this.answers.named(claim)}`
      + (silent ? `, no ${row < this.run.blocks.length ? "summary" : "vote"}` : "") + (told.length ? `; had read ${told.join(", ")}` : "");
    return h("div", {
      role: "gridcell", tabindex: -1, "aria-label": label, title: label, "data-path": path, "data-row": row,
      class: ["cell", colour(claim), silent ? "quiet" : "", claim !== before ? "changed" : "",
        this.answers.right(claim) ? "correct" : ""].join(" "),
      onclick: () => this.onSelect(path, row),
      onpointerenter: () => this._preview(path, row), onpointerleave: () => this._preview(),
      onfocus: () => { if (path !== this.path || row !== this.row) this.onSelect(path, row); },
    }, h("b", {}, claim === null ? "–" : letter(claim)),
    this.run.paths.length <= WIDE && h("span", {}, claim === null ? "" : short(this.answers.text(claim), 40)));
  }

  _key(event) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1],
      Home: [-this.path, 0], End: [this.run.paths.length - 1 - this.path, 0] };
    if (!steps[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const [dx, dy] = steps[event.key];
    const path = Math.min(Math.max(this.path + dx, 0), this.run.paths.length - 1);
    const row = Math.min(Math.max(this.row + dy, 0), this.run.blocks.length);
    this.onSelect(path, row);
    this.focus();
  }

  _preview(path = null, row = null) {
    this.previewed = path === null || (path === this.path && row === this.row) ? null : [path, row];
    this._draw();
  }

  _draw() {
    if (!this.board.offsetWidth) return; // not on the screen yet
    const { path, row, previewed } = this;
    const routes = new Map(); // each is drawn once, in the strongest of its classes
    const add = (list, kind) => list.forEach((route) => routes.set(route.slice(0, 3).join("/"), [route, kind]));
    if (this.everyRoute) this.cells.forEach((cells, j) => cells.forEach((_, i) => add(this.into(i, j), "any")));
    if (previewed) { add(this.outOf(...previewed), "preview out"); add(this.into(...previewed), "preview"); }
    add(this.outOf(path, row), "out");
    add(this.into(path, row), "in");
    this.lines.setAttribute("width", this.board.scrollWidth);
    this.lines.setAttribute("height", this.board.scrollHeight);
    this.lines.replaceChildren(...[...routes.values()].map(([route, kind]) => this._line(route, kind)));
  }

  /** From under the sender's cell to the top of the reader's; a wide invisible line takes the clicks. */
  _line([sender, row, reader, similarity], kind) {
    const from = this.cells[row][sender], to = this.cells[row + 1][reader];
    const x1 = from.offsetLeft + from.offsetWidth / 2, y1 = from.offsetTop + from.offsetHeight;
    const x2 = to.offsetLeft + to.offsetWidth / 2, y2 = to.offsetTop, bend = (y2 - y1) / 2;
    const d = `M${x1} ${y1}C${x1} ${y1 + bend} ${x2} ${y2 - bend} ${x2} ${y2}`;
    const title = `path ${sender} told path ${reader} at block ${row + 1}`
      + (similarity === null ? "" : `, similarity ${similarity.toFixed(2)}`);
    return svg("g", { class: `route ${kind}`, "data-route": `${sender}/${row}/${reader}`,
      onclick: () => this.onSelect(kind.endsWith("out") ? reader : sender, kind.endsWith("out") ? row + 1 : row) },
    svg("title", {}, title), svg("path", { d, class: "hit" }), svg("path", { d, class: "line" }),
    svg("circle", { cx: x2, cy: y2 - 2, r: 2.5 }));
  }
}
