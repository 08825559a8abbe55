// Answers have a letter and a colour each; equal ones have the same.

const COLOURS = 8;

const letter = (answer) => (answer < 26 ? String.fromCharCode(65 + answer) : "#");
const colour = (answer) => (answer === null ? "silent" : answer < COLOURS ? `answer-${answer}` : "answer-other");

class Answers {
  constructor(run) {
    this.run = run;
    this.all = run.answers;
  }

  text(answer) {
    return answer === null ? "no answer" : this.all[answer].text;
  }

  right(answer) {
    return answer === null ? false : this.all[answer].right;
  }

  /** "A ✓ 42": never by colour alone. */
  named(answer, limit = 60) {
    if (answer === null) return "no answer";
    return `${letter(answer)}${this.right(answer) ? " ✓" : ""} ${short(this.text(answer), limit)}`;
  }

  badge(answer) {
    return h("span", { class: `badge ${colour(answer)}`, "aria-hidden": "true" }, answer === null ? "–" : letter(answer));
  }

  /** [answer, paths] of the claims at a block, most paths first; at the end (place -1), of those that vote. */
  tally(place) {
    const groups = new Map();
    this.run.paths.forEach((path, i) => {
      if (place === -1 && !path.votes) return;
      const answer = path.claims.at(place);
      groups.set(answer, [...(groups.get(answer) ?? []), i]);
    });
    return [...groups].sort(([a, one], [b, two]) => (a === null) - (b === null) || two.length - one.length || a - b);
  }

  /** A tally as a bar. */
  bar(place, label) {
    const tally = this.tally(place);
    const said = tally.map(([answer, paths]) => `${this.named(answer)}: ${counted(paths.length, "path")}`);
    return stackedBar(tally.map(([answer, paths], i) => [paths.length, `fill-${colour(answer)}`, said[i]]),
      sum(tally.map(([, paths]) => paths.length)), `${label}: ${said.join("; ")}`);
  }

  /** The vote: a bar, and under it who voted for what. */
  vote() {
    const tally = this.tally(-1);
    const winner = this.run.majority;
    return h("section", { class: "vote", "aria-label": "The vote" },
      h("p", {}, h("span", { class: "label" }, "majority"),
        h("strong", {}, winner === null ? "none" : short(this.text(winner), 200)),
        winner !== null && this.all[winner].right !== null
        && h("span", { class: this.right(winner) ? "right" : "wrong" }, this.right(winner) ? "✓ right" : "✗ wrong"),
        this.run.expected !== null && !this.right(winner)
        && [h("span", { class: "label" }, "expected"), short(this.run.expected, 200)]),
      this.bar(-1, "Final answers"),
      h("ul", { class: "key" }, tally.map(([answer, paths]) => h("li", {}, this.badge(answer), " ",
        h("span", { class: answer === null ? "muted" : "" }, short(this.text(answer), 60)),
        this.right(answer) && h("span", { class: "right" }, " ✓"),
        h("span", { class: "muted" }, ` × ${paths.length}`)))));
  }
}
