// Attention over pages: one call stores a flat mixed step's keys and values and attends, for decode and prefill together.
//
// Pages that several sequences share are read once for all of them: a step is cut into segments, the segments of a level run
// in parallel, and each row carries its online softmax from level to level. A row meets its keys in the same tiles and order
// whether or not its pages are shared, so its result has the same bits.
//
// Threads are OpenMP's: torch's own, where both load the same runtime.

#include <algorithm>
#include <vector>

#include "attention/tile.h"

namespace leapgen {
namespace {

constexpr int64_t kTransposeRows = 12;  // from this many rows on, a tile's keys are transposed

// Stores token t's keys and values in its slot, and starts its rows' state.
template <typename T>
FOR_EVERY_CPU void begin_token(const Step<T>& step, int64_t t, State& state) {
  const int64_t key_width = step.key_width(), value_width = step.value_width(), group = step.group();
  store_token(step, t);
  for (int64_t head = 0; head < step.heads; ++head) {
    const int64_t row = (head / group * step.plan.tokens + t) * group + head % group;
    const T* query = step.query + t * step.strides.query_token + head * step.strides.query_head;
    float* out = state.query.data() + row * key_width;
    widen_row(query, step.key_dim, key_width, out);
    for (int64_t d = 0; d < key_width; d += kLanes) save(out + d, load(out + d) * step.scaling);
    std::memset(state.sums.data() + row * value_width, 0, value_width * sizeof(float));
    state.highest[row] = std::max(step.sinks ? step.sinks[head] : kLowestScore, kLowestScore);
    save(state.norms.data() + row * kLanes, Vector{step.sinks ? 1.0f : 0.0f});
  }
}

template <typename T>
FOR_EVERY_CPU void end_token(const Step<T>& step, int64_t t, const State& state) {
  const int64_t value_width = step.value_width(), group = step.group();
  for (int64_t head = 0; head < step.heads; ++head) {
    const int64_t row = (head / group * step.plan.tokens + t) * group + head % group;
    float norm = 0.0f;
    for (int64_t i = 0; i < kLanes; ++i) norm += state.norms[row * kLanes + i];
    const float *sums = state.sums.data() + row * value_width, inverse = 1.0f / norm;
    T* out = step.output + (t * step.heads + head) * step.value_dim;
    int64_t d = 0;
    for (; d + SumOrder<T>::width <= step.value_dim; d += SumOrder<T>::width) {
      Vector parts[2];
      for (int p = 0; p < SumOrder<T>::width / kLanes; ++p) parts[p] = load(sums + d + p * kLanes) * inverse;
      SumOrder<T>::put(out + d, parts);
    }
    for (; d < step.value_dim; ++d) from_float(sums[sum_place<T>(d)] * inverse, out + d);
  }
}

// `scratch` holds kTileKeys values and twice as many keys, as floats.
template <typename T>
FOR_EVERY_CPU void attend(const Step<T>& step, const Task& task, State& state, float* scratch) {
  const int64_t group = step.group(), page_size = step.plan.page_size, tokens = task.last_token - task.first_token;
  int64_t lowest = state.position[task.first_token], highest = lowest;
  for (int64_t t = task.first_token; t < task.last_token; ++t) {
    lowest = std::min(lowest, state.position[t]);
    highest = std::max(highest, state.position[t]);
  }
  const int64_t key_row = step.kv_heads * step.key_dim, value_row = step.kv_heads * step.value_dim;
  const int64_t end = std::min(task.end, highest + 1);
  int64_t position = task.start;
  if (step.window) position = std::max(position, (lowest - step.window + 1) / kTileKeys * kTileKeys / page_size * page_size);
  while (position < end) {
    const int64_t offset = position % page_size;
    const int64_t count = std::min({kTileKeys - position % kTileKeys, page_size - offset, end - position});
    const int64_t slot = task.pages[position / page_size] * page_size + offset, next = position + count;
    const bool unmasked = count == kTileKeys && next <= lowest + 1 && !step.window && step.softcap <= 0.0f;
    const int64_t next_slot = next < end ? task.pages[next / page_size] * page_size + next % page_size : slot;
    for (int64_t h = task.kv_head; h < task.kv_head + task.kv_heads; ++h) {
      const T* keys = step.keys + slot * key_row + h * step.key_dim;
      const T* values = step.values + slot * value_row + h * step.value_dim;
      const T* next_keys = step.keys + next_slot * key_row + h * count * step.key_dim;
      const T* next_values = step.values + next_slot * value_row + h * count * step.value_dim;
      const int64_t first_row = (h * step.plan.tokens + task.first_token) * group, last_row = first_row + tokens * group;
      Tile<T> tile{position, count, unmasked, keys, values, key_row, value_row, next_keys, next_values};
      if (last_row - first_row >= kTransposeRows) {
        attend_transposed(step, task, state, first_row, last_row, tile, scratch);
      } else {
        T* copies = reinterpret_cast<T*>(scratch);
        tile.keys = padded_rows(keys, key_row, count, step.key_dim, copies, &tile.key_stride);
        tile.values =
            padded_rows(values, value_row, count, step.value_dim, copies + kTileKeys * step.key_width(), &tile.value_stride);
        attend_tile(step, task, state, first_row, last_row, tile);
      }
    }
    position = next;
  }
}

template <typename T>
void attend_step(const Step<T>& step, int threads) {
  const Plan& plan = step.plan;
  thread_local State kept;  // from call to call, so that none waits for fresh memory
  State& state = kept;
  state.reserve(plan.tokens, plan.tokens * step.heads, step.key_width(), step.value_width());
  positions_of(plan, state.position);
  const auto levels = tasks_of(plan, step.kv_heads, threads);
#pragma omp parallel num_threads(threads)
  {
    Scratch<float> scratch(kTileKeys * (2 * step.key_width() + step.value_width()));
#pragma omp for schedule(static)
    for (int64_t t = 0; t < plan.tokens; ++t) begin_token(step, t, state);
    for (const auto& tasks : levels) {
#pragma omp for schedule(dynamic)
      for (size_t i = 0; i < tasks.size(); ++i) {
        attend(step, tasks[i], state, scratch.data());
      }
    }
#pragma omp for schedule(static)
    for (int64_t t = 0; t < plan.tokens; ++t) end_token(step, t, state);
  }
}

}  // namespace

#define LEAPGEN_ATTEND(NAME, T)                                                                                            \
  void leapgen_attend_##NAME(int64_t* plan, const void* query, const void* key, const void* value, const Strides* strides, \
                             void* output, int64_t tokens, int64_t heads, int64_t kv_heads, int64_t key_dim,               \
                             int64_t value_dim, const float* sinks, int64_t window, float scaling, float softcap,          \
                             int threads) {                                                                                \
    attend_step(step_of<T>(plan, query, key, value, strides, output, tokens, heads, kv_heads, key_dim, value_dim, sinks,   \
                           window, scaling, softcap),                                                                      \
                threads);                                                                                                  \
  }

LEAPGEN_ATTEND(float32, float)
LEAPGEN_ATTEND(bfloat16, BFloat16)

}  // namespace leapgen
