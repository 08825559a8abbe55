"""Does a model take the answer of the prompt's worked example for its own? Six trivial questions; none has 15 for an answer.

    python examples/evidence/copied.py                       # SmolLM2-135M
    python examples/evidence/copied.py --model FOLDER --dtype bfloat16
    python examples/evidence/copied.py --answer 15 --prompts old.json     # another explanation, and the answer it ends with
"""

from __future__ import annotations

import argparse
from collections import Counter

from leapgen import LeapGenerator, PromptSet
from leapgen.answers import normalize_answer
from leapgen.demo import SETTINGS, load_smollm2

QUESTIONS = {f"What is {question}?": answer for question, answer in
             {"7 + 5": "12", "9 - 4": "5", "6 * 3": "18", "20 / 4": "5", "8 + 9": "17", "3 + 4": "7"}.items()}
ARMS = {"LeaP": {}, "LeaP, explain=False": {"explain": False}, "without LeaP": {"max_blocks": 0, "explain": False}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--paths", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prompts", default=None, help="a PromptSet in JSON")
    parser.add_argument("--answer", nargs="+", default=["15", "r * b", "rb"], help="what counts as the example's answer")
    options = parser.parse_args()
    generator = load_smollm2() if options.model == "smollm2" else LeapGenerator.from_pretrained(
        options.model, dtype=options.dtype)
    if options.prompts:
        generator.prompts = PromptSet.load(options.prompts)
    copied = {normalize_answer(answer) for answer in options.answer}
    for name, changes in ARMS.items():
        outputs = generator.generate(list(QUESTIONS), options.paths, seed=options.seed, **{**SETTINGS, **changes})
        pairs = [(normalize_answer(path.answer), right) for output, right in zip(outputs, QUESTIONS.values(), strict=True)
                 for path in output.paths if path.answer is not None]
        given = Counter(answer for answer, _ in pairs)
        print(f"{name}: {len(QUESTIONS) * options.paths} paths, {len(pairs)} answers, {sum(given[c] for c in copied)} the "
              f"example's, {sum(answer == right for answer, right in pairs)} right", flush=True)


if __name__ == "__main__":
    main()
