"""Triton kernels over paged KV: the store, attention split along the keys, and the merge of its parts.

Flash-decoding (Dao et al., 2023) on a list of tiles. A tile is a range of the step's tokens and a range of positions whose
pages all of these tokens share. So a prefix that several sequences share is read once for all of them (Hydragen, arXiv
2402.05099), and prefill, decode and mixed steps are one kernel. Softmax is online (Milakov and Gimelshein, arXiv
1805.02867), in powers of two. Each tile leaves a part of a row's softmax; a row's parts are merged at the end.

Importing this needs Triton. If TRITON_INTERPRET=1 is in the environment by then, the kernels run on CPU tensors.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)

# A tile is eight int32: first token, tokens, where its sequence's pages begin in the list of pages, first position, last
# position + 1, number of its part, and two that are unused. A tile without tokens is padding.
TILE_FIELDS = tl.constexpr(8)


@triton.jit
def store(key, value, keys, values, slots, key_token, key_head, value_token, value_head, kv_heads,
          KEY_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, KEY_BLOCK: tl.constexpr, VALUE_BLOCK: tl.constexpr):
    """Stores one token's keys and values, of all heads, in its slot; a slot below 0 is padding."""
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + token)
    if slot >= 0:
        i = tl.arange(0, KEY_BLOCK)
        inside = i < kv_heads * KEY_DIM
        row = tl.load(key + token * key_token + i // KEY_DIM * key_head + i % KEY_DIM, mask=inside, other=0.0)
        tl.store(keys + slot * kv_heads * KEY_DIM + i, row, mask=inside)
        j = tl.arange(0, VALUE_BLOCK)
        inside = j < kv_heads * VALUE_DIM
        row = tl.load(value + token * value_token + j // VALUE_DIM * value_head + j % VALUE_DIM, mask=inside, other=0.0)
        tl.store(values + slot * kv_heads * VALUE_DIM + j, row, mask=inside)


@triton.jit
def dot(left, right, WIDEN: tl.constexpr):
    """left @ right with float32 sums. WIDEN: of widened operands, as the interpreter has no bfloat16 product."""
    if WIDEN:
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, input_precision="ieee")


@triton.jit
def attend(query, keys, values, pages, tiles, positions, part_starts, sums, tops, norms, query_token, query_head,
           kv_heads, scaling, softcap, window, PAGE_SIZE: tl.constexpr, KEY_DIM: tl.constexpr, VALUE_DIM: tl.constexpr,
           KEY_BLOCK: tl.constexpr, VALUE_BLOCK: tl.constexpr, GROUP: tl.constexpr, HEADS: tl.constexpr,
           ROWS: tl.constexpr, COLUMNS: tl.constexpr, STAGES: tl.constexpr, CAPPED: tl.constexpr,
           WINDOWED: tl.constexpr, WIDEN: tl.constexpr):
    """Attends for one tile, one KV head, and HEADS heads of its group; rows are (token, head), head fastest.

    Writes each row's part: the weighted sum of values, the highest score (in powers of two) and the sum of weights.
    """
    head_parts: tl.constexpr = (GROUP + HEADS - 1) // HEADS
    across = kv_heads * head_parts  # neighbouring programs take the heads of one tile: their keys are neighbours
    tile = tiles + tl.program_id(0) // across * TILE_FIELDS
    kv_head = tl.program_id(0) % across // head_parts
    head_part = tl.program_id(0) % head_parts
    num_tokens = tl.load(tile + 1)
    if num_tokens > 0:
        first_token, own_pages = tl.load(tile), pages + tl.load(tile + 2)
        start, end, part = tl.load(tile + 3), tl.load(tile + 4), tl.load(tile + 5)
        row = tl.arange(0, ROWS)
        head_in_group = row % HEADS + head_part * HEADS
        real = (row // HEADS < num_tokens) & (head_in_group < GROUP)
        token = (first_token + row // HEADS).to(tl.int64)
        head = kv_head * GROUP + head_in_group
        k_dim, v_dim, column = tl.arange(0, KEY_BLOCK), tl.arange(0, VALUE_BLOCK), tl.arange(0, COLUMNS)
        q = tl.load(query + token[:, None] * query_token + head[:, None] * query_head + k_dim[None, :],
                    mask=real[:, None] & (k_dim < KEY_DIM)[None, :], other=0.0)  # [ROWS, KEY_BLOCK]
        position = tl.load(positions + token, mask=real, other=-1)
        end = tl.minimum(end, tl.max(position, axis=0) + 1)
        if WINDOWED:
            lowest = tl.min(tl.where(real, position, 2147483647), axis=0)
            start = tl.maximum(start, lowest - window + 1)
        top = tl.full([ROWS], float("-inf"), tl.float32)
        norm = tl.zeros([ROWS], tl.float32)
        total = tl.zeros([ROWS, VALUE_BLOCK], tl.float32)
        for first in tl.range(start, end, COLUMNS, num_stages=STAGES):
            at = first + column
            inside = at < end
            page = tl.load(own_pages + at // PAGE_SIZE, mask=inside, other=0)
            slot = (page.to(tl.int64) * PAGE_SIZE + at % PAGE_SIZE) * kv_heads + kv_head
            k = tl.load(keys + slot[None, :] * KEY_DIM + k_dim[:, None],
                        mask=inside[None, :] & (k_dim < KEY_DIM)[:, None], other=0.0)  # [KEY_BLOCK, COLUMNS]
            v = tl.load(values + slot[:, None] * VALUE_DIM + v_dim[None, :],
                        mask=inside[:, None] & (v_dim < VALUE_DIM)[None, :], other=0.0)  # [COLUMNS, VALUE_BLOCK]
            score = dot(q, k, WIDEN) * scaling
            if CAPPED:
                score = softcap * (1.0 - 2.0 / (tl.exp2(score * (2.0 * LOG2E / softcap)) + 1.0))  # softcap * tanh
            seen = inside[None, :] & (at[None, :] <= position[:, None])
            if WINDOWED:
                seen = seen & (at[None, :] > position[:, None] - window)
            score = tl.where(seen, score * LOG2E, float("-inf"))
            higher = tl.maximum(top, tl.max(score, axis=1))
            level = tl.where(higher == float("-inf"), 0.0, higher)  # where no key is seen yet, weights are 0, not NaN
            weight = tl.exp2(score - level[:, None])
            shrink = tl.exp2(top - level)
            norm = norm * shrink + tl.sum(weight, axis=1)
            total = total * shrink[:, None] + dot(weight.to(v.dtype), v, WIDEN)
            top = higher
        place = (tl.load(part_starts + token, mask=real, other=0) + part).to(tl.int64) * kv_heads * GROUP + head
        tl.store(sums + place[:, None] * VALUE_DIM + v_dim[None, :], total,
                 mask=real[:, None] & (v_dim < VALUE_DIM)[None, :])
        tl.store(tops + place, top, mask=real)
        tl.store(norms + place, norm, mask=real)


@triton.jit
def merge(sums, tops, norms, part_starts, sinks, output, heads, VALUE_DIM: tl.constexpr,
          VALUE_BLOCK: tl.constexpr, PARTS: tl.constexpr, SINKS: tl.constexpr):
    """Merges the parts of one (token, head) to its output; a sink is a weight without a value. No parts give zeros."""
    row = tl.program_id(0).to(tl.int64)
    token, head = row // heads, row % heads
    first, last = tl.load(part_starts + token), tl.load(part_starts + token + 1)
    dim = tl.arange(0, VALUE_BLOCK)
    top = tl.full([1], float("-inf"), tl.float32)
    norm = tl.zeros([1], tl.float32)
    if SINKS:
        top = tl.zeros([1], tl.float32) + tl.load(sinks + head).to(tl.float32) * LOG2E
        norm = tl.full([1], 1.0, tl.float32)
    total = tl.zeros([VALUE_BLOCK], tl.float32)
    for start in range(first, last, PARTS):
        part = start + tl.arange(0, PARTS)
        inside = part < last
        place = part.to(tl.int64) * heads + head
        its_top = tl.load(tops + place, mask=inside, other=float("-inf"))
        its_norm = tl.load(norms + place, mask=inside, other=0.0)
        its_sums = tl.load(sums + place[:, None] * VALUE_DIM + dim[None, :],
                           mask=inside[:, None] & (dim < VALUE_DIM)[None, :], other=0.0)
        higher = tl.maximum(top, tl.max(its_top, axis=0))
        level = tl.where(higher == float("-inf"), 0.0, higher)
        weight = tl.exp2(its_top - level)
        shrink = tl.exp2(top - level)
        norm = norm * shrink + tl.sum(its_norm * weight, axis=0)
        total = total * shrink + tl.sum(its_sums * weight[:, None], axis=0)
        top = higher
    result = total / tl.where(norm == 0.0, 1.0, norm)
    tl.store(output + row * VALUE_DIM + dim, result.to(output.dtype.element_ty), mask=dim < VALUE_DIM)
