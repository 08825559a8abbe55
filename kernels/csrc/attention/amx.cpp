// Paged attention in bfloat16 by matrix tiles (AMX): the walk over pages of paged_attention.cpp with other arithmetic.
//
// Scores are K Q^T, keys read where they lie, so that a score tile has a key in each row and a query in each column, and the
// softmax works on sixteen queries at once with no sum across lanes. Weights are rounded to bfloat16 (their sum is not), as
// FlashAttention does it, and multiplied with values whose rows are interleaved in pairs. A row meets its keys in the same
// tiles and order whatever it is computed with, so its result is the same bits.

#include "attention/amx_tile.h"

namespace leapgen {
namespace {

// `following`: what the thread will probably do next, or null.
template <class Tiles>
void attend(Tiles& tiles, const Attention& a, const Task& task, const Task* following, Room& room) {
  const Step<BFloat16>& step = a.step;
  const int64_t rows = (task.last_token - task.first_token) * step.group(), key_width = a.key_steps * kStep;
  const auto own = std::minmax_element(a.state.position.begin() + task.first_token, a.state.position.begin() + task.last_token);
  const int64_t lowest = *own.first, end = std::min(task.end, *own.second + 1);
  int64_t position = task.start;
  if (step.window) position = std::max(position, (lowest - step.window + 1) / kKeys * kKeys);
  make_packs(a, task, rows, room);
  tiles.begin(std::min(rows, kSide));
  alignas(64) float scores[2][kKeys * kSide];
  alignas(64) uint32_t weights[kSide * kSide];
  for (; position < end; position += kKeys) {
    const int64_t count = std::min(kKeys, end - position);
    const bool open = count == kKeys && position + kKeys <= lowest + 1 && !step.window && step.softcap <= 0.0f;
    const Sight sight{open, static_cast<int32_t>(position), static_cast<int32_t>(count), static_cast<int32_t>(step.window),
                      step.scaling, step.softcap};
    Ahead ahead = following && position + kKeys >= end
                      ? next_of(a, *following, following->start, following->end, room.packs)
                      : next_of(a, task, position + kKeys, end, room.packs);
    Rows keys[kSide];
    int64_t found = -1;  // the first head of those whose keys these are
    const auto score_pack = [&](size_t p) INLINE {
      const Pack& pack = room.packs[p];
      for (int64_t i = 0; i < pack.heads && pack.first_head != found; ++i) {
        keys[i] = rows_of(a, task, step.keys, pack.first_head + i, step.key_dim, key_width, position, count,
                          room.keys.data() + i * kKeys * key_width);
      }
      found = pack.first_head;
      score(tiles, a, pack, keys, ahead, scores[p % 2]);
    };
    int64_t done = -1;  // the last head whose values lie interleaved
    score_pack(0);
    for (size_t p = 0; p < room.packs.size(); ++p) {
      Pack& pack = room.packs[p];
      if (p + 1 < room.packs.size()) score_pack(p + 1);  // matrix tiles have something to do meanwhile
      run(tiles, Soften{sight, pack, a.value_width, ahead, scores[p % 2], weights});
      for (int64_t i = 0; i < pack.heads; ++i) {
        if (pack.first_head + i != done) {
          const Rows values = rows_of(a, task, step.values, pack.first_head + i, step.value_dim, a.value_width, position, count,
                                      room.values.data());
          interleave(values, count, a.value_width, ahead, room.pairs.data());
          done = pack.first_head + i;
        }
        accumulate(tiles, a, pack, i, weights, room.pairs.data(), ahead);
      }
    }
  }
  for (const Pack& pack : room.packs) end_pack(a, task, pack);
}

template <class Tiles>
void attend_step(const Step<BFloat16>& step, int threads) {
  const Plan& plan = step.plan;
  thread_local State kept;  // between calls, so that no call waits for fresh memory
  const Attention a(step, kept);
  const size_t rows = plan.tokens * step.heads;
  if (kept.sums.size() < rows * a.value_width) kept.sums.resize(rows * a.value_width);
  if (kept.highest.size() < rows) kept.highest.resize(rows), kept.norms.resize(rows);
  positions_of(plan, kept.position);
  const auto levels = tasks_of(plan, step.kv_heads, threads);
#pragma omp parallel num_threads(threads)
  {
    Tiles tiles;
    thread_local Room room;
    room.keys.resize(kSide * kKeys * a.key_steps * kStep);
    room.values.resize(kKeys * a.value_width);
    room.pairs.resize(a.value_width * kSide);
#pragma omp for schedule(static)
    for (int64_t t = 0; t < plan.tokens; ++t) store_token(step, t);
    for (const auto& tasks : levels) {
#pragma omp for schedule(dynamic)
      for (size_t i = 0; i < tasks.size(); ++i) {
        const size_t following = i + threads;
        attend(tiles, a, tasks[i], following < tasks.size() ? &tasks[following] : nullptr, room);
      }
    }
    tiles.end();
  }
}

}  // namespace
}  // namespace leapgen

// As leapgen_attend_bfloat16, for scaling > 0: with the machine's tiles, or with the model of them.
#define LEAPGEN_EXPORT(NAME, TILES)                                                                                       \
  extern "C" __attribute__((visibility("default"))) void leapgen_attend_##NAME(                                           \
      int64_t* plan, const leapgen::BFloat16* query, const leapgen::BFloat16* key, const leapgen::BFloat16* value,        \
      const int64_t* strides, leapgen::BFloat16* output, int64_t tokens, int64_t heads, int64_t kv_heads,                 \
      int64_t key_dim, int64_t value_dim, const float* sinks, int64_t window, float scaling, float softcap,               \
      int threads) {                                                                                                      \
    leapgen::attend_step<leapgen::TILES>(                                                                                 \
        leapgen::step_of(plan, query, key, value, strides, output, tokens, heads, kv_heads, key_dim, value_dim, sinks,    \
                         window, scaling, softcap),                                                                       \
        threads);                                                                                                         \
  }

LEAPGEN_EXPORT(amx, HardwareTiles)
LEAPGEN_EXPORT(amx_model, ModelTiles)
