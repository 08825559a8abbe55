// Rows of queries against one tile of keys and values, by one of two ways that give the same bits: a few rows read the tile
// where it lies; for many it is laid out anew, once for all of them.

#pragma once

#include <algorithm>
#include <cmath>

#include "attention/step.h"

namespace leapgen {
namespace {

constexpr int64_t kTile = 16;  // keys scored together
constexpr int kParts = kTile / kLanes;
constexpr int64_t kHeld = 48;  // rows whose scores of a tile that is laid out anew are held at a time

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

}  // namespace
}  // namespace leapgen
