"""Another algorithm behind the same door: best-first search over live KV caches, in forty lines.

Each round forks the most promising sequences, lets every fork write a few tokens, and keeps the likeliest. What
forks share is computed once and stored once; nothing is prefilled twice.

    python examples/tree_search.py
"""

from leapgen import Engine, SamplingConfig
from leapgen.demo import load_smollm2
from leapgen.engine import Stream

ROUNDS, WIDTH, FORKS, TOKENS = 4, 2, 3, 12

generator = load_smollm2()
tokenizer, engine = generator.tokenizer, Engine(generator.model)
prompt = tokenizer.apply_chat_template([{"role": "user", "content": "Name three uses of a brick."}], tokenize=False,
                                       add_generation_prompt=True)
root = engine.add(tokenizer.encode(prompt, add_special_tokens=False), SamplingConfig(temperature=0.8), limit=0)
score = {root: 0.0}
for round_index in range(ROUNDS):
    for parent in list(score):
        for fork_index in range(FORKS):
            twin = engine.fork(parent, stream=Stream(seed=0, path=parent.id, branch=round_index * FORKS + fork_index))
            engine.extend(twin, limit=len(twin) + TOKENS)
            score[twin] = score[parent]
        engine.release(parent)
        del score[parent]
    while engine.has_work:
        for event in engine.step():
            score[event.sequence] += event.logprob or 0.0
    best = sorted(score, key=score.get, reverse=True)
    for loser in best[WIDTH:]:
        engine.release(loser)
        del score[loser]

best = max(score, key=score.get)
print(tokenizer.decode(best.tokens))
ledger = best.ledger
print(f"\n{ledger.decoded} tokens decoded, {ledger.prefilled} prefilled, {ledger.reused} reused by forks, "
      f"{ledger.recomputed} recomputed")
for sequence in list(score):
    engine.release(sequence)
engine.check_integrity()
