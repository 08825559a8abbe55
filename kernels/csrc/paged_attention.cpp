// Paged attention on CPU: one call stores a flat mixed step's keys and values and attends (decode and prefill together).
//
// Plain C ABI, no torch; threads are OpenMP's, so that they are torch's own where both load the same runtime. Pages that
// several sequences share are read once for all of them: a step is cut into segments, (sequences, positions), and a level's
// segments run side by side, each row carrying its online softmax (Milakov and Gimelshein, arXiv 1805.02867) from level to
// level. A row meets its keys in the same tiles and order whether or not pages are shared, so its result is the same bits.

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "dots.h"

namespace leapgen {
namespace {

constexpr int64_t kTile = 16;       // keys scored together
constexpr int64_t kFewest = 8, kMost = 32;  // query tokens that go through the same keys together
constexpr int kParts = kTile / kLanes;
constexpr int64_t kTurn = 12;       // from this many rows on, a tile is laid out anew once for all of them
constexpr int64_t kHeld = 48;       // rows whose scores of such a tile are held at a time
constexpr float kLowest = std::numeric_limits<float>::lowest();  // below every score but that of a key that is not seen

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

// Keys outside hidden .. visible - 1 count for nothing in one row's scores of a tile.
INLINED void mask(float* scores, int64_t count, int64_t hidden, int64_t visible, float softcap) {
  if (softcap > 0.0f) {
    for (int64_t t = 0; t < count; ++t) scores[t] = std::tanh(scores[t] / softcap) * softcap;
  }
  for (int64_t t = 0; t < std::min(hidden, kTile); ++t) scores[t] = -INFINITY;
  for (int64_t t = std::max<int64_t>(visible, 0); t < kTile; ++t) scores[t] = -INFINITY;
}

// If a row has met a greater score than any before, its weights so far shrink. It seldom has, so that the branch is guessed
// right, and nothing waits for the greatest of the scores.
template <int R>
INLINED bool any_higher(const float* scores, const float* highest) {
  IntVector higher{};
#pragma GCC unroll 8
  for (int i = 0; i < R * kParts; ++i) higher |= load(scores + i * kLanes) > splat(highest[i / kParts]);
  return any(higher);
}

INLINED void raise(const float* scores, float* highest, float* norms, float* sums, int64_t vd) {
  Vector tops = load(scores);
  for (int64_t t = kLanes; t < kTile; t += kLanes) tops = larger(tops, load(scores + t));
  tops = larger(tops, __builtin_shufflevector(tops, tops, 4, 5, 6, 7, 0, 1, 2, 3));
  tops = larger(tops, __builtin_shufflevector(tops, tops, 2, 3, 0, 1, 6, 7, 4, 5));
  tops = larger(tops, __builtin_shufflevector(tops, tops, 1, 0, 3, 2, 5, 4, 7, 6));
  const float top = std::max(*highest, tops[0]);
  Vector shrink[1] = {splat(*highest - top)};
  exp_negative<1>(shrink);
  save(norms, load(norms) * shrink[0]);
  for (int64_t d = 0; d < vd; d += kLanes) save(sums + d, load(sums + d) * shrink[0]);
  *highest = top;
}

// Scores of R rows become weights, which are added to norms.
template <int R>
INLINED void weigh(float* scores, float* highest, float* norms, float* sums, int64_t vd) {
  if (any_higher<R>(scores, highest)) {
    for (int r = 0; r < R; ++r) {
      if (R > 1 && !any_higher<1>(scores + r * kTile, highest + r)) continue;
      raise(scores + r * kTile, highest + r, norms + r * kLanes, sums + r * vd, vd);
    }
  }
  Vector weights[R * kParts];
#pragma GCC unroll 8
  for (int i = 0; i < R * kParts; ++i) weights[i] = load(scores + i * kLanes) - splat(highest[i / kParts]);
  exp_negative<R * kParts>(weights);
#pragma GCC unroll 8
  for (int i = 0; i < R * kParts; ++i) save(scores + i * kLanes, weights[i]);
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    Vector norm = load(norms + r * kLanes);
#pragma GCC unroll 2
    for (int i = 0; i < kParts; ++i) norm += weights[r * kParts + i];
    save(norms + r * kLanes, norm);
  }
}

// Query tokens first_token .. last_token - 1 of a segment go through its keys, for some of the KV heads.
struct Task {
  const int64_t* pages;  // of the segment's first sequence: all that it covers are shared
  int64_t start, end;    // positions
  int64_t first_token, last_token, kv_head, kv_heads;
};

// scores[r][t] = query row r . key t of a tile turned to columns [kd, kTile]. Every dot product is summed as dot_block sums
// it, lane by lane, so it is the same bits; but what was eight lanes is eight keys now, and nothing is left to add across.
template <int R>
INLINED void score_columns(const float* query, int64_t kd, const float* columns, float* scores) {
  constexpr int halves = kTile / kLanes;
  Vector quarter[R * halves], half[R * halves];
#pragma GCC unroll 4
  for (int pair = 0; pair < kLanes / 2; ++pair) {
    Vector sums[2][R * halves] = {};
    for (int64_t d = 2 * pair; d < kd; d += kLanes) {
#pragma GCC unroll 2
      for (int lane = 0; lane < 2; ++lane) {
        Vector column[halves];
#pragma GCC unroll 2
        for (int h = 0; h < halves; ++h) column[h] = load(columns + (d + lane) * kTile + h * kLanes);
#pragma GCC unroll 3
        for (int r = 0; r < R; ++r) {
          const Vector element = splat(query[r * kd + d + lane]);
#pragma GCC unroll 2
          for (int h = 0; h < halves; ++h) sums[lane][r * halves + h] += column[h] * element;
        }
      }
    }
#pragma GCC unroll 6
    for (int i = 0; i < R * halves; ++i) {
      const Vector sum = sums[0][i] + sums[1][i];
      if (pair % 2 == 0) {
        quarter[i] = sum;
      } else if (pair == 1) {
        half[i] = quarter[i] + sum;
      } else {
        save(scores + i * kLanes, half[i] + (quarter[i] + sum));
      }
    }
  }
}

// One KV head's part of a tile: `count` keys and values from `position` on. `next` is where this head's share of the next
// tile begins, keys and values: a tile of all heads is one run of memory, of which each head asks for an equal part.
template <typename T>
struct Tile {
  int64_t position, count;
  bool open;  // every row sees all kTile keys, and scores count as they are
  const T *keys, *values;
  int64_t key_stride, value_stride;
  const T *next_keys, *next_values;
};

// Scores of rows row .. row + rows - 1 become weights, and what the rows carry along follows.
template <typename T>
INLINED void soften(const Step<T>& step, const Task& task, State& state, int64_t first_row, int64_t row, int64_t rows,
                    const Tile<T>& tile, float* scores) {
  const int64_t vd = step.vd(), group = step.group();
  if (!tile.open) {
    int64_t token = task.first_token + (row - first_row) / group, head = (row - first_row) % group;
    for (int64_t r = 0; r < rows; ++r, ++head) {
      if (head == group) ++token, head = 0;
      const int64_t own = state.position[token], visible = std::min(tile.count, own + 1 - tile.position);
      const int64_t hidden = step.window ? own - step.window + 1 - tile.position : 0;
      if (hidden > 0 || visible < kTile || step.softcap > 0.0f) {
        mask(scores + r * kTile, tile.count, hidden, visible, step.softcap);
      }
    }
  }
  float *highest = state.highest.data() + row, *norms = state.norms.data() + row * kLanes;
  float* sums = state.sums.data() + row * vd;
  int64_t r = 0;
#pragma GCC unroll 1
  for (; r + kRows <= rows; r += kRows) {
    weigh<kRows>(scores + r * kTile, highest + r, norms + r * kLanes, sums + r * vd, vd);
  }
#pragma GCC unroll 1
  for (; r < rows; ++r) weigh<1>(scores + r * kTile, highest + r, norms + r * kLanes, sums + r * vd, vd);
}

// R rows against a tile. F: the next tile is asked for while this one is worked on.
template <int R, bool F, typename T>
INLINED void attend_rows(const Step<T>& step, const Task& task, State& state, int64_t row, int64_t first_row,
                         const Tile<T>& tile) {
  const int64_t kd = step.kd(), vd = step.vd(), count = tile.count;
  float weights[R * kTile];
  for (int64_t t = 0; t < count; t += kColumns) {
    const T* right[kColumns];
    for (int64_t c = 0; c < kColumns; ++c) right[c] = tile.keys + std::min(t + c, count - 1) * tile.key_stride;
    float dots[R * kColumns];
    const T* next[2] = {tile.next_keys + t * step.key_dim, tile.next_values + t * step.value_dim};
    dot_block<T, R, F ? 2 : 0>(state.query.data() + row * kd, kd, right, kd, next, dots);
    for (int r = 0; r < R; ++r) save(weights + r * kTile + t, load_quad(dots + r * kColumns));
  }
  soften(step, task, state, first_row, row, R, tile, weights);
  accumulate<T, R>(weights, tile.values, tile.value_stride, count, vd, state.sums.data() + row * vd);
}

// Rows first_row .. last_row - 1 of one KV head against its part of a tile.
template <typename T>
INLINED void attend_tile(const Step<T>& step, const Task& task, State& state, int64_t first_row, int64_t last_row,
                         const Tile<T>& tile) {
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

// The same for many rows: the tile is laid out anew, keys turned to columns, both as floats, and the rows go through it in
// three steps. Each is a function of its own, so that the compiler has all registers for its inner loop.
// `columns` [kd, kTile] and `values` [kTile, vd] are filled; `rows` is room for kTile keys.
template <typename T>
FOR_EVERY_CPU void turn(const Step<T>& step, const Tile<T>& tile, float* columns, float* values, float* rows) {
  const int64_t kd = step.kd(), vd = step.vd(), count = tile.count, line = 64 / sizeof(T);
  for (int64_t t = 0; t < count; ++t) {
    for (int64_t d = 0; d < step.key_dim; d += line) __builtin_prefetch(tile.next_keys + t * step.key_dim + d, 0, 2);
    for (int64_t d = 0; d < step.value_dim; d += line) __builtin_prefetch(tile.next_values + t * step.value_dim + d, 0, 2);
    widen_row(tile.keys + t * tile.key_stride, step.key_dim, kd, rows + t * kd);
    widen_row(tile.values + t * tile.value_stride, step.value_dim, vd, values + t * vd);
  }
  std::memset(rows + count * kd, 0, (kTile - count) * kd * sizeof(float));
  for (int64_t t = 0; t < kTile; t += kLanes) {
    for (int64_t d = 0; d < kd; d += kLanes) {
      Vector square[kLanes];
#pragma GCC unroll 8
      for (int i = 0; i < kLanes; ++i) square[i] = load(rows + (t + i) * kd + d);
      transpose(square);
#pragma GCC unroll 8
      for (int i = 0; i < kLanes; ++i) save(columns + (d + i) * kTile + t, square[i]);
    }
  }
}

FOR_EVERY_CPU void score_turned(const float* query, int64_t rows, int64_t kd, const float* columns, float* scores) {
  int64_t r = 0;
  for (; r + kRows <= rows; r += kRows) score_columns<3>(query + r * kd, kd, columns, scores + r * kTile);
  if (rows - r == 2) score_columns<2>(query + r * kd, kd, columns, scores + r * kTile);
  if (rows - r == 1) score_columns<1>(query + r * kd, kd, columns, scores + r * kTile);
}

template <typename T>
FOR_EVERY_CPU void soften_turned(const Step<T>& step, const Task& task, State& state, int64_t first_row, int64_t row,
                                 int64_t rows, const Tile<T>& tile, float* scores) {
  soften(step, task, state, first_row, row, rows, tile, scores);
}

FOR_EVERY_CPU void accumulate_turned(const float* weights, int64_t rows, const float* values, int64_t count, int64_t vd,
                                     float* sums) {
  int64_t r = 0;
  for (; r + kRows <= rows; r += kRows) accumulate<float, 3>(weights + r * kTile, values, vd, count, vd, sums + r * vd);
  if (rows - r == 2) accumulate<float, 2>(weights + r * kTile, values, vd, count, vd, sums + r * vd);
  if (rows - r == 1) accumulate<float, 1>(weights + r * kTile, values, vd, count, vd, sums + r * vd);
}

template <typename T>
void attend_turned(const Step<T>& step, const Task& task, State& state, int64_t first_row, int64_t last_row,
                   const Tile<T>& tile, float* room) {
  const int64_t kd = step.kd(), vd = step.vd(), count = tile.count;
  float *columns = room, *values = columns + kTile * kd;
  turn(step, tile, columns, values, values + kTile * vd);
  alignas(64) float scores[kHeld * kTile];
  for (int64_t row = first_row; row < last_row; row += kHeld) {
    const int64_t rows = std::min(kHeld, last_row - row);
    score_turned(state.query.data() + row * kd, rows, kd, columns, scores);
    soften_turned(step, task, state, first_row, row, rows, tile, scores);
    accumulate_turned(scores, rows, values, count, vd, state.sums.data() + row * vd);
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
      const int64_t block = std::clamp((last - first + threads - 1) / threads, kFewest, kMost);
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
