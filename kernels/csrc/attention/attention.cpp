// Paged attention on CPU: one call stores a flat mixed step's keys and values and attends (decode and prefill together).
//
// Plain C ABI, no torch; threads are OpenMP's, so that they are torch's own where both load the same runtime. Pages that
// several sequences share are read once for all of them: a step is cut into segments, (sequences, positions), and a level's
// segments run side by side, each row carrying its online softmax (Milakov and Gimelshein, arXiv 1805.02867) from level to
// level. A row meets its keys in the same tiles and order whether or not pages are shared, so its result is the same bits.

#include <algorithm>
#include <vector>

#include "attention/tile.h"

namespace leapgen {
namespace {

constexpr int64_t kTurn = 12;  // from this many rows on, a tile is laid out anew once for all of them

// Stores token t's keys and values in its slot and lays out its queries.
template <typename T>
FOR_EVERY_CPU void begin_token(const Step<T>& step, int64_t t, State& state) {
  const int64_t kd = step.kd(), vd = step.vd(), group = step.group();
  store_token(step, t);
  for (int64_t head = 0; head < step.heads; ++head) {
    const int64_t row = (head / group * step.plan.tokens + t) * group + head % group;
    const T* query = step.query + t * step.query_stride + head * step.query_head_stride;
    float* out = state.query.data() + row * kd;
    widen_row(query, step.key_dim, kd, out);
    for (int64_t d = 0; d < kd; d += kLanes) save(out + d, load(out + d) * step.scaling);
    std::memset(state.sums.data() + row * vd, 0, vd * sizeof(float));
    state.highest[row] = std::max(step.sinks ? step.sinks[head] : kLowest, kLowest);
    save(state.norms.data() + row * kLanes, Vector{step.sinks ? 1.0f : 0.0f});
  }
}

template <typename T>
FOR_EVERY_CPU void end_token(const Step<T>& step, int64_t t, const State& state) {
  const int64_t vd = step.vd(), group = step.group();
  for (int64_t head = 0; head < step.heads; ++head) {
    const int64_t row = (head / group * step.plan.tokens + t) * group + head % group;
    float norm = 0.0f;
    for (int64_t i = 0; i < kLanes; ++i) norm += state.norms[row * kLanes + i];
    const float *sums = state.sums.data() + row * vd, inverse = 1.0f / norm;
    T* out = step.output + (t * step.heads + head) * step.value_dim;
    int64_t d = 0;
    for (; d + Steps<T>::width <= step.value_dim; d += Steps<T>::width) {
      Vector parts[2];
      for (int p = 0; p < Steps<T>::width / kLanes; ++p) parts[p] = load(sums + d + p * kLanes) * inverse;
      Steps<T>::put(out + d, parts);
    }
    for (; d < step.value_dim; ++d) from_float(sums[place<T>(d)] * inverse, out + d);
  }
}

// `buffer` is room for kTile values and twice as many keys as floats.
template <typename T>
FOR_EVERY_CPU void attend(const Step<T>& step, const Task& task, State& state, float* buffer) {
  const int64_t group = step.group(), page_size = step.plan.page_size, tokens = task.last_token - task.first_token;
  int64_t lowest = state.position[task.first_token], highest = lowest;
  for (int64_t t = task.first_token; t < task.last_token; ++t) {
    lowest = std::min(lowest, state.position[t]);
    highest = std::max(highest, state.position[t]);
  }
  const int64_t key_row = step.kv_heads * step.key_dim, value_row = step.kv_heads * step.value_dim;
  const int64_t end = std::min(task.end, highest + 1);
  int64_t position = task.start;
  if (step.window) position = std::max(position, (lowest - step.window + 1) / kTile * kTile / page_size * page_size);
  while (position < end) {
    const int64_t offset = position % page_size;
    const int64_t count = std::min({kTile - position % kTile, page_size - offset, end - position});
    const int64_t slot = task.pages[position / page_size] * page_size + offset, next = position + count;
    const bool open = count == kTile && next <= lowest + 1 && !step.window && step.softcap <= 0.0f;
    const int64_t next_slot = next < end ? task.pages[next / page_size] * page_size + next % page_size : slot;
    for (int64_t h = task.kv_head; h < task.kv_head + task.kv_heads; ++h) {
      const T *keys = step.keys + slot * key_row + h * step.key_dim;
      const T *values = step.values + slot * value_row + h * step.value_dim;
      const T *next_keys = step.keys + next_slot * key_row + h * count * step.key_dim;
      const T *next_values = step.values + next_slot * value_row + h * count * step.value_dim;
      const int64_t first_row = (h * step.plan.tokens + task.first_token) * group, last_row = first_row + tokens * group;
      Tile<T> tile{position, count, open, keys, values, key_row, value_row, next_keys, next_values};
      if (last_row - first_row >= kTurn) {
        attend_turned(step, task, state, first_row, last_row, tile, buffer);
      } else {
        T* copies = reinterpret_cast<T*>(buffer);
        tile.keys = rows_of(keys, key_row, count, step.key_dim, copies, &tile.key_stride);
        tile.values = rows_of(values, value_row, count, step.value_dim, copies + kTile * step.kd(), &tile.value_stride);
        attend_tile(step, task, state, first_row, last_row, tile);
      }
    }
    position = next;
  }
}

template <typename T>
void attend_step(const Step<T>& step, int threads) {
  const Plan& plan = step.plan;
  thread_local State kept;  // between calls, so that no call waits for fresh memory
  State& state = kept;
  state.make_room(plan.tokens, plan.tokens * step.heads, step.kd(), step.vd());
  positions_of(plan, state.position);
  const auto levels = tasks_of(plan, step.kv_heads, threads);
#pragma omp parallel num_threads(threads)
  {
    Scratch<float> buffer(kTile * (2 * step.kd() + step.vd()));
#pragma omp for schedule(static)
    for (int64_t t = 0; t < plan.tokens; ++t) begin_token(step, t, state);
    for (const auto& tasks : levels) {
#pragma omp for schedule(dynamic)
      for (size_t i = 0; i < tasks.size(); ++i) {
        attend(step, tasks[i], state, buffer.data());
      }
    }
#pragma omp for schedule(static)
    for (int64_t t = 0; t < plan.tokens; ++t) end_token(step, t, state);
  }
}

}  // namespace
}  // namespace leapgen

#define LEAPGEN_EXPORT(NAME, T)                                                                                          \
  extern "C" __attribute__((visibility("default"))) void leapgen_attend_##NAME(                                          \
      int64_t* plan, const T* query, const T* key, const T* value, const int64_t* strides, T* output, int64_t tokens,    \
      int64_t heads, int64_t kv_heads, int64_t key_dim, int64_t value_dim, const float* sinks, int64_t window,           \
      float scaling, float softcap, int threads) {                                                                       \
    leapgen::attend_step(leapgen::step_of(plan, query, key, value, strides, output, tokens, heads, kv_heads, key_dim,    \
                                          value_dim, sinks, window, scaling, softcap),                                   \
                         threads);                                                                                       \
  }

LEAPGEN_EXPORT(float32, float)
LEAPGEN_EXPORT(bfloat16, leapgen::BFloat16)
