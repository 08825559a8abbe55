"""Small real tokenizers, trained on the spot: byte-level BPE (GPT-2, Qwen) and SentencePiece-like BPE (Llama 2)."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
VOCAB = 512  # models that go with these tokenizers


def _corpus() -> list[str]:
    """Sentences like the protocol's. They are fixed: random models say other things with another vocabulary."""
    return json.loads((Path(__file__).parent / "tiny_corpus.json").read_text(encoding="utf-8"))


@lru_cache
def byte_level(thinking: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level BPE with a chat template; with ``thinking``, ``<think>`` and ``</think>`` are added tokens, not special."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(_corpus(), trainers.BpeTrainer(
        vocab_size=480, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    if thinking:
        tokenizer.add_tokens([AddedToken("<think>", special=False), AddedToken("</think>", special=False)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="<|im_end|>",
                                   chat_template=CHAT_TEMPLATE)


@lru_cache
def normalizing() -> PreTrainedTokenizerFast:
    """The byte-level one behind NFKC, which makes ``</comment>`` of full-width signs; ``</think>`` is an added token."""
    tokenizer = Tokenizer.from_str(byte_level(thinking=True).backend_tokenizer.to_str())
    tokenizer.normalizer = normalizers.NFKC()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="<|im_end|>",
                                   chat_template=CHAT_TEMPLATE)


@lru_cache
def sentencepiece_like() -> PreTrainedTokenizerFast:
    """BPE over ``▁`` words with byte fallback, which puts a space before whatever is encoded alone; no chat template."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                           decoders.Strip(" ", 1, 0)])
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    tokenizer.train_from_iterator(
        [piece for text in _corpus() for piece in text.split(" ")],
        trainers.BpeTrainer(vocab_size=500, special_tokens=[*SPECIAL, *bytes_], show_progress=False))
    stored = json.loads(tokenizer.to_str())
    stored["added_tokens"] = [token for token in stored["added_tokens"] if token["content"] not in bytes_]
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(stored)), unk_token="<unk>",
                                   bos_token="<s>", eos_token="</s>")
