"""One question's paths as a state machine: REASON, BLOCK (summarize, route, comment), REASON, ..., ANSWER."""

from __future__ import annotations

import random
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

from leapgen.answers import extract_answer
from leapgen.config import LeapConfig, SamplingConfig
from leapgen.engine import Engine, Event, Sequence, Stream
from leapgen.protocol.budget import check_room
from leapgen.protocol.path import Path, PendingSummary
from leapgen.protocol.prompts import SUMMARY_CLOSE, SUMMARY_OPEN, PromptSet
from leapgen.protocol.routing import route
from leapgen.protocol.text import Quoted, TextStream, Vocabulary
from leapgen.record.events import BlockEvent, CutEvent, FinishEvent, GroupEvent, SegmentEvent, TokenEvent
from leapgen.record.ledger import Ledger
from leapgen.record.run import BlockRecord, Kind, PathOutput, Route, Segment, Summary


@dataclass(frozen=True)
class Endings:
    """What ends a stretch of sampling, besides its limit."""

    end_tokens: frozenset[int]  # the model's end of sequence and the user's stop tokens
    think_start: str
    think_end: str  # "" where the model has no thinking marker
    think_end_token: int | None

    @property
    def reasoning(self) -> frozenset[int]:
        return self.end_tokens | ({self.think_end_token} if self.think_end_token is not None else set())


class Group:
    """The paths of one question.

    The owner calls ``start`` once, hands every engine event of the group's sequences to ``handle``, and calls
    ``advance`` after each step; all return what happened. ``outputs`` may be read at any time; ``close`` frees the pages.
    """

    def __init__(self, engine: Engine, vocabulary: Vocabulary, endings: Endings, prompts: PromptSet, leap: LeapConfig,
                 sampling: SamplingConfig, prompt: SequenceOf[int], n: int, seed: int, question: int = 0,
                 beginning: SequenceOf[int] = ()) -> None:
        self.engine, self.vocabulary, self.endings, self.prompts = engine, vocabulary, endings, prompts
        self.leap, self.sampling, self.seed, self.question = leap, sampling, seed, question
        self.prompt, self.beginning = list(prompt), list(beginning)
        self.ledger = Ledger(prompt=len(self.prompt))
        self.blocks: list[BlockRecord] = []
        self.paths = [Path(i, self, TextStream(vocabulary.tokenizer, self.prompt)) for i in range(n)]
        for path in self.paths:
            path.begin(self.beginning, leap.interval)
        self._forced = vocabulary.encode([self._forced_text()], after=self.prompt) if leap.force_answer else []
        self._block: BlockRecord | None = None  # the block being held

    # -- life -------------------------------------------------------------------------------------------------------

    def start(self, paths: SequenceOf[PathOutput] = (), blocks: SequenceOf[BlockRecord] = ()) -> list[GroupEvent]:
        """Enters the paths into the engine; given an interrupted run's paths and blocks, goes on from there."""
        self.blocks = list(blocks)
        for output in paths:
            self.paths[output.index].restore(output)
        events: list[GroupEvent] = [SegmentEvent(self.question, path.index, segment)
                                    for path in self.paths for segment in path.segments]
        shared = [*self.prompt, *self.beginning]
        root = self.engine.add(shared, self.sampling, limit=len(shared) + 1, ledger=self.ledger)
        for path in self.paths:
            if path.stage == "finished" and not self._has_to_share(path):
                continue
            path.sequence = self.engine.fork(root, stream=Stream(self.seed, path.index, path.branch))
            path.sequence.owner = path
            tokens = [token for segment in path.segments if segment.kind != "beginning" for token in segment.token_ids]
            if path.stage == "reasoning":
                events += self._reason(path, tokens)
            elif path.stage == "answering":
                said = len(path.segments[-1].token_ids) if path.segments[-1].kind == "answer" else 0
                self._answer(path, tokens, self._answer_limit(path) - said)
            else:
                self.engine.extend(path.sequence, tokens, limit=0)
        self.engine.release(root)
        return events

    def check_room(self) -> None:
        """Refuses, before any work, what could never fit.

        Raises:
            ValueError: see ``room.check_room``.
        """
        check_room(self.leap, len(self.prompt), len(self.beginning), self._reserve(), self._frame_size(), self.engine)

    @property
    def done(self) -> bool:
        return all(path.stage == "finished" for path in self.paths)

    def outputs(self, unfinished: str | None = None) -> list[PathOutput]:
        """The paths as they stand; those that have not ended carry ``unfinished`` as their finish reason."""
        return [path.output(self.prompt, unfinished) for path in self.paths]

    def close(self) -> None:
        """Gives every page back."""
        for path in self.paths:
            for sequence in (path.sequence, path.pending.sequence if path.pending else None):
                if sequence is not None:
                    self.engine.release(sequence)

    def phase(self, sequence: Sequence, start: int, count: int) -> str:
        """What computing ``count`` tokens of this sequence from position ``start`` was for."""
        path: Path = sequence.owner
        if start < len(self.prompt) + len(self.beginning):
            return "prompt"
        if sequence is not path.sequence:
            return "summarize"
        if path.stage == "answering":
            return "answer"
        return "comment" if count > 1 else "reason"

    # -- sampled tokens ---------------------------------------------------------------------------------------------

    def handle(self, event: Event) -> list[GroupEvent]:
        """Takes one engine event of a sequence of this group."""
        path: Path = event.sequence.owner
        if event.token is None:  # forced tokens are in, and nothing is to be sampled yet
            return []
        if event.sequence is not path.sequence:
            return self._on_summary(path, event)
        if path.stage == "answering":
            return self._on_answer(path, event)
        return self._on_reasoning(path, event)

    def _on_reasoning(self, path: Path, event: Event) -> list[GroupEvent]:
        events: list[GroupEvent] = [self._note(path, event, "own")]
        path.round_tokens += 1
        path.own_tokens += 1
        path.reason_end = len(path.text)
        if event.finish == "stop":
            path.reason_end -= 1
            if event.token == self.endings.think_end_token:
                return events + self._conclude(path)
            return events + self._conclude(path, "stop")
        if self.endings.think_end:
            found = path.find_new(self.endings.think_end)
            if found is not None:
                path.reason_end = path.text.tokens_before(found)
                return events + self._conclude(path)
        if any(path.find_new(text) is not None for text in self.leap.stop_strings):
            return events + self._conclude(path, "stop_string")
        if self.leap.self_summarize and self._joins_blocks(path) and path.find_new(SUMMARY_OPEN) is not None:
            path.opened_summary = True
            return events + self._wait(path)
        if event.finish == "limit":
            if path.own_tokens < self.leap.max_new_tokens and self._room(path) > 0:
                return events + self._wait(path)
            return events + self._force_answer(path)
        return events

    def _wait(self, path: Path) -> list[GroupEvent]:
        path.stage = "waiting"
        self.engine.pause(path.sequence)
        return []

    def _conclude(self, path: Path, reason: str | None = None) -> list[GroupEvent]:
        """The path ends its thinking: for a ``reason`` that ends the path, or to go on to its answer.

        From here on its summary is at hand for the blocks to come, however far its answer is: who takes part in a block
        must follow from tokens, not from steps. For the same reason a path that skips blocks never shares.
        """
        path.concluded = not path.skips_blocks
        if reason is None and self.leap.write_answer and self._context_left(path) > 0:
            self._answer(path, [], self._answer_limit(path))
            return []
        return self._finish(path, reason or "stop")

    def _force_answer(self, path: Path) -> list[GroupEvent]:
        if not self.leap.force_answer or self._context_left(path) <= len(self._forced):
            return self._finish(path, "length")
        path.forced = True
        segment = path.inject("forced", self._forced)
        self._answer(path, self._forced, self._answer_limit(path))
        return [SegmentEvent(self.question, path.index, segment)]

    def _on_answer(self, path: Path, event: Event) -> list[GroupEvent]:
        events: list[GroupEvent] = [self._note(path, event, "answer")]
        if event.finish is None and all(path.find_new(text) is None for text in self.leap.stop_strings):
            return events
        return events + self._finish(path, "forced" if path.forced else "length" if event.finish == "limit" else "stop")

    def _finish(self, path: Path, reason: str) -> list[GroupEvent]:
        path.stage, path.finish_reason = "finished", reason
        path.answer = extract_answer(path.said())
        if self._has_to_share(path):
            self.engine.pause(path.sequence)
        else:
            self.engine.release(path.sequence)
        return [FinishEvent(self.question, path.output(self.prompt))]

    def _note(self, path: Path, event: Event, kind: Kind) -> TokenEvent:
        silent = event.finish == "stop" and event.token != self.endings.think_end_token
        text = path.append(kind, event.token, event.logprob, event.sampling_logprob, silent)
        return TokenEvent(self.question, path.index, kind, event.token, text)

    # -- going on ---------------------------------------------------------------------------------------------------

    def _reason(self, path: Path, tokens: list[int]) -> list[GroupEvent]:
        """Gives the engine forced tokens and lets the path reason to its next block, or to the end of its budget."""
        count = min(self.leap.max_new_tokens - path.own_tokens, self._room(path) - len(tokens))
        if self._joins_blocks(path):
            count = min(count, (self._next_block() - self._round() + 1) * self.leap.interval - path.round_tokens)
        if count <= 0:
            if tokens:
                self.engine.extend(path.sequence, tokens, limit=0)
            return self._force_answer(path)
        length = len(path.sequence) + len(tokens)
        path.stage = "reasoning"
        path.sequence.stop_tokens = self.endings.reasoning
        path.sequence.min_length = length + max(self.leap.min_new_tokens - path.own_tokens, 0)
        self.engine.extend(path.sequence, tokens, limit=length + count)
        return []

    def _answer(self, path: Path, tokens: list[int], limit: int) -> None:
        path.stage = "answering"
        path.sequence.stop_tokens, path.sequence.min_length = self.endings.end_tokens, 0
        self.engine.extend(path.sequence, tokens, limit=len(path.sequence) + len(tokens) + limit)

    def _answer_limit(self, path: Path) -> int:
        return self.leap.forced_answer_tokens if path.forced else self.leap.written_answer_tokens

    def _forced_text(self) -> str:
        closing = f"\n{self.endings.think_end}" if self.endings.think_end else ""
        return self.prompts.forced_answer + closing + self.prompts.answer_lead

    def _context_left(self, path: Path) -> int:
        return self.engine.context_length - len(path.sequence)

    def _room(self, path: Path) -> int:
        """Positions the path may still fill if a forced answer is to fit after them."""
        return self._context_left(path) - self._reserve()

    def _reserve(self) -> int:
        return len(self._forced) + self.leap.forced_answer_tokens if self.leap.force_answer else 0

    # -- the block --------------------------------------------------------------------------------------------------

    def _next_block(self) -> int | None:
        """The interval at whose end the next block is held; None if there is none to come."""
        held = len(self.blocks)
        if self.leap.max_blocks is not None and held >= self.leap.max_blocks:
            return None
        if self.leap.blocks is None:
            return held
        return self.leap.blocks[held] if held < len(self.leap.blocks) else None

    def _joins_blocks(self, path: Path) -> bool:
        return not path.skips_blocks and self._next_block() is not None

    def _round(self) -> int:
        """The interval the paths are in since the last block."""
        held = len(self.blocks)
        return held if self.leap.blocks is None or held == 0 else self.leap.blocks[held - 1] + 1

    def advance(self) -> list[GroupEvent]:
        """Begins a block when every live path waits for it; ends it when every summary is written."""
        if self._block is not None:
            writing = any(path.pending is not None and not path.pending.done for path in self.paths)
            return [] if writing else self._end_block()
        live = [path for path in self.paths if path.stage in ("reasoning", "waiting") and not path.skips_blocks]
        if live and all(path.stage == "waiting" for path in live):
            return self._begin_block(live)
        return []

    def _begin_block(self, waiting: list[Path]) -> list[GroupEvent]:
        """Cuts each path to its last thought and lets a fork of it write the summary."""
        events: list[GroupEvent] = []
        for path in waiting:
            if not path.opened_summary:
                events += self._cut(path)
            opening = [] if path.opened_summary else self._opening(path.index, path.text, path.sequence.tokens)
            if self._room(path) > len(opening) + self.leap.summary_tokens + self._closing_size():
                events += self._open_summary(path, path.text.copy(), opening, self.engine.fork(path.sequence))
            else:  # no context left for a summary: it reasons on alone
                path.skips_blocks, path.opened_summary = True, False
                events += self._reason(path, [])
        if any(path.pending for path in waiting):
            self._block = BlockRecord(len(self.blocks))
            for path in self.paths:
                if self._has_to_share(path) and path.reason_end:
                    events += self._summary_of_concluded(path)
        return events

    def _cut(self, path: Path) -> list[GroupEvent]:
        """Back to the last blank line of what the path itself said since the last block."""
        if not path.segments or path.segments[-1].kind != "own":
            return []
        length = path.text.last_blank_line(len(path.text) - len(path.segments[-1].token_ids))
        cut = len(path.text) - length
        if not cut:
            return []
        self.ledger.discarded += cut
        self.engine.crop(path.sequence, len(path.sequence) - cut)
        return [CutEvent(self.question, path.index, cut, path.crop_last(cut))]

    def _opening(self, index: int, text: TextStream, tokens: list[int]) -> list[int]:
        """Trigger and lead-in, drawn for this path and block, to follow these tokens."""
        rng = random.Random(f"{self.seed}/{index}/{len(self.blocks)}")
        trigger, lead_in = rng.choice(self.prompts.triggers), rng.choice(self.prompts.lead_ins)
        return self.vocabulary.encode([f"{_gap(text.text)}{trigger} {lead_in}"], after=tokens)

    def _closing_size(self) -> int:
        return len(self.vocabulary.encode([f" {SUMMARY_CLOSE}"], after=[]))

    def _frame_size(self) -> int:
        """Tokens around a summary at most: the longest trigger and lead-in, and the closing tag."""
        longest = [max(len(self.vocabulary.encode([text], after=[])) for text in texts)
                   for texts in (self.prompts.triggers, self.prompts.lead_ins)]
        return sum(longest) + 2 + self._closing_size()  # 2: a gap before, and a space between

    def _open_summary(self, path: Path, text: TextStream, opening: list[int], twin: Sequence) -> list[GroupEvent]:
        """Lets a fork write the summary; ``text`` is the path's up to where the fork begins."""
        branch, first = len(self.blocks) + 1, len(text)
        twin.owner, twin.stream = path, Stream(self.seed, path.index, branch)
        twin.stop_tokens, twin.min_length = self.endings.reasoning, 0
        text.extend(opening)
        path.pending = PendingSummary(twin, text, opening, branch, text.text.rfind(SUMMARY_OPEN) + len(SUMMARY_OPEN),
                                      aside=path.concluded or not self.leap.keep_summary)
        self.engine.extend(twin, opening, limit=len(twin) + len(opening) + self.leap.summary_tokens)
        trigger = Segment("trigger", opening, text.span(first, len(text)), len(self.blocks))
        return [SegmentEvent(self.question, path.index, trigger, path.pending.aside)] if opening else []

    def _summary_of_concluded(self, path: Path) -> list[GroupEvent]:
        """A path that concluded sums up from where its thinking ended, on a fork; the path itself stays as it is."""
        text, length = path.text.copy(), len(self.prompt) + path.reason_end
        text.crop(path.reason_end)
        opening = self._opening(path.index, text, path.sequence.tokens[:length])
        if length + len(opening) + self.leap.summary_tokens > self.engine.context_length:
            return []
        twin = self.engine.fork(path.sequence)
        self.engine.crop(twin, length)
        return self._open_summary(path, text, opening, twin)

    def _has_to_share(self, path: Path) -> bool:
        """Whether a path that concluded is to write a summary for the others at the next block."""
        return (self.leap.finished_share and self.leap.communicates and path.concluded and path.shared_summary is None)

    def _on_summary(self, path: Path, event: Event) -> list[GroupEvent]:
        pending = path.pending
        if event.finish == "stop":  # an end token is no part of a summary
            self.engine.crop(pending.sequence, len(pending.sequence) - 1)
            self.ledger.discarded += 1
            pending.done = True
            return []
        text = pending.append(event.token, event.logprob, event.sampling_logprob)
        pending.closed = SUMMARY_CLOSE in pending.text.text[pending.start :]
        if pending.closed or event.finish == "limit":
            self.engine.pause(pending.sequence)
            pending.done = True
        return [TokenEvent(self.question, path.index, "summary", event.token, text, pending.aside)]

    def _end_block(self) -> list[GroupEvent]:
        """Routes the summaries and lets every path read what it was sent."""
        block = self._block
        receivers = [path for path in self.paths if path.pending is not None and path.stage == "waiting"]
        for path in self.paths:
            if path.pending is not None:
                block.summaries[path.index] = path.pending.summary()
            elif path.shared_summary is not None:
                block.summaries[path.index] = path.shared_summary
        texts = {index: summary.text for index, summary in block.summaries.items() if summary.text}
        # A similarity or router of the user's may raise here: no path has changed yet.
        answers = {path.index: extract_answer(path.thought()) for path in self.paths}
        routes = route(texts, answers, block.index, [path.index for path in receivers], self.leap.router,
                       self.leap.top_k_peers, self.leap.similarity, seed=f"{self.seed}/{block.index}")
        block.routes = {index: [Route(*pair) for pair in chosen] for index, chosen in routes.items()}
        self.blocks.append(block)
        self._block = None
        for path in self.paths:
            if path.pending is not None and path.concluded:
                path.shared_summary = block.summaries[path.index]
                self._drop_summary(path)
                if path.stage == "finished":
                    self.engine.release(path.sequence)
        events: list[GroupEvent] = [BlockEvent(self.question, block)]
        for path in receivers:
            closing = self._settle_summary(path, block.index)
            if closing:
                events.append(SegmentEvent(self.question, path.index, path.segments[-1]))
            events += self._read(path, block, closing)
        return events

    def _settle_summary(self, path: Path, block: int) -> list[int]:
        """Keeps the summary in the path, or drops the fork; returns forced tokens that the engine has yet to get."""
        path.round_tokens = 0
        path.opened_summary = False
        if not self.leap.keep_summary:
            self._drop_summary(path)
            return []
        pending, path.pending = path.pending, None
        self.engine.release(path.sequence)
        path.sequence, path.branch = pending.sequence, pending.branch
        path.adopt(pending, block)
        if pending.closed:
            return []
        closing = self.vocabulary.encode([f" {SUMMARY_CLOSE}"], after=path.sequence.tokens)
        path.inject("forced", closing, block)
        return closing

    def _drop_summary(self, path: Path) -> None:
        self.ledger.discarded += len(path.pending.tokens)
        self.engine.release(path.pending.sequence)
        path.pending = None

    def _read(self, path: Path, block: BlockRecord, closing: list[int]) -> list[GroupEvent]:
        """Injects what the path was sent: from as many peers as the context has room for."""
        routes, events = block.routes[path.index], []
        room = self._room(path) - len(closing)
        for count in range(len(routes), -1, -1):
            comment = self._comment(path, [block.summaries[r.peer] for r in routes[:count]], closing)
            if len(comment) < room:
                events = [SegmentEvent(self.question, path.index, path.inject("comment", comment, block.index))]
                break
        else:
            count, comment = 0, []
        block.routes[path.index] = routes[:count]
        return events + self._reason(path, closing + comment)

    def _comment(self, path: Path, peers: list[Summary], closing: list[int]) -> list[int]:
        frame = self.prompts.comment(len(peers))
        pieces = [_gap(path.text.text) + frame[0]]
        for summary, following in zip(peers, frame[1:], strict=True):
            pieces += [Quoted(summary.text), following]
        return self.vocabulary.encode(pieces, after=[*path.sequence.tokens, *closing])


def _gap(text: str) -> str:
    """What makes the text end with a blank line."""
    return "" if not text or text.endswith("\n\n") else "\n" if text.endswith("\n") else "\n\n"
