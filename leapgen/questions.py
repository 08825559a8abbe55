"""From requests, and from saved runs, to the questions that a session works on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from transformers import PreTrainedModel

from leapgen.config import LeapConfig, SamplingConfig, config_from, plain_values
from leapgen.encoder import Encoder
from leapgen.engine import Engine
from leapgen.job import Question
from leapgen.protocol.base import Group, Method
from leapgen.protocol.prompts import PromptSet
from leapgen.protocol.speaker import Speaker, SpeakerConfig, shared_out
from leapgen.protocol.text import Vocabulary
from leapgen.record.run import LeapOutput
from leapgen.request import Request
from leapgen.resuming import check_made_with, made_with


@dataclass
class Questions:
    """Of one model, which runs note by ``name``; ``prompts`` are the sentences where a speaker has none of its own."""

    model: PreTrainedModel
    engine: Engine
    vocabulary: Vocabulary
    encoder: Encoder
    prompts: PromptSet
    name: str

    def asked(self, request: Request) -> list[Question]:
        """The questions of a request; of several equal prompts each next one gets the next seed.

        Raises:
            ValueError: one does not fit, or its prompt or beginning is not allowed.
        """
        leap, encoder, seen, questions = request.leap, self.encoder, Counter[tuple[int, ...]](), []
        endings = encoder.endings(leap)
        for index, (prompt, beginnings) in enumerate(zip(request.prompts, request.beginnings, strict=True)):
            prompts = {one.prompts: encoder.prompt(prompt, leap, one.prompts or self.prompts, endings)
                       for one in request.speakers}
            speakers = self._speakers(request.speakers, leap, request.sampling, self.prompts,
                                      [prompts[one.prompts] for one in request.speakers])
            encoded: dict[tuple[int, object], list[int]] = {}
            for speaker, beginning in zip(speakers, beginnings, strict=True):
                if (id(speaker), beginning) not in encoded:
                    encoded[id(speaker), beginning] = encoder.beginning(beginning, speaker.prompt, leap, endings)
            seed = request.seed + seen[speakers[0].prompt]
            seen[speakers[0].prompt] += 1
            group = Group(speakers, request.protocol, seed, index,
                          [encoded[id(speaker), one] for speaker, one in zip(speakers, beginnings, strict=True)])
            group.protocol.check()
            questions.append(Question(group, self._output(encoder.question(prompt), group, request.sampling,
                                                          request.speakers)))
        return questions

    def resumed(self, output: LeapOutput, index: int, leap: LeapConfig | None, sampling: SamplingConfig | None,
                given: Sequence[SpeakerConfig] | None, protocol: Method, check: bool) -> Question:
        """An interrupted run's question, to go on with; configs and speakers that are given take the place of its own.

        Raises:
            ValueError: it holds settings that a file cannot hold; with ``check``, another model made it.
        """
        leap = leap or config_from(LeapConfig, output.leap, "leap")
        sampling = sampling or config_from(SamplingConfig, output.sampling, "sampling")
        stated = output.made_with.get("prompts")
        prompts = PromptSet(**stated) if stated else self.prompts
        speaking = shared_out(given or SpeakerConfig.noted(output.made_with.get("speakers", ())), len(output.paths))
        firsts = accumulate((one.paths or 0 for one in speaking[:-1]), initial=0)
        beginnings = [[token for segment in path.segments if segment.kind == "beginning" for token in segment.token_ids]
                      for path in output.paths]
        speakers = self._speakers(speaking, leap, sampling, prompts,
                                  [output.paths[first].segments[0].token_ids for first in firsts])
        group = Group(speakers, protocol, output.seed, index, beginnings)
        fresh = self._output(output.question, group, sampling, speaking)
        fresh.made_with["prompts"] = plain_values(prompts)
        if check:
            check_made_with(output.made_with, fresh.made_with)
        return Question(group, fresh, output)

    def _speakers(self, configs: Sequence[SpeakerConfig], leap: LeapConfig, sampling: SamplingConfig, prompts: PromptSet,
                  tokens: Sequence[Sequence[int]]) -> list[Speaker]:
        """The speaker of each path; ``tokens`` are the prompts, one for each config."""
        endings, speakers = self.encoder.endings(leap), []
        for config, prompt in zip(configs, tokens, strict=True):
            speaker = Speaker(self.engine, self.vocabulary, config.prompts or prompts, endings, leap,
                              config.sampling or sampling, tuple(prompt))
            speakers += [speaker] * (config.paths or 0)
        return speakers

    def _output(self, question: str, group: Group, sampling: SamplingConfig,
                speakers: Sequence[SpeakerConfig]) -> LeapOutput:
        """The output of a question before its first step."""
        made = made_with(self.model, self.engine, self.prompts, group.protocol.name)
        if len(speakers) > 1:
            made["speakers"] = [speaker.note() for speaker in speakers]
        return LeapOutput(question=question, paths=[], seed=group.seed, model=self.name,
                          leap=plain_values(group.speaker.config), sampling=plain_values(sampling), made_with=made)
