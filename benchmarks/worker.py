"""One engine in a process of its own: reads requests as JSON lines, answers with the tokens and the seconds they took.

    {"prompts": [[1, 2, 3]], "copies": 32, "steps": 64}  ->  {"seconds": 1.5, "tokens": [[...], ...]}

Prompts are token ids, each continued by ``copies`` samples of exactly ``steps`` tokens: temperature 0.6, top-k 40, top-p
0.95, ends of text ignored. With "leap" in the request the workload is LeaP's, see ``leap.py``. Run by ``systems.py`` with
the Python of the engine's own environment; nothing of leapgen is needed for the others.

``leapgen`` is as users get it; ``leapgen-undrafted`` computes no draft tokens. ``vllm-text-drafts`` is vLLM with drafts by
n-grams of its own, and without top-k, with which its sampler of drafts fails on CPU (0.32).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial

Tokens = list[list[int]]
Prompts = Tokens | list[str]
Generate = Callable[[Prompts, int, int], Prompts]
CONTEXT = 8192


def leapgen_engine(folder: str, dtype: str, threads: int, **options):
    import torch
    from transformers import AutoModelForCausalLM

    from leapgen import EngineConfig
    from leapgen.engine import Engine

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    return Engine(model, EngineConfig(kv_cache_bytes=6 << 30, **options))


def leapgen(folder: str, dtype: str, threads: int, **options) -> Generate:
    return generate_by(leapgen_engine(folder, dtype, threads, **options))


def generate_by(engine) -> Generate:
    from leapgen import SamplingConfig
    from leapgen.engine.stream import Stream

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


def transformers_model(folder: str, dtype: str, threads: int):
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()


def transformers(folder: str, dtype: str, threads: int, compiled: bool = False) -> Generate:
    """``generate`` with its dynamic cache; or compiled, with a static cache of a multiple of 128 positions."""
    import torch
    from transformers import CompileConfig, StaticCache

    model = transformers_model(folder, dtype, threads)
    compile_config = CompileConfig(mode="default")
    compile_config._compile_all_devices = True  # else only on CUDA

    def generate(prompts: Tokens, copies: int, steps: int) -> Tokens:
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
        options = {}
        if compiled:
            length = -(-(longest + steps) // 128) * 128
            options = {"past_key_values": StaticCache(model.config, max_cache_len=length), "compile_config": compile_config}
        output = model.generate(ids, attention_mask=mask, do_sample=True, temperature=0.6, top_k=40, top_p=0.95, **options,
                                num_return_sequences=copies, min_new_tokens=steps, max_new_tokens=steps, pad_token_id=0)
        return output[:, longest:].tolist()

    return generate


def transformers_batch(folder: str, dtype: str, threads: int) -> Generate:
    """``generate_batch``: continuous batching over a paged cache."""
    from transformers import GenerationConfig

    model = transformers_model(folder, dtype, threads)
    model.set_attn_implementation("paged|sdpa")

    def generate(prompts: Tokens, copies: int, steps: int) -> Tokens:
        config = GenerationConfig(do_sample=True, temperature=0.6, top_k=40, top_p=0.95, max_new_tokens=steps,
                                  eos_token_id=-1, pad_token_id=0)
        outputs = model.generate_batch([p for p in prompts for _ in range(copies)], config)
        return [outputs[name].generated_tokens for name in sorted(outputs, key=lambda name: int(name.rsplit("_")[-1]))]

    return generate


def vllm_engine(folder: str, dtype: str, threads: int, **options):
    os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_CPU_KVCACHE_SPACE="4", VLLM_LOGGING_LEVEL="ERROR",
                      VLLM_CPU_OMP_THREADS_BIND=f"0-{threads - 1}")
    from vllm import LLM

    return LLM(folder, dtype=dtype, max_model_len=CONTEXT, enable_prefix_caching=True, max_num_seqs=128, seed=0, **options)


def vllm_sampling(copies: int, steps: int, detokenize: bool, top_k: int = 40):
    from vllm import SamplingParams

    return SamplingParams(n=copies, temperature=0.6, top_k=top_k, top_p=0.95, min_tokens=steps, max_tokens=steps,
                          ignore_eos=True, detokenize=detokenize)


def vllm(folder: str, dtype: str, threads: int) -> Generate:
    llm = vllm_engine(folder, dtype, threads)

    def generate(prompts: Tokens, copies: int, steps: int) -> Tokens:
        sampling = vllm_sampling(copies, steps, False)
        outputs = llm.generate([{"prompt_token_ids": p} for p in prompts], sampling, use_tqdm=False)
        return [list(sample.token_ids) for output in outputs for sample in output.outputs]

    return generate


def vllm_text(folder: str, dtype: str, threads: int, top_k: int = 40, **options) -> Generate:
    """Texts in, texts out, as LeaP's published code uses vLLM; for the workload of ``leap.py`` only."""
    llm = vllm_engine(folder, dtype, threads, **options)

    def generate(prompts: list[str], copies: int, steps: int) -> list[str]:
        outputs = llm.generate(prompts, vllm_sampling(copies, steps, True, top_k), use_tqdm=False)
        return [sample.text for output in outputs for sample in output.outputs]

    generate.count = lambda text: len(llm.get_tokenizer().encode(text))
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


def llamacpp(folder: str, dtype: str, threads: int) -> Generate:
    """By llama-cpp-python's bindings; ``folder`` + ".gguf" holds the model, whose format is the file's."""
    import llama_cpp as lib

    lib.llama_backend_init()
    model = lib.llama_model_load_from_file((folder.rstrip("/") + ".gguf").encode(), lib.llama_model_default_params())
    options = lib.llama_context_default_params()
    options.n_ctx, options.n_batch, options.n_ubatch, options.n_seq_max, options.kv_unified = 1 << 15, 2048, 512, 128, True
    options.n_threads = options.n_threads_batch = threads
    context = lib.llama_init_from_model(model, options)
    memory = lib.llama_get_memory(context)
    batch = lib.llama_batch_init(options.n_batch, 0, 1)

    def sampler(seed: int):
        chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        for part in (lib.llama_sampler_init_top_k(40), lib.llama_sampler_init_top_p(0.95, 1),
                     lib.llama_sampler_init_temp(0.6), lib.llama_sampler_init_dist(seed)):
            lib.llama_sampler_chain_add(chain, part)
        return chain

    def decode(rows: list[tuple[int, int, int, bool]]) -> None:
        """Token, position, sequence and whether logits are wanted, for each row."""
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = token, position, 1, sequence
            batch.logits[i] = wanted
        if status := lib.llama_decode(context, batch):
            raise RuntimeError(f"llama_decode gave {status}")

    def generate(prompts: Tokens, copies: int, steps: int) -> Tokens:
        lib.llama_memory_clear(memory, False)
        samplers = [sampler(seed) for seed in range(len(prompts) * copies)]
        found: Tokens = []
        for i, prompt in enumerate(prompts):
            decode([(token, j, i * copies, j + 1 == len(prompt)) for j, token in enumerate(prompt)])
            for k in range(i * copies, (i + 1) * copies):
                if k > i * copies:
                    lib.llama_memory_seq_cp(memory, i * copies, k, -1, -1)
                found.append([lib.llama_sampler_sample(samplers[k], context, -1)])
        for step in range(1, steps):
            decode([(tokens[-1], len(prompts[k // copies]) + step - 1, k, True) for k, tokens in enumerate(found)])
            for k, tokens in enumerate(found):
                tokens.append(lib.llama_sampler_sample(samplers[k], context, k))
        for chain in samplers:
            lib.llama_sampler_free(chain)
        return found

    return generate


def leap_by_prompts(generate: Generate, prompt: list[int] | str, n: int, work: dict) -> tuple[Prompts, Prompts]:
    """LeaP as published: at every turn each path, all of it, is a new prompt. Returns the paths, and all those prompts."""
    paths, handed = [prompt] * n, []

    def turn(steps: int) -> Prompts:
        handed.extend(paths)
        new = generate(paths, 1, steps)
        paths[:] = [path + more for path, more in zip(paths, new, strict=True)]
        return new

    for block in range(work["rounds"]):
        turn(work["interval"])
        if block < work["rounds"] - 1:
            paths[:] = [path + work["trigger"] for path in paths]
            summaries = turn(work["summary"])
            paths[:] = [path + work["close"] + comments(summaries, i, work) for i, path in enumerate(paths)]
    return paths, handed


def comments(summaries: Prompts, receiver: int, work: dict) -> list[int] | str:
    """What a path is sent: the next peers' summaries, each behind a header. Which ones they are takes no time here."""
    sent = work["open"]
    for k in range(work["top_k"]):
        sent = sent + work["header"] + summaries[(receiver + 1 + k) % len(summaries)]
    return sent + work["nudge"]


def leap_on_live_sequences(engine) -> dict[str, Callable]:
    """LeaP by the engine's verbs, and plain decoding of as many tokens with one prefill of as many injected ones."""
    from leapgen import SamplingConfig
    from leapgen.engine.stream import Stream

    sampling = SamplingConfig(temperature=0.6, top_k=40, top_p=0.95, logprobs=False)

    def start(prompt: list[int], n: int, limit: int) -> list:
        first = engine.add(prompt, sampling, stream=Stream(0, 0), limit=limit)
        return [first, *(engine.fork(first, stream=Stream(0, i)) for i in range(1, n))]

    def finish() -> None:
        while engine.has_work:
            engine.step()

    def end(paths: list) -> tuple[Tokens, dict]:
        ledger, tokens = paths[0].ledger, [p.tokens for p in paths]
        for path in paths:
            engine.release(path)
        return tokens, {"prompt_tokens": ledger.prefilled}

    def leap(prompt: list[int], n: int, work: dict) -> tuple[Tokens, dict]:
        paths = start(prompt, n, len(prompt) + work["interval"])
        for block in range(work["rounds"]):
            finish()
            if block < work["rounds"] - 1:
                for path in paths:
                    engine.extend(path, work["trigger"], limit=len(path) + len(work["trigger"]) + work["summary"])
                finish()
                summaries = [path.tokens[-work["summary"]:] for path in paths]
                for i, path in enumerate(paths):
                    sent = work["close"] + comments(summaries, i, work)
                    engine.extend(path, sent, limit=len(path) + len(sent) + work["interval"])
        return end(paths)

    def plain(prompt: list[int], n: int, work: dict) -> tuple[Tokens, dict]:
        blocks = work["rounds"] - 1
        sent = blocks * (work["trigger"] + work["close"] + comments([[9] * work["summary"]] * n, 0, work))
        own = work["rounds"] * work["interval"] + blocks * work["summary"]
        paths = start(prompt, n, len(prompt) + own // 2)
        finish()
        for path in paths:
            engine.extend(path, sent, limit=len(path) + len(sent) + own - own // 2)
        finish()
        return end(paths)

    return {"leap": leap, "plain": plain}


BY_NGRAMS = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_min": 2, "prompt_lookup_max": 5}
SYSTEMS = {"leapgen": leapgen, "leapgen-undrafted": partial(leapgen, draft_tokens=0), "transformers": transformers,
           "transformers-compiled": partial(transformers, compiled=True), "transformers-batch": transformers_batch,
           "vllm": vllm, "vllm-text": vllm_text,
           "vllm-text-drafts": partial(vllm_text, top_k=-1, speculative_config=BY_NGRAMS), "openvino": openvino,
           "llamacpp": llamacpp}
LIVE = {"leapgen-live": {}, "leapgen-live-undrafted": {"draft_tokens": 0}}


def leap(request: dict, live: dict[str, Callable], generate: Generate | None) -> dict:
    """The workload of ``leap.py``; texts where the engine takes texts, else token ids. Counting tokens is not timed."""
    count = getattr(generate, "count", len)
    prompt, work = (request["prompt"], request["leap"]) if count is len else (request["text"], request["leap_text"])
    began = time.perf_counter()
    if live:
        paths, counts = live[request["kind"]](prompt, request["n"], work)
        return {"seconds": time.perf_counter() - began, "lengths": [len(path) for path in paths], **counts}
    paths, handed = leap_by_prompts(generate, prompt, request["n"], work)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "lengths": [count(path) for path in paths], "prompt_tokens": sum(map(count, handed))}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("system", choices=[*SYSTEMS, *LIVE])
    parser.add_argument("folder")
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the engine prints is no answer
    options = arguments.folder, arguments.dtype, arguments.threads
    own = LIVE.get(arguments.system)
    live = {} if own is None else leap_on_live_sequences(leapgen_engine(*options, **own))
    generate = None if live else SYSTEMS[arguments.system](*options)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "leap" in request:
            print(json.dumps(leap(request, live, generate)), file=answers, flush=True)
            continue
        began = time.perf_counter()
        tokens = generate(request["prompts"], request["copies"], request["steps"])
        seconds = time.perf_counter() - began
        assert all(len(t) == request["steps"] for t in tokens), [len(t) for t in tokens]
        print(json.dumps({"seconds": seconds, "tokens": tokens}), file=answers, flush=True)


if __name__ == "__main__":
    main()
