"""The LeaP workload end to end: live KV caches against engines that are handed each path, all of it, at every turn.

    python benchmarks/leap.py --model smollm2 --json benchmarks/results/leap.json \\
        --systems leapgen-live leapgen transformers@float32 vllm@float32=PYTHON vllm-text@float32=PYTHON

n paths, rounds of own tokens, after each round but the last a summary of every path, and the summaries of ``top-k`` peers
sent to each. All counts are fixed, so every system does the same tokens' worth of work.

``leapgen-live`` is this engine by its verbs, ``leapgen-live-undrafted`` the same without draft tokens. ``vllm-text`` is vLLM
as LeaP's published code uses it: texts are joined, and tokenised anew at every turn, which does not always give the tokens
that were sampled, and then its prefix cache does not hit; ``vllm-text-drafts`` has it guess ahead by n-grams, too. Others
are handed token ids, which spares them both: ``leapgen`` is this engine used so. ``plain`` decodes as many tokens with one
prefill of as many injected ones.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import machine
from systems import System, add_arguments
from transformers import AutoTokenizer

from leapgen.protocol.prompts import PromptSet

QUESTION = """A gardener lays out a square bed of 12 by 12 equal plots. In each plot she plants either a rose, a tulip or \
nothing at all. No two roses may stand in plots that share a side, every row holds at most four tulips, and the four \
corner plots stay empty. She first fills the diagonal from the upper left to the lower right with as many roses as the \
rule allows, then the other diagonal in the same way, and asks herself how many plots are still free to take a rose \
afterwards. Her neighbour, who has watched her, claims that the number does not depend on which diagonal is filled first. \
Her daughter adds that for a bed of n by n plots with n even the number is a polynomial in n. Find the number of free \
plots for n = 12, decide whether the neighbour is right, find the polynomial if the daughter is right, and let S be the \
sum of its coefficients and of the number of free plots for n = 12. What is the remainder when S is divided by 1000?"""
PROMPTS = PromptSet()
TEXTS = {"trigger": f"\n\n{PROMPTS.triggers[0]} {PROMPTS.lead_ins[0]}", "close": " </summarize>\n\n", "open": "<comment>",
         "header": '\nPeer: "', "nudge": f'"\n</comment>\n\n{PROMPTS.nudge}\n\n'}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    for name, value in {"n": 32, "prompt": 600, "rounds-of-leap": 5, "interval": 128, "summary": 48, "top-k": 4}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    a = parser.parse_args()
    request = workload(AutoTokenizer.from_pretrained(a.model), a)
    systems = [System.start(spec, a.model, a.dtype, a.threads) for spec in a.systems]
    runs = {f"{s.name} {s.dtype}": (s, "leap") for s in systems}
    runs |= {f"plain, {s.name} {s.dtype}": (s, "plain") for s in systems if s.name.startswith("leapgen-live")}
    answers: dict[str, list[dict]] = {name: [] for name in runs}
    warm = {"rounds": 2, "interval": 8, "summary": 8}
    for turn in range(-1, a.rounds):
        for name, (system, kind) in runs.items():
            short = {key: request[key] | warm for key in ("leap", "leap_text")} if turn < 0 else {}
            answer = system.leap(request | short | {"kind": kind})
            if turn >= 0:
                answers[name].append(answer)
                print(f"{name}: {answer['seconds']:.1f} s", flush=True)
    for system in systems:
        system.stop()
    length = next(iter(answers.values()))[0]["lengths"][0]
    for name, given in answers.items():
        apart = 0.1 if name.startswith("vllm-text") else 0.0  # tokenised anew, a path has other tokens
        lengths = [one for answer in given for one in answer["lengths"]]
        assert all(abs(one - length) <= apart * length for one in lengths), f"{name}: unequal work"
    seconds = {name: statistics.median(answer["seconds"] for answer in given) for name, given in answers.items()}
    first = next(iter(seconds.values()))
    print(f"{Path(a.model).name}, n={a.n}, {a.rounds_of_leap} rounds of {a.interval}, summaries of {a.summary}, "
          f"top-{a.top_k}, {a.prompt}-token prompt, {machine.description()}")
    print(f"{'':34}{'ratio':>7}{'seconds':>9}{'prompt tokens':>15}{'tokens a path':>15}")
    for name, value in seconds.items():
        answer = answers[name][0]
        print(f"  {name:32}{value / first:7.2f}{value:9.1f}{answer['prompt_tokens']:15,}"
              f"{statistics.mean(answer['lengths']):15,.0f}")
    if a.json:
        settings = {k: v for k, v in vars(a).items() if k not in ("json", "model", "systems")}
        a.json.parent.mkdir(parents=True, exist_ok=True)
        a.json.write_text(json.dumps({"machine": machine.description(), "settings": settings, "seconds": seconds,
                                      "answers": answers}, indent=1) + "\n")


def workload(tokenizer, a: argparse.Namespace) -> dict:
    """The same prompt, sentences and counts as token ids and as texts."""
    def ids(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    text = PROMPTS.explanation.replace("{question}", QUESTION)
    prompt = ids("\n\n".join([text] * (1 + a.prompt // len(ids(text)))))[: a.prompt]
    counts = {"rounds": a.rounds_of_leap, "interval": a.interval, "summary": a.summary, "top_k": a.top_k}
    return {"n": a.n, "prompt": prompt, "text": tokenizer.decode(prompt), "leap_text": TEXTS | counts,
            "leap": {name: ids(sentence) for name, sentence in TEXTS.items()} | counts}


if __name__ == "__main__":
    main()
