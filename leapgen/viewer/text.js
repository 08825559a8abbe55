// One path's words, each by its kind; what peers said is told apart and attributed.

const MOST_MARKS = 2000; // in one path

class PathText {
  /** `onPeer(path, block)`: the sender of quoted words was chosen. */
  constructor(run, onPeer) {
    Object.assign(this, { run, onPeer, path: null, hidden: new Set(), query: null, marks: [], at: -1 });
    this.kinds = KINDS.filter((kind) => run.paths.some((path) => path.tokens[kind]));
    this.chips = h("div", { class: "chips", role: "group", "aria-label": "Kinds of words shown" },
      this.kinds.map((kind) => h("button", { type: "button", class: `chip ${kind}`, "aria-pressed": true, "data-kind": kind,
        onclick: () => this.toggle(kind) })));
    this.body = h("div", { class: "text" });
  }

  show(path) {
    if (path === this.path) return;
    this.path = path;
    for (const chip of this.chips.children) {
      const kind = chip.dataset.kind;
      const tokens = this.run.paths[path].tokens[kind] ?? 0;
      chip.replaceChildren(KIND_NAMES[kind], h("span", { class: "muted" }, ` ${number(tokens)}`));
    }
    this._render();
  }

  toggle(kind) {
    if (!this.hidden.delete(kind)) this.hidden.add(kind);
    for (const chip of this.chips.children) chip.setAttribute("aria-pressed", !this.hidden.has(chip.dataset.kind));
    this._render();
  }

  /** Looks for words, whatever their case; returns how often each path says them. */
  search(words) {
    const wanted = words.trim();
    this.query = wanted.length < 2 ? null : new RegExp(wanted.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"), "gi");
    this._render();
    return this.query && this.run.paths.map((path) => sum(path.segments.map((segment) =>
      this.hidden.has(segment.kind) ? 0 : (segment.text.match(this.query) ?? []).length)));
  }

  /** Goes to the next place found, or the one before; false at the path's end. */
  step(by) {
    const next = this.at + by;
    if (next < 0 || next >= this.marks.length) return false;
    this.marks[this.at]?.classList.remove("current");
    this.at = next;
    this.marks[next].classList.add("current");
    this.marks[next].scrollIntoView({ block: "center" });
    return true;
  }

  toLast() {
    this.at = this.marks.length;
  }

  /** Scrolls to where the path's summary of a block begins; without one, to the end. */
  reveal(block) {
    const target = this.body.querySelector(`[data-block="${block}"]`) ?? this.body.lastElementChild;
    target?.scrollIntoView({ block: "start" });
  }

  _render() {
    Object.assign(this, { marks: [], at: -1 });
    const parts = [];
    let opened = null; // trigger, summary and its closing tag are one paragraph
    for (const segment of this.run.paths[this.path].segments) {
      if (this.hidden.has(segment.kind)) continue;
      const inBlock = ["trigger", "summary", "closing"].includes(segment.kind);
      const words = this._words(segment, inBlock && opened);
      if (inBlock && opened) {
        opened.append(h("span", { class: segment.kind }, words));
        continue;
      }
      const name = segment.block === undefined ? KIND_NAMES[segment.kind]
        : `block ${segment.block + 1} · ${inBlock ? "summary" : KIND_NAMES[segment.kind]}`;
      const part = h("div", { class: `part ${inBlock ? "summary" : segment.kind}`,
        "data-block": inBlock ? segment.block : null }, h("p", { class: "name" }, name),
      inBlock ? h("span", { class: segment.kind }, words) : words);
      opened = inBlock ? part : null;
      parts.push(part);
    }
    if (!parts.length) parts.push(h("p", { class: "muted" }, "Nothing of this kind."));
    this.body.replaceChildren(...parts);
  }

  /** A segment's text; what begins a paragraph has no empty lines before it. */
  _words(segment, goesOn) {
    const sources = segment.sources ?? [], { text } = segment;
    const end = segment.kind === "own" || segment.kind === "comment" ? text.trimEnd().length : text.length;
    const placed = sources.filter((source) => source.place !== null);
    const words = [];
    if (placed.length < sources.length) words.push(...sources.map((source) => this._sender(source)));
    let at = goesOn ? 0 : text.length - text.replace(/^\s+/, "").length;
    for (const source of placed) {
      const [from, to] = source.place;
      words.push(...this._found(text.slice(at, from)), this._sender(source), h("q", {}, this._found(text.slice(from, to))));
      at = to;
    }
    words.push(...this._found(text.slice(at, end)));
    return words;
  }

  _sender({ sender, block }) {
    const known = sender >= 0 && sender < this.run.paths.length && block < this.run.blocks.length;
    if (!known) return h("span", { class: "sender" }, "of another run");
    return h("button", { type: "button", class: "sender", onclick: () => this.onPeer(sender, block) },
      `path ${sender}, block ${block + 1}`);
  }

  /** The text, with what is looked for marked. */
  _found(text) {
    if (!this.query) return [text];
    const pieces = [];
    let at = 0;
    for (const match of text.matchAll(this.query)) {
      if (this.marks.length >= MOST_MARKS) break;
      const mark = h("mark", {}, match[0]);
      this.marks.push(mark);
      pieces.push(text.slice(at, match.index), mark);
      at = match.index + match[0].length;
    }
    return [...pieces, text.slice(at)];
  }
}
