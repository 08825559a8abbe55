"""What a run leaves behind: tokens with their provenance, who told whom what, votes and counts."""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
import os
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from leapgen import answers
from leapgen.answers import Grader
from leapgen.record.files import save_json
from leapgen.record.formats import upgraded
from leapgen.record.ledger import Ledger
from leapgen.record.message import Message, Source
from leapgen.viewer import page, run_view

Kind = Literal["prompt", "beginning", "own", "trigger", "summary", "closing", "comment", "forced", "answer"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SAMPLED_KINDS = ("own", "summary", "answer")
FORMAT = 4
GZIP = b"\x1f\x8b"  # how a compressed file begins


@dataclass
class Segment:
    """A run of tokens of one provenance. Log-probabilities are natural and stand beside sampled tokens only."""

    kind: Kind
    token_ids: list[int]
    text: str = ""
    block: int | None = None
    logprobs: list[float | None] = field(default_factory=list)  # under the model
    sampling_logprobs: list[float | None] = field(default_factory=list)  # under the sampling distribution
    sources: list[Source] = field(default_factory=list)  # of a comment: which tokens are whose words

    @property
    def sampled(self) -> bool:
        return self.kind in SAMPLED_KINDS


@dataclass
class Route:
    """A peer whose summary was sent, and its similarity to the receiver's own (1 is equal)."""

    peer: int
    similarity: float | None


@dataclass
class BlockRecord:
    """One LeaP block. ``routes[i]`` are the peers path i read, in the order it read them."""

    index: int
    summaries: dict[int, Message] = field(default_factory=dict)
    routes: dict[int, list[Route]] = field(default_factory=dict)


@dataclass
class PathOutput:
    """One path. ``finish_reason``: ``stop`` (the model ended), ``stop_string``, ``forced`` (it was asked for its answer),
    ``length`` (out of budget or context), ``retired`` (it was there for the others and its part is done: ``paths_after``),
    ``interrupted``.
    """

    index: int
    segments: list[Segment]
    answer: str | None = None
    finish_reason: str | None = None
    votes: bool = True  # its answer counts; False for a path that is there for the others
    state: dict[str, Any] = field(default_factory=dict)  # what resuming an interrupted run needs

    @property
    def token_ids(self) -> list[int]:
        """Every token, prompt included: exactly what has been in the model's context."""
        return [token for segment in self.segments for token in segment.token_ids]

    @property
    def provenance(self) -> list[Kind]:
        """The kind of each token in ``token_ids``."""
        return [segment.kind for segment in self.segments for _ in segment.token_ids]

    @property
    def text(self) -> str:
        """Everything after the prompt: own reasoning, triggers, summaries, comments and answer."""
        return "".join(s.text for s in self.segments if s.kind != "prompt")

    @property
    def own_text(self) -> str:
        """Only what this path said for itself: a given beginning, reasoning and answer, without any peer's words."""
        return "".join(s.text for s in self.segments if s.kind in ("beginning", "own", "answer"))

    @property
    def said(self) -> str:
        """``own_text`` with the phrase that asked for its answer: what an answer is read from."""
        return "".join(s.text for s in self.segments if s.kind in ("beginning", "own", "forced", "answer"))

    @property
    def logprobs(self) -> list[float | None]:
        """Under the model, for each token of ``token_ids``; None where it was not sampled."""
        return [p for s in self.segments for p in (s.logprobs or [None] * len(s.token_ids))]

    @property
    def sampling_logprobs(self) -> list[float | None]:
        """Under the sampling distribution, for each token of ``token_ids``; None where it was not sampled."""
        return [p for s in self.segments for p in (s.sampling_logprobs or [None] * len(s.token_ids))]

    def claims(self, num_blocks: int) -> list[str | None]:
        """What the path held to be the answer at each block (in its words and summary up to there), and at the end."""
        stated: list[str | None] = []
        for block in range(num_blocks):
            before: list[str] = []
            for segment in self.segments:
                if segment.kind == "comment" and segment.block is not None and segment.block >= block:
                    break
                if segment.kind in ("beginning", "own", "answer", "summary"):
                    before.append(segment.text)
            stated.append(answers.extract_answer("".join(before)))
        return [*stated, self.answer]

    def count(self, *kinds: Kind) -> int:
        """Tokens of these kinds."""
        return sum(len(s.token_ids) for s in self.segments if s.kind in kinds)

    def __repr__(self) -> str:
        return (f"PathOutput(index={self.index}, answer={_short(self.answer)}, finish_reason={self.finish_reason!r}, "
                f"own={self.count('own', 'answer')}, summary={self.count('summary')}, "
                f"comment={self.count('comment')} tokens)")


@dataclass(repr=False)
class LeapOutput:
    """One question's run."""

    question: str
    paths: list[PathOutput]
    blocks: list[BlockRecord] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)
    seed: int = 0
    model: str = ""
    leap: dict[str, Any] = field(default_factory=dict)  # the settings, as plain values
    sampling: dict[str, Any] = field(default_factory=dict)
    finished: bool = False
    made_with: dict[str, Any] = field(default_factory=dict)  # dtype, weights' digest, context, engine, prompts, protocol
    state: dict[str, Any] = field(default_factory=dict)  # the protocol's: what resuming an interrupted run needs

    @property
    def probes(self) -> dict[str, Any]:
        """What ``leapgen.evaluation.probes.Probed`` has found out; {} without it."""
        return dict(self.state.get("probes", {}))

    @property
    def answers(self) -> list[str | None]:
        return [path.answer for path in self.paths]

    @property
    def voters(self) -> list[PathOutput]:
        """The paths whose answers count, in votes and in Pass@1: all but those that are there for the others."""
        return [path for path in self.paths if path.votes]

    @property
    def texts(self) -> list[str]:
        return [path.own_text for path in self.paths]

    def majority(self, grader: str | Grader = "exact") -> str | None:
        """The answer most paths gave (Cons@N); the first path's on a tie; None if no path has an answer.

        Args:
            grader: says which answers are one vote; a name is for ``leapgen.answers.grader``.
        """
        groups = self.answer_groups(grader)
        return max(groups, key=len)[0].answer if groups else None

    def shortest_majority(self, grader: str | Grader = "exact") -> str | None:
        """Shortest majority vote (Zeng et al., arXiv 2502.12215): votes divided by the log of their mean length.

        Args:
            grader: as of ``majority``.
        """
        def score(group: list[PathOutput]) -> float:
            length = sum(p.count("own", "answer") for p in group) / len(group)
            return len(group) / math.log(max(length, 2))

        groups = self.answer_groups(grader)
        return max(groups, key=score)[0].answer if groups else None

    def representative(self, grader: str | Grader = "exact") -> PathOutput:
        """The path that stands for the vote: the first that gave the majority's answer; the first if there is no answer.

        Args:
            grader: as of ``majority``.
        """
        groups = self.answer_groups(grader)
        return max(groups, key=len)[0] if groups else self.paths[0]

    def answer_groups(self, grader: str | Grader = "exact") -> list[list[PathOutput]]:
        """The paths that gave one answer, in order of its first path; paths without an answer are left out."""
        answered = [path for path in self.voters if path.answer is not None]
        judge = answers.grader(grader) if isinstance(grader, str) else grader
        return [[answered[i] for i in group] for group in judge.groups([str(path.answer) for path in answered])]

    def tokens_by_kind(self) -> dict[str, int]:
        return {kind: sum(path.count(kind) for path in self.paths) for kind in KINDS}

    def __repr__(self) -> str:
        question = self.question if len(self.question) <= 60 else self.question[:57] + "..."
        lines = [f"LeapOutput({question!r}, {len(self.paths)} paths, {len(self.blocks)} blocks, "
                 f"majority={_short(self.majority())}, {self.ledger.decoded} tokens decoded, "
                 f"{self.ledger.prefilled} prefilled, {self.ledger.total_seconds:.1f} s)"]
        shown = self.paths if len(self.paths) <= 8 else self.paths[:7]
        lines += [f"  {path!r}" for path in shown]
        if len(shown) < len(self.paths):
            lines.append(f"  ... {len(self.paths) - len(shown)} more")
        return "\n".join(lines)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes JSON. A failure (a full disk, say) leaves an earlier file and this object as they were.

        Raises:
            OSError: the file cannot be written.
        """
        save_json(self.to_dict(), path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LeapOutput:
        """Reads what ``save`` wrote, as it is or compressed by gzip.

        Raises:
            ValueError: not such a file; names it.
            OSError: it cannot be read.
        """
        content = Path(path).read_bytes()
        try:
            if content.startswith(GZIP):
                content = gzip.decompress(content)
            return cls.from_dict(json.loads(content.decode("utf-8")))
        except (ValueError, KeyError, TypeError, AttributeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path} is not a saved leapgen run: {error}") from error

    def to_html(self) -> str:
        """One self-contained page that shows the run in a browser: it needs no network and no other file."""
        view = run_view(self.to_dict(), [path.claims(len(self.blocks)) for path in self.paths], self.majority())
        title = " ".join(self.question.split())
        return page(title if len(title) <= 80 else title[:79] + "…", {}, [view])

    def to_dict(self) -> dict[str, Any]:
        return {"leapgen": FORMAT, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> LeapOutput:
        data = dict(data)
        version = data.pop("leapgen")
        if version not in range(1, FORMAT + 1):
            raise ValueError(f"it has format {version}, this version reads up to {FORMAT}")
        data = upgraded(data, version)
        data["paths"] = [PathOutput(**{**p, "segments": [_segment_from(s) for s in p["segments"]]}) for p in data["paths"]]
        data["blocks"] = [_block_from(b) for b in data["blocks"]]
        data["ledger"] = Ledger(**data["ledger"])
        return cls(**data)


def _short(answer: str | None) -> str:
    return repr(answer if answer is None or len(answer) <= 40 else answer[:37] + "...")


def _segment_from(data: dict[str, Any]) -> Segment:
    return Segment(**{**data, "sources": [Source(**source) for source in data.get("sources", [])]})


def _block_from(data: dict[str, Any]) -> BlockRecord:
    """JSON made the path indices strings."""
    return BlockRecord(
        data["index"], {int(i): Message(**{"sender": int(i), "block": data["index"], **s})
                        for i, s in data["summaries"].items()},
        {int(i): [Route(**r) for r in routes] for i, routes in data["routes"].items()})
