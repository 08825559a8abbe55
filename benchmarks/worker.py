"""One engine in a process of its own: reads requests as JSON lines, answers with the tokens and the seconds they took.

    {"prompts": [[1, 2, 3]], "copies": 32, "steps": 64}  ->  {"seconds": 1.5, "tokens": [[...], ...]}

Prompts are token ids, each continued by ``copies`` samples of exactly ``steps`` tokens: temperature 0.6, top-k 40, top-p 0.95,
ends of text ignored. Run by ``systems.py`` with the Python of the engine's own environment; nothing of leapgen is needed for
the others.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable

Tokens = list[list[int]]
Generate = Callable[[Tokens, int, int], Tokens]
CONTEXT = 8192


def leapgen(folder: str, dtype: str, threads: int) -> Generate:
    import torch
    from transformers import AutoModelForCausalLM

    from leapgen import EngineConfig, SamplingConfig
    from leapgen.engine import Engine
    from leapgen.engine.stream import Stream

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    engine = Engine(model, EngineConfig(kv_cache_bytes=4 << 30))
    sampling = SamplingConfig(temperature=0.6, top_k=40, top_p=0.95, logprobs=False)

    def generate(prompts: Tokens, copies: int, steps: int) -> Tokens:
        sequences = []
        for i, prompt in enumerate(prompts):
            first = engine.add(prompt, sampling, stream=Stream(0, i * copies), limit=len(prompt) + steps)
            sequences += [first, *(engine.fork(first, stream=Stream(0, i * copies + j)) for j in range(1, copies))]
        while engine.has_work:
            engine.step()
        tokens = [s.tokens[len(prompts[i // copies]):] for i, s in enumerate(sequences)]
        for sequence in sequences:
            engine.release(sequence)
        return tokens

    return generate


def transformers(folder: str, dtype: str, threads: int) -> Generate:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()

    def generate(prompts: Tokens, copies: int, steps: int) -> Tokens:
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
        output = model.generate(ids, attention_mask=mask, do_sample=True, temperature=0.6, top_k=40, top_p=0.95,
                                num_return_sequences=copies, min_new_tokens=steps, max_new_tokens=steps, pad_token_id=0)
        return output[:, longest:].tolist()

    return generate


def vllm(folder: str, dtype: str, threads: int) -> Generate:
    os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_CPU_KVCACHE_SPACE="4", VLLM_LOGGING_LEVEL="ERROR",
                      VLLM_CPU_OMP_THREADS_BIND=f"0-{threads - 1}")
    from vllm import LLM, SamplingParams

    llm = LLM(folder, dtype=dtype, max_model_len=CONTEXT, enable_prefix_caching=True, max_num_seqs=128, seed=0)

    def generate(prompts: Tokens, copies: int, steps: int) -> Tokens:
        sampling = SamplingParams(n=copies, temperature=0.6, top_k=40, top_p=0.95, min_tokens=steps, max_tokens=steps,
                                  ignore_eos=True, detokenize=False)
        outputs = llm.generate([{"prompt_token_ids": p} for p in prompts], sampling, use_tqdm=False)
        return [list(sample.token_ids) for output in outputs for sample in output.outputs]

    return generate


def openvino(folder: str, dtype: str, threads: int) -> Generate:
    """``folder`` + "-openvino" holds the model as optimum-cli exported it, weights in 16 bits."""
    import numpy as np
    import openvino as ov
    import openvino_genai as genai

    scheduler = genai.SchedulerConfig()
    scheduler.cache_size, scheduler.enable_prefix_caching = 4, True
    precision = {"float32": "f32", "bfloat16": "bf16"}[dtype]
    pipe = genai.ContinuousBatchingPipeline(folder.rstrip("/") + "-openvino", scheduler, "CPU",
                                            {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads})

    def generate(prompts: Tokens, copies: int, steps: int) -> Tokens:
        config = genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = steps
        config.ignore_eos = config.do_sample = True
        config.temperature, config.top_k, config.top_p, config.num_return_sequences = 0.6, 40, 0.95, copies
        inputs = [ov.Tensor(np.array([p], dtype=np.int64)) for p in prompts]
        results = pipe.generate(inputs, [config] * len(prompts))
        return [list(ids) for result in results for ids in result.m_generation_ids]

    return generate


SYSTEMS = {"leapgen": leapgen, "transformers": transformers, "vllm": vllm, "openvino": openvino}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("system", choices=SYSTEMS)
    parser.add_argument("folder")
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the engine prints is no answer
    generate = SYSTEMS[arguments.system](arguments.folder, arguments.dtype, arguments.threads)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        began = time.perf_counter()
        tokens = generate(request["prompts"], request["copies"], request["steps"])
        seconds = time.perf_counter() - began
        assert all(len(t) == request["steps"] for t in tokens), [len(t) for t in tokens]
        print(json.dumps({"seconds": seconds, "tokens": tokens}), file=answers, flush=True)


if __name__ == "__main__":
    main()
