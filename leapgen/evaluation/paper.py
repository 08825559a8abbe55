"""The tables and figures of arXiv 2505.07787: what each shows, with which settings, and the command that makes it again.

``differs`` says where the command departs from the paper, and why. Numbers are in ``leapgen.evaluation.published``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from leapgen.evaluation import published
from leapgen.evaluation.published import MODELS, Columns, Conditions
from leapgen.options import did_you_mean

R1_7B, R1_14B, QWQ = (MODELS[name] for name in ("R1-7B", "R1-14B", "QwQ-32B"))
MATHEMATICS = "32 paths, 16,384 tokens (QwQ-32B: 32,768), T = 4,096, temperature 0.6, top-p 0.95, top-k 40"
PROBED = "The kind of a communication was judged by GPT-4o; here forks of the paths are asked for their answers."
SWEPT = "With independent paths on the same problems and seeds beside it."


@dataclass(frozen=True)
class Entry:
    """A table or figure.

    Args:
        where: its number in the paper.
        shows: what is in it.
        command: what makes it again, as typed after ``leapgen``.
        settings: what the paper states.
        numbers: those it prints, by data set and model, then column, then row.
        column: where a number is found, if not said otherwise.
        differs: what the command does otherwise, and why.
    """

    where: str
    shows: str
    command: str
    settings: str
    numbers: Conditions = field(default_factory=dict)
    differs: str = ""

    @property
    def experiment(self) -> str | None:
        """The name after ``leapgen experiment``; None for what other commands show."""
        words = self.command.split()
        return words[1] if words[0] == "experiment" else None

    def at(self, task: str, model: str) -> tuple[str, Columns]:
        """The numbers printed for a task and a model, and whose they are. Where it has none, those of the command's own
        model or the first there are: something to look at beside, not a target.
        """
        if not self.numbers:
            return "", {}
        short = next((name for name, full in MODELS.items() if model in (name, full)), model)
        own = next((name for name, full in MODELS.items() if full in self.command.split()), "")
        wanted = [(task, short), ("aime24", short), ("aime24", own), next(iter(self.numbers))]
        found = next(where for where in wanted if where in self.numbers)
        return f"{found[1]}, {SETS[found[0]]}", self.numbers[found]


SETS = {"aime24": "AIME 2024", "aime25": "AIME 2025", "aimo25": "AIMO 2025", "gpqa-diamond": "GPQA Diamond",
        "mathematics": "the three mathematics sets", "average": "average of the sets"}


def _runs(name: str, model: str = R1_14B, problems: str = "aime24", options: str = "") -> str:
    return f"experiment {name} --model {model} --problems {problems}{' ' if options else ''}{options}"


ENTRIES = (
    Entry("Table 1", "Pass@1 of independent paths and of LeaP with clustered, hybrid and dispersed routing, top-2 and top-4",
          _runs("main"), f"R1-7B, R1-14B, QwQ-32B; AIME 2024, AIME 2025, AIMO 2025, GPQA Diamond (8 paths); {MATHEMATICS}",
          published.PASS_AT_1, "One command a model and data set; DeepSeek-R1-671B is quoted, not run. Intervals over "
          "problems and the spread between groups are added, as are independent paths at LeaP's cost, whose budget is found "
          "by a run."),
    Entry("Table 2", "Pass@1 and Cons@32 of a base model, its plain SFT, the base with LeaP, and LeaP-T with LeaP",
          _runs("leap-t", R1_7B, options=f"--leap-t {MODELS['LeaP-T-7B']}"),
          f"1.5B, 7B and 14B; AIME 2024, AIME 2025, AIMO 2025; top-4 dispersed; {MATHEMATICS}", published.LEAP_T,
          "The SFT control's weights are not public: --sft names a model of one's own (leapgen synth --without-peers, "
          "leapgen sft). The base also runs on the prompt that LeaP-T gets, so that prompt and training can be told apart."),
    Entry("Table 3", "Pass@1 with a single block after 2K or 4K tokens, then one path alone", _runs("single"),
          "R1-14B; four data sets; 4 paths mixed, top-2", published.SINGLE,
          "Tokens are counted over all paths of a group, those that stop after the block too."),
    Entry("Table 4", "The same with 2 to 16 paths mixed", _runs("single"), "R1-14B, AIME 2024; top-2 and top-4",
          published.SINGLE_MIXED, "The headings of the paper's columns are lost in the text these numbers come from; its "
          "fifth column stands beside no row."),
    Entry("Table 5", "Table 1 with random routing", _runs("main"), "as Table 1", published.PASS_AT_1, "as Table 1"),
    Entry("Table 6", "Cons@N: majority and shortest majority of independent paths, majority with LeaP", _runs("votes"),
          "three mathematics sets taken together, and GPQA Diamond", published.VOTES,
          "One data set a command; put the three files together to have them as one. Answers are grouped by the task's "
          "grader, and both votes are counted for every arm."),
    Entry("Table 7", "Table 6 by data set", _runs("votes"), "as Table 6", published.VOTES, "as Table 6"),
    Entry("Fig. 1", "What a bad beginning costs: Pass@1 of free paths, and of paths that start as a wrong answer did",
          _runs("trap"), "10 wrong answers of 10 problems of AIME 2024 that have both kinds among 32; first 15% of the "
          "tokens; 16 continuations; temperature 1", published.GAPS,
          "Continuations have random streams of their own: with those of the run it comes from, a path would repeat "
          "that very answer. Free paths are counted in a run apart from the one that chose the problems."),
    Entry("Fig. 2", "Diagram: independent paths and LeaP", "demo", "", differs="A diagram; the demo shows the exchange."),
    Entry("Fig. 3", "A path that corrects itself after a peer's summary", "show run.json --path 3", "",
          differs="A case; any path of a saved run can be read, its peers' words beside."),
    Entry("Fig. 4", "Fig. 1 with peers", _runs("trap"), "as Fig. 1, 16 paths that exchange summaries", published.GAPS,
          "as Fig. 1; gaps are from free independent paths, as in the paper, and from free paths with peers"),
    Entry("Fig. 5a", "Tokens an answer takes", _runs("tokens", QWQ), "QwQ-32B, as Table 1",
          differs="Tokens are shown by kind: own, summaries, peers' words."),
    Entry("Fig. 5b", '"Aha" moments of an answer', _runs("aha", QWQ), "QwQ-32B, three mathematics sets; no list is printed",
          published.AHA, "The list is a setting and printed with the result; only a path's own words count, never a trigger "
          "or a peer's."),
    Entry("Fig. 6", "Accuracy against tokens spent, by number of paths", _runs("scaling", MODELS["LeaP-T-7B"]),
          "LeaP-T-7B and R1-7B, AIME 2024, 2 to 8 paths, 16K to 80K tokens, 4 repeats",
          differs="The vote is counted. One model a command, with and without peers; tokens are all that paths cost after "
          "the prompt."),
    Entry("Fig. 7", "Pass@1 and tokens by the interval between blocks", _runs("granularity"),
          "R1-7B and R1-14B, AIME 2024, top-2 dispersed, T = 2,048, 3,072, 4,096, 6,144", published.GRANULARITY, SWEPT),
    Entry("Fig. 8", "Pass@1 by the number of peers that a path reads", _runs("traffic"),
          "R1-14B, AIME 2024, dispersed, T = 4,096, 1 to 16 peers", published.TRAFFIC,
          f"{SWEPT} Beyond four peers the paper's curve moves between 72 and 75."),
    Entry("Fig. 9", "Kinds of communication by block: consistent, unaffected, influenced", _runs("types", QWQ),
          "QwQ-32B, AIME 2024, top-4 dispersed, blocks at 4K to 24K tokens", published.TYPES,
          f"{PROBED} Paths that change to what no peer held are counted apart, and a fork that reads its own summary "
          "instead shows what pausing alone does."),
    Entry("Fig. 10", "Pass@1 by the position of a single block", _runs("position"),
          "R1-14B, AIME 2024, one block at 2K, 4K, ..., 12K tokens, all paths go on", published.POSITION, SWEPT),
    Entry("Fig. 11", "Pass@1 by how many of 16 beginnings are good", _runs("tolerance"),
          "R1-14B, 10 problems, first 30% of the tokens, 0 to 8 good of 16", published.TOLERANCE,
          "The baselines, all bad and all good without peers, are run on the same beginnings. Random streams as in Fig. 1."),
    Entry("Fig. 12", "Pass@1 and tokens by difficulty", _runs("difficulty"),
          "R1-7B and R1-14B, AIME 2024; five levels by right answers of 32 independent paths: 32, 25-31, 9-24, 1-8, 0",
          differs="Levels come from a run of their own: taken from the run they are compared with, chance alone lifts the "
          "hardest level. Peers' words are not counted, as in the paper."),
    Entry("Fig. 13", "Paths by what they held before and after peers", _runs("transitions", QWQ),
          "QwQ-32B, the 11th problem of AIME 2024; read by people", published.TRANSITIONS,
          "All problems instead of one; forks before the first block are asked for their answers instead of people. The "
          "same forks of paths that stay alone are the control."),
    Entry("Fig. 17", "Pass@1 from good beginnings, without and with peers", _runs("trap", options="--good"),
          "as Fig. 1, from right answers", published.GOOD, "as Fig. 1"),
    *(Entry(f"Fig. {figure}{half}", f"Fig. 5{half} for {name}", _runs(experiment, MODELS[name]), f"as Fig. 5{half}",
            differs=f"as Fig. 5{half}")
      for figure, name in ((18, "R1-7B"), (19, "R1-14B")) for half, experiment in (("a", "tokens"), ("b", "aha"))),
    Entry("Fig. 26", "Mixture of agents: Pass@1 and tokens", _runs("moa"), "4 layers, 3 agents", published.MOA,
          "Beside independent paths and LeaP with their own costs."),
    Entry("Fig. 27", "Pass@1 by temperature", _runs("temperature"), "R1-14B, AIME 2024, top-4 dispersed, 0.1 to 1.0",
          published.TEMPERATURE, f"{SWEPT} Elsewhere the paper's curve lies between 70.4 and 73.2."),
    Entry("Fig. 28", "Fig. 7 for LeaP-T-7B and LeaP-T-14B",
          _runs("granularity", MODELS["LeaP-T-7B"], options="--preset leap-t"), "as Fig. 7", published.GRANULARITY, SWEPT),
    Entry("Fig. 29", "Fig. 10 for LeaP-T-14B",
          _runs("position", MODELS["LeaP-T-14B"], options="--preset leap-t"), "as Fig. 10",
          published.POSITION, f"{SWEPT} Later the paper's curve falls to 69.69 and ends at 71.25."),
    *(Entry(f"Fig. {number}", f"Fig. 12 for LeaP-T-{size}, against plain SFT",
            _runs("difficulty", MODELS[f"LeaP-T-{size}"], options="--preset leap-t"), "as Fig. 12, LeaP-T models",
            differs="as Fig. 12; without peers it is LeaP-T itself, as the SFT control's weights are not public. Which of "
            "Figs. 30 to 32 shows which size is not in the text at hand.")
      for number, size in ((30, "1.5B"), (31, "7B"), (32, "14B"))),
)


EXPERIMENTS = tuple(dict.fromkeys(entry.experiment for entry in ENTRIES if entry.experiment is not None))


def entries(experiment: str) -> Iterator[Entry]:
    """What an experiment makes again, in the paper's order."""
    return (entry for entry in ENTRIES if entry.experiment == experiment)


def entry(where: str) -> Entry:
    """The entry of a table or figure.

    Raises:
        ValueError: there is none; names the nearest.
    """
    known: Mapping[str, Entry] = {entry.where: entry for entry in ENTRIES}
    if where not in known:
        raise ValueError(f"there is no {where!r} of the paper here{did_you_mean(where, known)}. There are: "
                         f"{', '.join(known)}.")
    return known[where]
