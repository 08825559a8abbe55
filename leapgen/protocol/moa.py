"""Mixture of agents (Wang et al., arXiv 2406.04692; appendix F of arXiv 2505.07787, Fig. 26): layers read layers."""

from __future__ import annotations

from collections.abc import Sequence

from leapgen.protocol.base import Group, Protocol
from leapgen.protocol.chat import user_turn
from leapgen.protocol.path import Path
from leapgen.protocol.text import Untrusted
from leapgen.record.message import Message, Source
from leapgen.record.run import BlockRecord, Route


class MixtureOfAgents(Protocol):
    """The agents of a layer answer side by side and have read what all of the layer before answered; the last is one agent.

    Use it by ``protocol=MixtureOfAgents``, or ``functools.partial(MixtureOfAgents, layers=2)``, with ``paths`` paths and the
    plain prompt (``leap=False``). Responses stand in the prompt, behind the question. Only the last agent votes.

    Args:
        response_tokens: most tokens of a response that are read: of the answer that an agent wrote after its thinking, or
            else of the end of what it said.

    Raises:
        ValueError: a value that is not allowed, or another number of paths.
    """

    def __init__(self, group: Group, layers: int = 4, agents: int = 3, response_tokens: int = 1024) -> None:
        super().__init__(group)
        for name, value in (("layers", layers), ("agents", agents), ("response_tokens", response_tokens)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r} is not allowed: {name} must be an integer >= 1.")
        if len(group.paths) != self.paths(layers, agents):
            raise ValueError(f"a mixture of {layers} layers of {agents} agents, the last of one, has n="
                             f"{self.paths(layers, agents)} paths, not n={len(group.paths)}.")
        self.agents, self.response_tokens = agents, response_tokens
        self.layers = [group.paths[first : first + agents] for first in range(0, len(group.paths), agents)]
        for path in group.paths[:-1]:
            path.votes = False

    @staticmethod
    def paths(layers: int = 4, agents: int = 3) -> int:
        """The n that a mixture needs."""
        return (layers - 1) * agents + 1

    def check(self) -> None:
        super().check()
        speaker = self.group.speaker
        needed = len(speaker.prompt) + self.agents * (self.response_tokens + 8) + speaker.reserved_positions
        if len(self.layers) > 1 and needed >= speaker.engine.context_length:
            raise ValueError(f"{self.agents} responses of response_tokens={self.response_tokens} behind the prompt, and a "
                             f"forced answer, are {needed} tokens, but {speaker.engine.context}. Use fewer response_tokens.")
        if any(self.group.beginnings) or len(self.group.speakers) > 1:
            raise ValueError("a mixture of agents takes no beginning and no speakers: it has prompts of its own.")

    def go_on(self, path: Path) -> None:
        if path.index // self.agents <= len(self.group.blocks):
            path.reason()
        else:
            path.wait()

    def advance(self) -> None:
        layer = len(self.group.blocks)
        if layer + 1 < len(self.layers) and all(path.stage == "finished" for path in self.layers[layer]):
            self.hand_on(layer, self.layers[layer + 1])

    def hand_on(self, layer: int, readers: Sequence[Path]) -> None:
        """The next layer reads this one's responses, the newer part of each where the context does not hold them."""
        block, size = BlockRecord(layer), self.response_tokens
        speaker = readers[0].speaker
        while True:
            responses = [Message(path.index, response(path, size), layer, path.answer_found) for path in self.layers[layer]]
            prompt, sources = self.prompt(responses)
            if size == 1 or len(prompt) + speaker.reserved_positions < speaker.engine.context_length:
                break
            size = max(size // 2, 1)
        block.summaries = {message.sender: message for message in responses}
        block.routes = {reader.index: [Route(message.sender, None) for message in responses] for reader in readers}
        self.group.hold(block)
        self.group.ask(readers, prompt, sources)

    def prompt(self, responses: Sequence[Message]) -> tuple[list[int], list[Source]]:
        """The question's prompt with responses at the end of the user's turn, and where they stand in it."""
        speaker = self.group.speaker
        turn, behind = user_turn(speaker.vocabulary.tokenizer, speaker.prompt)
        pieces: list[str] = []
        for number, message in enumerate(responses, 1):
            pieces += [f"\n\nResponse {number}:\n", Untrusted(message.text)]
        pieces[0] = speaker.prompts.aggregate + pieces[0]
        tokens, sources = list(turn), []
        encoded = speaker.vocabulary.encode_pieces(pieces, after=turn)
        for message, heading, words in zip(responses, encoded[::2], encoded[1::2], strict=True):
            tokens += heading
            sources.append(Source(len(tokens), len(tokens) + len(words), message.sender, message.block))
            tokens += words
        return [*tokens, *behind], sources


def response(path: Path, size: int) -> str:
    """What an agent's readers get: ``size`` tokens at most."""
    transcript, speaker = path.transcript, path.speaker
    last = transcript.segments[-1] if transcript.segments else None
    written = path.concluded and last is not None and last.kind == "answer" and last.text.strip()
    first = max(len(transcript) - size, path.reason_end if written else 0)
    text = transcript.text.span(first, len(transcript))
    return (text.replace(speaker.endings.think_end, "") if speaker.endings.think_end else text).strip()
