// Paged attention on CPU: one call stores a flat mixed step's keys and values and attends (decode and prefill together).
//
// Plain C ABI, no torch; threads are OpenMP's, so that they are torch's own where both load the same runtime. Pages that
// several sequences share are read once for all of them: a step is cut into segments, (sequences, positions), and a level's
// segments run side by side, each row carrying its online softmax (Milakov and Gimelshein, arXiv 1805.02867) from level to
// level. A row meets its keys in the same tiles and order whether or not pages are shared, so its result is the same bits.

#include <algorithm>
#include <cmath>
#include <vector>

#include "dots.h"

namespace leapgen {
namespace {

constexpr int64_t kTile = 16;       // keys scored together
constexpr int64_t kQueryBlock = 8;  // query tokens that go through the same keys together
constexpr int64_t kWiden = 9;       // from this many rows on, a bfloat16 tile is widened once for all

// Sequences first .. last - 1 attend to positions start .. end - 1, whose pages they share.
struct Segment {
  int64_t level, first, last, start, end;
};

// A step's plan as leapgen.engine.plan packs it: one run of int64.
struct Plan {
  int64_t sequences, tokens, page_size, max_pages, segments, layers;
  const int64_t *pools, *slots, *query_starts, *kv_lengths, *segment, *page_table;

  explicit Plan(const int64_t* p)
      : sequences(p[0]), tokens(p[1]), page_size(p[2]), max_pages(p[3]), segments(p[4]), layers(p[5]) {
    pools = p + 7;  // address of keys, address of values, for each layer in the order they run; p[6] is whose turn it is
    slots = pools + 2 * layers;
    query_starts = slots + tokens;
    kv_lengths = query_starts + sequences + 1;
    segment = kv_lengths + sequences;
    page_table = segment + 5 * segments;
  }
};

template <typename T>
struct Step {
  Plan plan;
  const T *query, *key, *value;  // [tokens, heads or kv_heads, dim], strides in elements, dim contiguous
  int64_t query_stride, query_head_stride, key_stride, key_head_stride, value_stride, value_head_stride;
  T* output;  // [tokens, heads, value_dim]
  T* keys;    // [pages, page_size, kv_heads, key_dim]
  T* values;  // [pages, page_size, kv_heads, value_dim]
  int64_t heads, kv_heads, key_dim, value_dim;
  const float* sinks;      // [heads] or null
  int64_t window;          // 0: none
  float scaling, softcap;  // softcap 0: none

  int64_t group() const { return heads / kv_heads; }
  int64_t kd() const { return round_to_steps<T>(key_dim); }
  int64_t vd() const { return round_to_steps<T>(value_dim); }
};

// What each (KV head, token, head of its group) carries along, in that order.
struct State {
  Scratch<float> query;    // [rows, kd], scaled, in the steps' order
  Scratch<float> sums;     // [rows, vd], in the steps' order
  std::vector<float> highest;  // [rows]
  Scratch<float> norms;    // [rows, kLanes], to be added up at the end
  std::vector<int64_t> position;  // [tokens]

  void make_room(int64_t tokens, int64_t rows, int64_t kd, int64_t vd) {
    if (static_cast<int64_t>(query.size()) < rows * kd) query.resize(rows * kd);
    if (static_cast<int64_t>(sums.size()) < rows * vd) sums.resize(rows * vd);
    if (static_cast<int64_t>(highest.size()) < rows) highest.resize(rows);
    if (static_cast<int64_t>(norms.size()) < rows * kLanes) norms.resize(rows * kLanes);
    if (static_cast<int64_t>(position.size()) < tokens) position.resize(tokens);
  }
};

// A row as floats in the steps' order, zeros past `dim`.
template <typename T>
INLINED void widen_row(const T* row, int64_t dim, int64_t width, float* out) {
  const int64_t whole = dim / Steps<T>::width * Steps<T>::width;
  widen(row, whole, out);
  if (whole < width) {
    std::memset(out + whole, 0, (width - whole) * sizeof(float));
    for (int64_t d = whole; d < dim; ++d) out[place<T>(d)] = to_float(row[d]);
  }
}

// Stores token t's keys and values in its slot and lays out its queries.
template <typename T>
FOR_EVERY_CPU void begin_token(const Step<T>& step, int64_t t, State& state) {
  const int64_t kd = step.kd(), vd = step.vd(), group = step.group(), slot = step.plan.slots[t];
  for (int64_t h = 0; h < step.kv_heads; ++h) {
    std::memcpy(step.keys + (slot * step.kv_heads + h) * step.key_dim,
                step.key + t * step.key_stride + h * step.key_head_stride, step.key_dim * sizeof(T));
    std::memcpy(step.values + (slot * step.kv_heads + h) * step.value_dim,
                step.value + t * step.value_stride + h * step.value_head_stride, step.value_dim * sizeof(T));
  }
  for (int64_t head = 0; head < step.heads; ++head) {
    const int64_t row = (head / group * step.plan.tokens + t) * group + head % group;
    const T* query = step.query + t * step.query_stride + head * step.query_head_stride;
    float* out = state.query.data() + row * kd;
    widen_row(query, step.key_dim, kd, out);
    for (int64_t d = 0; d < kd; d += kLanes) save(out + d, load(out + d) * step.scaling);
    std::memset(state.sums.data() + row * vd, 0, vd * sizeof(float));
    state.highest[row] = step.sinks ? step.sinks[head] : -INFINITY;
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

// sums[r] += weights[r] . values over `count` rows, for R rows of the left side; the width is P parts of kLanes.
template <typename T, int R, int P>
INLINED void accumulate_block(const float* weights, const T* values, int64_t stride, int64_t count, float* sums,
                              int64_t sums_stride) {
  constexpr int parts = Steps<T>::width / kLanes;
  Vector sum[R * P];
#pragma GCC unroll 16
  for (int i = 0; i < R * P; ++i) sum[i] = load(sums + i / P * sums_stride + i % P * kLanes);
  for (int64_t t = 0; t < count; ++t) {
    Vector weight[R];  // these, a part and the sums: the 16 registers of AVX2
#pragma GCC unroll 3
    for (int r = 0; r < R; ++r) weight[r] = splat(weights[r * kTile + t]);
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) {
      const Vector part = Steps<T>::part(values + t * stride + p / parts * Steps<T>::width, p % parts);
#pragma GCC unroll 3
      for (int r = 0; r < R; ++r) sum[r * P + p] += weight[r] * part;
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < R * P; ++i) save(sums + i / P * sums_stride + i % P * kLanes, sum[i]);
}

template <typename T, int R>
INLINED void accumulate(const float* weights, const T* values, int64_t stride, int64_t count, int64_t vd, float* sums) {
  int64_t d = 0;
  for (; d + 4 * kLanes <= vd; d += 4 * kLanes) {
    accumulate_block<T, R, 4>(weights, values + d, stride, count, sums + d, vd);
  }
  for (; d < vd; d += Steps<T>::width) {
    accumulate_block<T, R, Steps<T>::width / kLanes>(weights, values + d, stride, count, sums + d, vd);
  }
}

// `count` rows of a pool a multiple of the step wide: where they lie if they are that, else copied to the tile.
template <typename T>
INLINED const T* rows_of(const T* source, int64_t row_stride, int64_t count, int64_t dim, T* tile, int64_t* stride) {
  const int64_t width = round_to_steps<T>(dim);
  if (width == dim) {
    *stride = row_stride;
    return source;
  }
  *stride = width;
  for (int64_t t = 0; t < count; ++t) {
    std::memcpy(tile + t * width, source + t * row_stride, dim * sizeof(T));
    std::memset(static_cast<void*>(tile + t * width + dim), 0, (width - dim) * sizeof(T));
  }
  return tile;
}

// One row's scores of a tile become weights: keys outside hidden .. visible - 1 count for nothing.
INLINED void soften(float* weight, int64_t count, int64_t hidden, int64_t visible, float softcap, float* highest,
                    float* norms, float* sums, int64_t vd) {
  if (hidden >= visible) {
    for (int64_t t = 0; t < kTile; t += kLanes) save(weight + t, Vector{});
    return;
  }
  if (softcap > 0.0f) {
    for (int64_t t = 0; t < count; ++t) weight[t] = std::tanh(weight[t] / softcap) * softcap;
  }
  for (int64_t t = 0; t < hidden; ++t) weight[t] = -INFINITY;
  for (int64_t t = visible; t < kTile; ++t) weight[t] = -INFINITY;
  Vector tops = load(weight);
  for (int64_t t = kLanes; t < kTile; t += kLanes) tops = larger(tops, load(weight + t));
  tops = larger(tops, __builtin_shufflevector(tops, tops, 4, 5, 6, 7, 0, 1, 2, 3));
  tops = larger(tops, __builtin_shufflevector(tops, tops, 2, 3, 0, 1, 6, 7, 4, 5));
  tops = larger(tops, __builtin_shufflevector(tops, tops, 1, 0, 3, 2, 5, 4, 7, 6));
  const float top = std::max(*highest, tops[0]);
  Vector norm = load(norms);
  if (top > *highest) {
    const float shrink = exp_negative(splat(*highest - top))[0];
    norm *= shrink;
    for (int64_t d = 0; d < vd; d += kLanes) save(sums + d, load(sums + d) * shrink);
    *highest = top;
  }
  for (int64_t t = 0; t < kTile; t += kLanes) {
    const Vector score = load(weight + t);
    const Vector kept = score == -INFINITY ? Vector{} : exp_negative(score - top);
    save(weight + t, kept);
    norm += kept;
  }
  save(norms, norm);
}

// Query tokens first_token .. last_token - 1 of a segment go through its keys, for some of the KV heads.
struct Task {
  const int64_t* pages;  // of the segment's first sequence: all that it covers are shared
  int64_t start, end;    // positions
  int64_t first_token, last_token, kv_head, kv_heads;
};

// One KV head's part of a tile: `count` keys and values from `position` on. `next` is where this head's share of the next
// tile begins, keys and values: a tile of all heads is one run of memory, of which each head asks for an equal part.
template <typename T, typename E = T>
struct Tile {
  int64_t position, count;
  const E *keys, *values;  // as they lie in the pool, or widened to floats
  int64_t key_stride, value_stride;
  const T *next_keys, *next_values;
};

// R rows against a tile. F: the next tile is asked for while this one is worked on.
template <int R, bool F, typename T, typename E>
INLINED void attend_rows(const Step<T>& step, const Task& task, State& state, int64_t row, int64_t first_row,
                         const Tile<T, E>& tile) {
  const int64_t kd = step.kd(), vd = step.vd(), group = step.group(), count = tile.count, position = tile.position;
  float weights[R * kTile];
  float* sums = state.sums.data() + row * vd;
  for (int64_t t = 0; t < count; t += kColumns) {
    const E* right[kColumns];
    for (int64_t c = 0; c < kColumns; ++c) right[c] = tile.keys + std::min(t + c, count - 1) * tile.key_stride;
    float dots[R * kColumns];
    const T* next[2] = {tile.next_keys + t * step.key_dim, tile.next_values + t * step.value_dim};
    dot_block<E, R, F ? 2 : 0>(state.query.data() + row * kd, kd, right, kd, next, dots);
    for (int r = 0; r < R; ++r) save(weights + r * kTile + t, load_quad(dots + r * kColumns));
  }
  for (int r = 0; r < R; ++r) {
    const int64_t own = state.position[task.first_token + (row + r - first_row) / group];
    const int64_t visible = std::min(count, own + 1 - position);
    const int64_t hidden = step.window ? std::max<int64_t>(own - step.window + 1 - position, 0) : 0;
    soften(weights + r * kTile, count, hidden, visible, step.softcap, &state.highest[row + r],
           &state.norms[(row + r) * kLanes], sums + r * vd, vd);
  }
  accumulate<E, R>(weights, tile.values, tile.value_stride, count, vd, sums);
}

// Rows first_row .. last_row - 1 of one KV head against its part of a tile.
template <typename T, typename E>
INLINED void attend_tile(const Step<T>& step, const Task& task, State& state, int64_t first_row, int64_t last_row,
                         const Tile<T, E>& tile) {
  int64_t row = first_row;
  if (row + kRows <= last_row && task.kv_heads == step.kv_heads) {
    attend_rows<3, true>(step, task, state, row, first_row, tile);
    row += kRows;
  }
  for (; row + kRows <= last_row; row += kRows) attend_rows<3, false>(step, task, state, row, first_row, tile);
  if (row + 2 == last_row) {
    attend_rows<2, true>(step, task, state, row, first_row, tile);
  } else if (row < last_row) {
    attend_rows<1, true>(step, task, state, row, first_row, tile);
  }
}

// `buffer` is room for kTile keys and values as floats.
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
    const int64_t next_slot = next < end ? task.pages[next / page_size] * page_size + next % page_size : slot;
    for (int64_t h = task.kv_head; h < task.kv_head + task.kv_heads; ++h) {
      const T *keys = step.keys + slot * key_row + h * step.key_dim;
      const T *values = step.values + slot * value_row + h * step.value_dim;
      const T *next_keys = step.keys + next_slot * key_row + h * count * step.key_dim;
      const T *next_values = step.values + next_slot * value_row + h * count * step.value_dim;
      const int64_t first_row = (h * step.plan.tokens + task.first_token) * group, last_row = first_row + tokens * group;
      if (sizeof(T) < sizeof(float) && last_row - first_row >= kWiden) {
        const int64_t kd = step.kd(), vd = step.vd();
        for (int64_t t = 0; t < count; ++t) {
          widen_row(keys + t * key_row, step.key_dim, kd, buffer + t * kd);
          widen_row(values + t * value_row, step.value_dim, vd, buffer + kTile * kd + t * vd);
        }
        const Tile<T, float> tile{position, count, buffer, buffer + kTile * kd, kd, vd, next_keys, next_values};
        attend_tile(step, task, state, first_row, last_row, tile);
      } else {
        Tile<T> tile{position, count, nullptr, nullptr, 0, 0, next_keys, next_values};
        T* copies = reinterpret_cast<T*>(buffer);
        tile.keys = rows_of(keys, key_row, count, step.key_dim, copies, &tile.key_stride);
        tile.values = rows_of(values, value_row, count, step.value_dim, copies + kTile * step.kd(), &tile.value_stride);
        attend_tile(step, task, state, first_row, last_row, tile);
      }
    }
    position = next;
  }
}

// The tasks of each level.
template <typename T>
std::vector<std::vector<Task>> tasks_of(const Step<T>& step, int threads) {
  const Plan& plan = step.plan;
  std::vector<std::vector<Task>> levels;
  for (int pass = 0; pass < 2; ++pass) {
    std::vector<size_t> wholes;  // tasks with all KV heads together, by level
    for (const auto& level : levels) wholes.push_back(level.size());
    if (pass == 1) {
      for (auto& level : levels) level.clear();
    }
    for (int64_t i = 0; i < plan.segments; ++i) {
      const int64_t* s = plan.segment + 5 * i;
      const Segment segment{s[0], s[1], s[2], s[3], s[4]};
      if (static_cast<int64_t>(levels.size()) <= segment.level) levels.resize(segment.level + 1);
      // All KV heads in one task, so that pages are read in one piece, where there are tasks enough for every thread.
      const bool few = pass == 1 && wholes[segment.level] < static_cast<size_t>(2 * threads);
      const int64_t heads_each = few ? 1 : step.kv_heads;
      const int64_t first = plan.query_starts[segment.first], last = plan.query_starts[segment.last];
      const bool shared = segment.last - segment.first > 1;
      const int64_t block =
          shared ? std::max<int64_t>(kQueryBlock, (last - first + threads - 1) / threads) : kQueryBlock;
      for (int64_t token = first; token < last; token += block) {
        for (int64_t head = 0; head < step.kv_heads; head += heads_each) {
          levels[segment.level].push_back({plan.page_table + segment.first * plan.max_pages, segment.start, segment.end,
                                           token, std::min(token + block, last), head, heads_each});
        }
      }
    }
  }
  return levels;
}

template <typename T>
void attend_step(const Step<T>& step, int threads) {
  const Plan& plan = step.plan;
  thread_local State kept;  // between calls, so that no call waits for fresh memory
  State& state = kept;
  state.make_room(plan.tokens, plan.tokens * step.heads, step.kd(), step.vd());
  for (int64_t i = 0; i < plan.sequences; ++i) {
    const int64_t start = plan.query_starts[i], end = plan.query_starts[i + 1];
    for (int64_t t = start; t < end; ++t) state.position[t] = plan.kv_lengths[i] - end + t;
  }
  const auto levels = tasks_of(step, threads);
#pragma omp parallel num_threads(threads)
  {
    Scratch<float> buffer(kTile * (step.kd() + step.vd()));
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
    const leapgen::Plan parsed(plan);                                                                                    \
    const int64_t layer = plan[6]++, row = heads * value_dim;                                                            \
    std::memset(static_cast<void*>(output + parsed.tokens * row), 0, (tokens - parsed.tokens) * row * sizeof(T));        \
    T* keys = reinterpret_cast<T*>(parsed.pools[2 * layer]);                                                             \
    T* values = reinterpret_cast<T*>(parsed.pools[2 * layer + 1]);                                                       \
    leapgen::attend_step(leapgen::Step<T>{parsed, query, key, value, strides[0], strides[1], strides[2], strides[3],     \
                                          strides[4], strides[5], output, keys, values, heads, kv_heads, key_dim,        \
                                          value_dim, sinks, window, scaling, softcap},                                   \
                         threads);                                                                                       \
  }

LEAPGEN_EXPORT(float32, float)
LEAPGEN_EXPORT(bfloat16, leapgen::BFloat16)
