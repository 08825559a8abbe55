"""The tokenizer of the maze models: bytes, whole words, and the protocol's sentences as one token each."""

from __future__ import annotations

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from leapgen.protocol.prompts import TAGS, PromptSet
from leapgen.tasks.maze.maze import NAMES

THINK_START, THINK_END = "<think>", "</think>"
END = "<|end|>"
SPECIAL = ("<|pad|>", END, "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n<think>\n{% endif %}")
MAX_PEERS = 16
_WORD = r"\n+| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]| +|\s"
_WORDS = ("\n\n", " to", "Passages", " Passages", "At", " At", " dead", " end", " ends", " exit", " nothing", " left",
          "Dead", " Dead", "Recheck", " Recheck", " found", " yet", " the", " way", " is", " are", " go", " avoid",
          " tried", " by", " no", " not", " see", " still", " looking", " I", " and", " it", " for", " lost", " help",
          " sure", " through", " leads", " nowhere", "Find", " from", " was", " me", " hard", " You", " can", " be", " of",
          " a", '"\n', "Peer", ' "', " am",
          *(f" {digit}" for digit in range(1, 10)))


def phrases(prompts: PromptSet) -> list[str]:
    """The fixed sentences the protocol injects, each to be one token, as superword tokenizers have them."""
    found = [*prompts.triggers, *(lead_in.removeprefix("<summarize>").strip() for lead_in in prompts.lead_ins),
             prompts.nudge, prompts.no_comments, prompts.opening.strip(), prompts.forced_answer.strip(),
             prompts.answer_lead.strip()]
    for template in (prompts.plain, prompts.explanation):
        found += [part.strip() for part in template.split("{question}") if part.strip()]
    found += [f'Peer {i}: "' for i in range(1, MAX_PEERS + 1)]
    return list(dict.fromkeys(found))


def build_tokenizer(prompts: PromptSet | None = None) -> PreTrainedTokenizerFast:
    """An ordinary fast tokenizer with a chat template and thinking markers.

    Words of the mazes and the protocol's sentences are one token each; any other text is spelled in bytes.
    """
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words = [*sorted(pre_tokenizers.ByteLevel.alphabet()),
             *(to_bytes.pre_tokenize_str(word)[0][0] for word in (*(f" {name}" for name in NAMES), *_WORDS))]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(_WORD), "isolated"), to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    plain = [*TAGS, THINK_START, THINK_END, *phrases(prompts or PromptSet())]
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in plain])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token=END,
                                   chat_template=CHAT_TEMPLATE, model_max_length=1024, clean_up_tokenization_spaces=False)
