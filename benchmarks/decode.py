"""Plain parallel decoding: this engine against transformers ``generate``, same model, sampling, tokens and threads.

    python benchmarks/decode.py --n 8 --steps 64 --dtype float32 --json benchmarks/results/decode.json

Systems take turns in one run; medians and the ratio are printed, with the machine beside them. EOS is ignored.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import torch
import transformers

from leapgen import SamplingConfig
from leapgen.demo import load_smollm2

PROMPT = ("Explain, step by step and in plain words, how a bicycle stays upright while it is moving, which forces act "
          "on it, and what the rider does without noticing. Then give one experiment a child could do at home to see it.")


def machine() -> dict[str, str | int]:
    """What the figures were measured on."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = names[0] if names else name
    return {"cpu": name, "threads": torch.get_num_threads(), "instructions": torch.backends.cpu.get_cpu_capability(),
            "torch": torch.__version__, "transformers": transformers.__version__}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    n, steps = arguments.n, arguments.steps

    generator = load_smollm2(dtype=getattr(torch, arguments.dtype))
    model, prompt = generator.model, generator.tokenizer.encode(PROMPT)
    sampling = SamplingConfig(temperature=0.6, top_k=40, top_p=0.95, logprobs=False)

    def ours() -> int:
        output = generator.generate(prompt, n=n, leap=False, sampling=sampling, max_new_tokens=steps,
                                    force_answer=False, ignore_eos=True)
        return output.ledger.decoded

    def theirs() -> int:
        ids = torch.tensor([prompt])
        output = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=0.6, top_k=40,
                                top_p=0.95, num_return_sequences=n, min_new_tokens=steps, max_new_tokens=steps,
                                pad_token_id=0)
        return n * (output.shape[1] - len(prompt))

    systems = {"leapgen": ours, "transformers generate": theirs}
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    for round_index in range(arguments.rounds + 1):  # the first is warm-up
        for name, run in systems.items():
            began = time.perf_counter()
            tokens = run()
            if round_index:
                seconds[name].append(time.perf_counter() - began)
            assert tokens == n * steps, f"{name} made {tokens} tokens instead of {n * steps}"
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = medians["transformers generate"] / medians["leapgen"]
    floor = sum(p.numel() * p.element_size() for p in model.parameters())
    result = {"machine": machine(), "n": n, "steps": steps, "prompt_tokens": len(prompt), "dtype": arguments.dtype,
              "tokens_per_second": {name: n * steps / value for name, value in medians.items()},
              "seconds": seconds, "speedup": ratio, "weight_bytes": floor}
    print(f"{result['machine']}\nSmolLM2-135M {arguments.dtype}, n={n}, {len(prompt)}-token prompt, {steps} steps")
    print(f"leapgen is {ratio:.2f}x transformers generate")
    for name, value in medians.items():
        print(f"  {name:24} {n * steps / value:8.1f} tokens/s   {1000 * value / steps:7.1f} ms a step")
    print(f"  floor: {floor / 1e6:.0f} MB of weights are read at every step")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
