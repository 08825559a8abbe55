// Attention over pages in bfloat16 by matrix tiles (AMX): the walk of attention.cpp with other arithmetic.
//
// Scores are K Q^T, with keys read in place: a score tile has a key in each row and a query in each column, and the softmax
// works on sixteen queries at once without sums across lanes. Weights are rounded to bfloat16 (their sum is not), as in
// FlashAttention, and multiplied with values whose rows are interleaved in pairs. A row meets its keys in the same tiles and
// order whatever it is computed with, so its result has the same bits.

#include "attention/amx_tile.h"

namespace leapgen {
namespace {

// `following` is the thread's next task, as far as it can be foreseen, or null.
template <class Tiles>
void attend(Tiles& tiles, const Attention& a, const Task& task, const Task* following, Workspace& workspace) {
  const Step<BFloat16>& step = a.step;
  const int64_t rows = (task.last_token - task.first_token) * step.group(), key_width = a.key_steps * kTileDepth;
  const auto own =
      std::minmax_element(a.state.position.begin() + task.first_token, a.state.position.begin() + task.last_token);
  const int64_t lowest = *own.first, end = std::min(task.end, *own.second + 1);
  int64_t position = task.start;
  if (step.window) position = std::max(position, (lowest - step.window + 1) / kAmxTileKeys * kAmxTileKeys);
  make_packs(a, task, rows, workspace);
  tiles.begin(std::min(rows, kSide));
  alignas(64) float scores[2][kAmxTileKeys * kSide];
  alignas(64) uint32_t weights[kSide * kSide];
  for (; position < end; position += kAmxTileKeys) {
    const int64_t count = std::min(kAmxTileKeys, end - position);
    const bool unmasked =
        count == kAmxTileKeys && position + kAmxTileKeys <= lowest + 1 && !step.window && step.softcap <= 0.0f;
    const Mask mask{unmasked,
                    static_cast<int32_t>(position),
                    static_cast<int32_t>(count),
                    static_cast<int32_t>(step.window),
                    step.scaling,
                    step.softcap};
    Prefetch prefetch = following && position + kAmxTileKeys >= end
                            ? prefetch_of(a, *following, following->start, following->end, workspace.packs)
                            : prefetch_of(a, task, position + kAmxTileKeys, end, workspace.packs);
    TileRows keys[kSide];
    int64_t keys_head = -1;  // the first head that `keys` are of
    const auto score_pack = [&](size_t p) INLINE {
      const Pack& pack = workspace.packs[p];
      for (int64_t i = 0; i < pack.heads && pack.first_head != keys_head; ++i) {
        keys[i] = tile_rows(a, task, step.keys, pack.first_head + i, step.key_dim, key_width, position, count,
                            workspace.keys.data() + i * kAmxTileKeys * key_width);
      }
      keys_head = pack.first_head;
      score(tiles, a, pack, keys, prefetch, scores[p % 2]);
    };
    int64_t values_head = -1;  // the head whose values are interleaved
    score_pack(0);
    for (size_t p = 0; p < workspace.packs.size(); ++p) {
      Pack& pack = workspace.packs[p];
      if (p + 1 < workspace.packs.size()) score_pack(p + 1);  // the tiles' products overlap with the softmax
      run(tiles, Softmax{mask, pack, a.value_width, prefetch, scores[p % 2], weights});
      for (int64_t i = 0; i < pack.heads; ++i) {
        if (pack.first_head + i != values_head) {
          const TileRows values = tile_rows(a, task, step.values, pack.first_head + i, step.value_dim, a.value_width,
                                            position, count, workspace.values.data());
          interleave(values, count, a.value_width, prefetch, workspace.pairs.data());
          values_head = pack.first_head + i;
        }
        accumulate(tiles, a, pack, i, weights, workspace.pairs.data(), prefetch);
      }
    }
  }
  for (const Pack& pack : workspace.packs) end_pack(a, task, pack);
}

template <class Tiles>
void attend_step(const Step<BFloat16>& step, int threads) {
  const Plan& plan = step.plan;
  thread_local State kept;  // from call to call, so that none waits for fresh memory
  const Attention a(step, kept);
  const size_t rows = plan.tokens * step.heads;
  if (kept.sums.size() < rows * a.value_width) kept.sums.resize(rows * a.value_width);
  if (kept.highest.size() < rows) kept.highest.resize(rows), kept.norms.resize(rows);
  positions_of(plan, kept.position);
  const auto levels = tasks_of(plan, step.kv_heads, threads);
#pragma omp parallel num_threads(threads)
  {
    Tiles tiles;
    thread_local Workspace workspace;
    workspace.keys.resize(kSide * kAmxTileKeys * a.key_steps * kTileDepth);
    workspace.values.resize(kAmxTileKeys * a.value_width);
    workspace.pairs.resize(a.value_width * kSide);
#pragma omp for schedule(static)
    for (int64_t t = 0; t < plan.tokens; ++t) store_token(step, t);
    for (const auto& tasks : levels) {
#pragma omp for schedule(dynamic)
      for (size_t i = 0; i < tasks.size(); ++i) {
        const size_t following = i + threads;
        attend(tiles, a, tasks[i], following < tasks.size() ? &tasks[following] : nullptr, workspace);
      }
    }
    tiles.end();
  }
}

}  // namespace

#define LEAPGEN_ATTEND(NAME, TILES)                                                                                        \
  void leapgen_attend_##NAME(int64_t* plan, const void* query, const void* key, const void* value, const Strides* strides, \
                             void* output, int64_t tokens, int64_t heads, int64_t kv_heads, int64_t key_dim,               \
                             int64_t value_dim, const float* sinks, int64_t window, float scaling, float softcap,          \
                             int threads) {                                                                                \
    attend_step<TILES>(step_of<BFloat16>(plan, query, key, value, strides, output, tokens, heads, kv_heads, key_dim,       \
                                         value_dim, sinks, window, scaling, softcap),                                      \
                       threads);                                                                                           \
  }

LEAPGEN_ATTEND(amx, HardwareTiles)
LEAPGEN_ATTEND(amx_model, ModelTiles)

}  // namespace leapgen
