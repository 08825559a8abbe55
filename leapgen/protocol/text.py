"""Between tokens and text: decoding token by token, encoding in context, and finding where a thought ends."""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import cast

from transformers import PreTrainedTokenizerBase

CONTEXT_TOKENS = 8  # tokens of context that settle how a continuation is spelled
ANCHORS = ("a", ".", ")", "\n", "1")
THINKING_MARKERS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<seed:think>", "</seed:think>"),
                    ("<|begin_of_thought|>", "<|end_of_thought|>"))
_BLANK_LINE_AT_END = re.compile(r"\n[ \t]*\n\s*\Z")
_LINE_END = re.compile(r"\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_CONTROL = re.compile(r"[<\[|].*[>\]|]", re.DOTALL)


class Plain(str):
    """Text that is no part of the protocol: whatever it spells must arrive as plain text, never as a special token."""


class Untrusted(Plain):
    """Text from a peer: in addition, it must not spell a tag of ours."""


class Quoted(Untrusted):
    """Untrusted text that stands between double quotes: it neither closes them nor begins a line."""


class TextStream:
    """The text of a growing token list. Token ids are the truth; text is derived, in context, one token at a time.

    ``ends[i]`` is how many characters of ``text`` there are once token i is read; a token that ends inside a
    character adds none until the character is complete.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, context: Sequence[int] = ()) -> None:
        self.tokenizer = tokenizer
        self.text = ""
        self.ends: list[int] = []
        self._tokens = tail(tokenizer, context)
        self._num_context = len(self._tokens)
        # Text is known up to token _read; decoding starts at _prefix, a little before, to see spaces as they are there.
        self._prefix, self._read = 0, len(self._tokens)
        self._marks: list[tuple[int, int]] = []  # _prefix and _read after each token, to crop back to

    def __len__(self) -> int:
        return len(self.ends)

    def push(self, token: int) -> str:
        """Reads one token; returns the text it completes."""
        self._tokens.append(token)
        before = decode(self.tokenizer, self._tokens[self._prefix : self._read])
        now = decode(self.tokenizer, self._tokens[self._prefix :])
        new = ""
        if len(now) > len(before) and not now.endswith("\ufffd"):
            new = now[len(before) :]
            self._prefix, self._read = self._read, len(self._tokens)
            self.text += new
        self.ends.append(len(self.text))
        self._marks.append((self._prefix, self._read))
        return new

    def push_silent(self) -> str:
        """Counts an end token, which adds no text; nothing may follow it."""
        self.ends.append(len(self.text))
        self._marks.append((self._prefix, self._read))
        return ""

    def extend(self, tokens: Iterable[int]) -> None:
        for token in tokens:
            self.push(token)

    def crop(self, length: int) -> None:
        """Back to the first ``length`` tokens."""
        if length < len(self.ends):
            del self.ends[length:]
            del self._marks[length:]
            del self._tokens[self._num_context + length :]
            self.text = self.text[: self.ends[-1] if self.ends else 0]
            self._prefix, self._read = self._marks[-1] if self._marks else (0, self._num_context)

    def copy(self) -> TextStream:
        twin = TextStream(self.tokenizer)
        twin.text, twin.ends, twin._tokens = self.text, list(self.ends), list(self._tokens)
        twin._num_context, twin._prefix, twin._read = self._num_context, self._prefix, self._read
        twin._marks = list(self._marks)
        return twin

    def span(self, start: int, end: int) -> str:
        """The text of tokens ``start .. end - 1``."""
        first = self.ends[start - 1] if start else 0
        return self.text[first : self.ends[end - 1] if end else 0]

    def tokens_before(self, character: int) -> int:
        """How many tokens end at or before a character of the text."""
        return bisect.bisect_right(self.ends, character)

    def last_blank_line(self, first: int) -> int:
        """How many tokens to keep so that the text ends with the last blank line after token ``first``.

        Only boundaries with something said before them count; without one, everything is kept.
        """
        start = self.ends[first - 1] if first else 0
        for length in range(len(self.ends), first, -1):
            previous = self.ends[length - 2] if length > 1 else 0
            said = self.text[start : self.ends[length - 1]]
            if self.ends[length - 1] > previous and ends_with_blank_line(said):
                return length if said.strip() else len(self.ends)
        return len(self.ends)


def ends_with_blank_line(text: str) -> bool:
    return _BLANK_LINE_AT_END.search(text[-64:]) is not None


def tail(tokenizer: PreTrainedTokenizerBase, context: Sequence[int]) -> list[int]:
    """The last tokens of a context: enough to settle how what follows is spelled, beginning at a whole character."""
    for size in range(CONTEXT_TOKENS, CONTEXT_TOKENS + 4):  # one of four offsets is the first byte of a character
        tokens = list(context[-size:])
        if not decode(tokenizer, tokens).startswith("\ufffd"):
            break
    return tokens


def decode(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str:
    if not tokens:
        return ""
    return cast(str, tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def encode_alone(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """As the tokenizer spells a text on its own, without the special tokens it would put around it."""
    return cast(list[int], tokenizer.encode(text, add_special_tokens=False))


def between_quotes(text: str) -> str:
    """As it can stand between double quotes: its own become “ and ”, and lines after the first are indented."""
    text = re.sub(r"\n(?!\n|  |\Z)", "\n  ", _LINE_END.sub("\n", text))
    return re.sub(r'(^|[\s(\[{])"', r"\1“", text).replace('"', "”")


@dataclass
class Vocabulary:
    """What the protocol needs to know of a tokenizer.

    Args:
        tags: strings that mean something to the protocol; in untrusted text they are broken up.
    """

    tokenizer: PreTrainedTokenizerBase
    tags: tuple[str, ...] = ()
    control: dict[str, int] = field(init=False)  # special tokens and tag-like added tokens, by content

    def __post_init__(self) -> None:
        added = self.tokenizer.added_tokens_decoder
        self.control = {token.content: index for index, token in added.items()
                        if token.content and (token.special or _CONTROL.fullmatch(token.content))}
        for content in self.tokenizer.all_special_tokens:
            self.control.setdefault(content, cast(int, self.tokenizer.convert_tokens_to_ids(content)))

    def encode(self, pieces: Iterable[str], after: Sequence[int]) -> list[int]:
        """Token ids that continue ``after`` with the pieces' text.

        ``Plain`` pieces never yield a control token, ``Untrusted`` ones never spell a tag either, ``Quoted`` ones no double
        quote; other pieces may, on purpose.
        """
        return [token for tokens in self.encode_pieces(pieces, after) for token in tokens]

    def encode_pieces(self, pieces: Iterable[str], after: Sequence[int]) -> list[list[int]]:
        """As ``encode``, the tokens of each piece apart."""
        ids, encoded = list(after[-2 * CONTEXT_TOKENS :]), []
        for piece in pieces:
            known = len(ids)
            if isinstance(piece, Untrusted):
                ids += self._untrusted(piece, ids)
            elif isinstance(piece, Plain):
                ids += self._plain(piece, ids)
            else:
                for part in self._split_control(piece):
                    ids += [self.control[part]] if part in self.control else self._continue(part, ids)
            encoded.append(ids[known:])
        return encoded

    def _split_control(self, text: str) -> list[str]:
        """Splits into control tokens and what stands between them."""
        if not self.control:
            return [text]
        contents = sorted(self.control, key=len, reverse=True)
        return [part for part in re.split(f"({'|'.join(map(re.escape, contents))})", text) if part]

    def _untrusted(self, piece: Untrusted, context: Sequence[int]) -> list[int]:
        """What the ids decode to is looked at, too: a tokenizer's normalisation may make a tag of full-width signs."""
        text = self._safe(piece, piece)
        for _ in range(2):
            ids = self._plain(text, context)
            read = self._read(ids, context)
            text = self._safe(read, piece)
            if text == read:
                return ids
        return self._plain(re.sub(r'[<>"\s]+', " ", read), context)  # a tokenizer that undoes it

    def _read(self, ids: Sequence[int], context: Sequence[int]) -> str:
        """What tokens add to the text of a context."""
        context = tail(self.tokenizer, context)
        before, text = decode(self.tokenizer, context), decode(self.tokenizer, [*context, *ids])
        return text[len(before) :] if text.startswith(before) else decode(self.tokenizer, ids)

    def _safe(self, text: str, piece: Untrusted) -> str:
        """The text of a piece with its tags broken up and, if it is quoted, kept within its quotes."""
        for tag in self.tags:
            text = re.sub(re.escape(tag), lambda match: match[0][0] + " " + match[0][1:], text, flags=re.IGNORECASE)
        return between_quotes(text) if isinstance(piece, Quoted) else text

    def _plain(self, text: str, context: Sequence[int]) -> list[int]:
        """A continuation without control tokens."""
        ids: list[int] = []
        for part in self._plain_parts(text):
            ids += self._plain_part(part, [*context, *ids])
        return ids

    def _plain_part(self, text: str, context: Sequence[int]) -> list[int]:
        """By characters where the tokenizer's normalisation would make a control token."""
        ids = self._continue(text, context)
        if len(text) > 1 and not set(self.control.values()).isdisjoint(ids):
            ids = []
            for character in text:
                ids += self._plain_part(character, [*context, *ids])
        return ids

    def _plain_parts(self, text: str) -> list[str]:
        """Splits after the first character of everything that would become a control token."""
        spelled = [content for content in self.control if len(content) > 1 and content in text]
        if not spelled:
            return [text]
        cuts = sorted({match.start() + 1 for content in spelled
                       for match in re.finditer(f"(?={re.escape(content)})", text)})
        return [text[i:j] for i, j in zip([0, *cuts], [*cuts, len(text)], strict=True) if i < j]

    def _continue(self, text: str, context: Sequence[int]) -> list[int]:
        """Encodes a fragment so that it reads as ``text`` after the context.

        Some tokenizers (SentencePiece) put a space before whatever they encode alone. Encoding behind an anchor and
        taking the anchor off again avoids it; the spelling that reads back right is taken.
        """
        if not text:
            return []
        alone = encode_alone(self.tokenizer, text)
        context = tail(self.tokenizer, context)
        before = decode(self.tokenizer, context)
        if decode(self.tokenizer, [*context, *alone]) == before + text:
            return alone
        for anchor in ANCHORS:
            head, both = encode_alone(self.tokenizer, anchor), encode_alone(self.tokenizer, anchor + text)
            rest = both[len(head) :]
            if both[: len(head)] == head and decode(self.tokenizer, [*context, *rest]) == before + text:
                return rest
        return alone

    def token(self, text: str) -> int | None:
        """The id of a text that is one token on its own, such as ``</think>`` in most reasoning models."""
        if not text:
            return None
        ids = encode_alone(self.tokenizer, text)
        return ids[0] if len(ids) == 1 else None

    def thinking_markers(self) -> tuple[str, str]:
        """The model's own opening and closing of thought, from its added tokens or its chat template; ("", "") if none."""
        added = {token.content for token in self.tokenizer.added_tokens_decoder.values()}
        template = self.tokenizer.chat_template
        template = " ".join(template.values()) if isinstance(template, dict) else template or ""
        for start, end in THINKING_MARKERS:
            if end in added or end in template:
                return start, end
        return "", ""
