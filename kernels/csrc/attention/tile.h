// Rows of queries against one tile of keys and values. A few rows read the tile in place; for many its keys are transposed
// once. Both ways give the same bits.

#pragma once

#include <algorithm>

#include "attention/softmax.h"
#include "attention/step.h"

namespace leapgen {
namespace {

constexpr int64_t kScoreRows = 48;  // rows that are scored at a time against a transposed tile

// One KV head's part of a tile: `count` keys and values from `position` on. A tile of all heads is contiguous in memory, and
// each head prefetches an equal share of the next one, from next_keys and next_values on.
template <typename T>
struct Tile {
  int64_t position, count;
  bool unmasked;  // every row sees all kTileKeys keys, without softcap
  const T *keys, *values;
  int64_t key_stride, value_stride;
  const T *next_keys, *next_values;
};

// sums[r] += weights[r] . values over `count` keys, for R rows and P vectors of dims.
template <typename T, int R, int P>
INLINED void accumulate_block(const float* weights, const T* values, int64_t stride, int64_t count, float* sums,
                              int64_t sums_stride) {
  constexpr int parts = SumOrder<T>::width / kLanes;
  Vector sum[R * P];
#pragma GCC unroll 16
  for (int i = 0; i < R * P; ++i) sum[i] = load(sums + i / P * sums_stride + i % P * kLanes);
  for (int64_t t = 0; t < count; ++t) {
    Vector weight[R];  // with one part and the sums they fill the 16 registers of AVX2
#pragma GCC unroll 3
    for (int r = 0; r < R; ++r) weight[r] = splat(weights[r * kTileKeys + t]);
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) {
      const Vector part = SumOrder<T>::part(values + t * stride + p / parts * SumOrder<T>::width, p % parts);
#pragma GCC unroll 3
      for (int r = 0; r < R; ++r) sum[r * P + p] += weight[r] * part;
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < R * P; ++i) save(sums + i / P * sums_stride + i % P * kLanes, sum[i]);
}

template <typename T, int R>
INLINED void accumulate(const float* weights, const T* values, int64_t stride, int64_t count, int64_t value_width,
                        float* sums) {
  int64_t d = 0;
  for (; d + 4 * kLanes <= value_width; d += 4 * kLanes) {
    accumulate_block<T, R, 4>(weights, values + d, stride, count, sums + d, value_width);
  }
  for (; d < value_width; d += SumOrder<T>::width) {
    accumulate_block<T, R, SumOrder<T>::width / kLanes>(weights, values + d, stride, count, sums + d, value_width);
  }
}

// `count` rows of a pool, padded to the width: in place where they need no padding, else copied to `tile`.
template <typename T>
INLINED const T* padded_rows(const T* source, int64_t row_stride, int64_t count, int64_t dim, T* tile, int64_t* stride) {
  const int64_t width = round_to_width<T>(dim);
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

// Masks the scores of rows row .. row + rows - 1, replaces them by weights, and updates the rows' state.
template <typename T>
INLINED void softmax_rows(const Step<T>& step, const Task& task, State& state, int64_t first_row, int64_t row, int64_t rows,
                          const Tile<T>& tile, float* scores) {
  const int64_t value_width = step.value_width(), group = step.group();
  if (!tile.unmasked) {
    int64_t token = task.first_token + (row - first_row) / group, head = (row - first_row) % group;
    for (int64_t r = 0; r < rows; ++r, ++head) {
      if (head == group) ++token, head = 0;
      const int64_t own = state.position[token], visible = std::min(tile.count, own + 1 - tile.position);
      const int64_t hidden = step.window ? own - step.window + 1 - tile.position : 0;
      if (hidden > 0 || visible < kTileKeys || step.softcap > 0.0f) {
        mask(scores + r * kTileKeys, tile.count, hidden, visible, step.softcap);
      }
    }
  }
  float *highest = state.highest.data() + row, *norms = state.norms.data() + row * kLanes;
  float* sums = state.sums.data() + row * value_width;
  int64_t r = 0;
#pragma GCC unroll 1
  for (; r + kDotRows <= rows; r += kDotRows) {
    weigh<kDotRows>(scores + r * kTileKeys, highest + r, norms + r * kLanes, sums + r * value_width, value_width);
  }
#pragma GCC unroll 1
  for (; r < rows; ++r) {
    weigh<1>(scores + r * kTileKeys, highest + r, norms + r * kLanes, sums + r * value_width, value_width);
  }
}

// R rows against a tile in place; Prefetch: they prefetch the next tile.
template <int R, bool Prefetch, typename T>
INLINED void attend_rows(const Step<T>& step, const Task& task, State& state, int64_t row, int64_t first_row,
                         const Tile<T>& tile) {
  const int64_t key_width = step.key_width(), value_width = step.value_width(), count = tile.count;
  float weights[R * kTileKeys];
  for (int64_t t = 0; t < count; t += kDotColumns) {
    const T* right[kDotColumns];
    for (int64_t c = 0; c < kDotColumns; ++c) right[c] = tile.keys + std::min(t + c, count - 1) * tile.key_stride;
    float dots[R * kDotColumns];
    const T* next[2] = {tile.next_keys + t * step.key_dim, tile.next_values + t * step.value_dim};
    dot_block<T, R, Prefetch ? 2 : 0>(state.query.data() + row * key_width, key_width, right, key_width, next, dots);
    for (int r = 0; r < R; ++r) save(weights + r * kTileKeys + t, load_quad(dots + r * kDotColumns));
  }
  softmax_rows(step, task, state, first_row, row, R, tile, weights);
  accumulate<T, R>(weights, tile.values, tile.value_stride, count, value_width, state.sums.data() + row * value_width);
}

// Rows first_row .. last_row - 1 of one KV head against its part of a tile, in place.
template <typename T>
INLINED void attend_tile(const Step<T>& step, const Task& task, State& state, int64_t first_row, int64_t last_row,
                         const Tile<T>& tile) {
  int64_t row = first_row;
  if (row + kDotRows <= last_row && task.kv_heads == step.kv_heads) {
    attend_rows<3, true>(step, task, state, row, first_row, tile);
    row += kDotRows;
  }
  for (; row + kDotRows <= last_row; row += kDotRows) attend_rows<3, false>(step, task, state, row, first_row, tile);
  if (row + 2 == last_row) {
    attend_rows<2, true>(step, task, state, row, first_row, tile);
  } else if (row < last_row) {
    attend_rows<1, true>(step, task, state, row, first_row, tile);
  }
}

// scores[r][t] = query row r . key t, for R rows and the transposed keys `columns` [key_width, kTileKeys]. A vector holds
// one lane of dot_block's sums for eight keys: dot products are added in the same order, so they have the same bits, and no
// sum across lanes is left.
template <int R>
INLINED void score_block(const float* query, int64_t key_width, const float* columns, float* scores) {
  constexpr int halves = kTileKeys / kLanes;
  Vector quarter[R * halves], half[R * halves];
#pragma GCC unroll 4
  for (int pair = 0; pair < kLanes / 2; ++pair) {
    Vector sums[2][R * halves] = {};
    for (int64_t d = 2 * pair; d < key_width; d += kLanes) {
#pragma GCC unroll 2
      for (int lane = 0; lane < 2; ++lane) {
        Vector column[halves];
#pragma GCC unroll 2
        for (int h = 0; h < halves; ++h) column[h] = load(columns + (d + lane) * kTileKeys + h * kLanes);
#pragma GCC unroll 3
        for (int r = 0; r < R; ++r) {
          const Vector element = splat(query[r * key_width + d + lane]);
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

// Many rows against a tile: keys are transposed to `columns` [key_width, kTileKeys], values widened to `values` [kTileKeys,
// value_width]; `rows` is scratch for kTileKeys keys. Rows are then scored, weighed and accumulated by a function each, so
// that each inner loop has all registers.
template <typename T>
FOR_EVERY_CPU void transpose_tile(const Step<T>& step, const Tile<T>& tile, float* columns, float* values, float* rows) {
  const int64_t key_width = step.key_width(), value_width = step.value_width(), count = tile.count, line = 64 / sizeof(T);
  for (int64_t t = 0; t < count; ++t) {
    for (int64_t d = 0; d < step.key_dim; d += line) __builtin_prefetch(tile.next_keys + t * step.key_dim + d, 0, 2);
    for (int64_t d = 0; d < step.value_dim; d += line) __builtin_prefetch(tile.next_values + t * step.value_dim + d, 0, 2);
    widen_row(tile.keys + t * tile.key_stride, step.key_dim, key_width, rows + t * key_width);
    widen_row(tile.values + t * tile.value_stride, step.value_dim, value_width, values + t * value_width);
  }
  std::memset(rows + count * key_width, 0, (kTileKeys - count) * key_width * sizeof(float));
  for (int64_t t = 0; t < kTileKeys; t += kLanes) {
    for (int64_t d = 0; d < key_width; d += kLanes) {
      Vector square[kLanes];
#pragma GCC unroll 8
      for (int i = 0; i < kLanes; ++i) square[i] = load(rows + (t + i) * key_width + d);
      transpose(square);
#pragma GCC unroll 8
      for (int i = 0; i < kLanes; ++i) save(columns + (d + i) * kTileKeys + t, square[i]);
    }
  }
}

FOR_EVERY_CPU void score_transposed(const float* query, int64_t rows, int64_t key_width, const float* columns,
                                    float* scores) {
  int64_t r = 0;
  for (; r + kDotRows <= rows; r += kDotRows) {
    score_block<3>(query + r * key_width, key_width, columns, scores + r * kTileKeys);
  }
  if (rows - r == 2) score_block<2>(query + r * key_width, key_width, columns, scores + r * kTileKeys);
  if (rows - r == 1) score_block<1>(query + r * key_width, key_width, columns, scores + r * kTileKeys);
}

template <typename T>
FOR_EVERY_CPU void softmax_transposed(const Step<T>& step, const Task& task, State& state, int64_t first_row, int64_t row,
                                      int64_t rows, const Tile<T>& tile, float* scores) {
  softmax_rows(step, task, state, first_row, row, rows, tile, scores);
}

FOR_EVERY_CPU void accumulate_transposed(const float* weights, int64_t rows, const float* values, int64_t count,
                                         int64_t value_width, float* sums) {
  int64_t r = 0;
  for (; r + kDotRows <= rows; r += kDotRows) {
    accumulate<float, 3>(weights + r * kTileKeys, values, value_width, count, value_width, sums + r * value_width);
  }
  if (rows - r == 2) {
    accumulate<float, 2>(weights + r * kTileKeys, values, value_width, count, value_width, sums + r * value_width);
  }
  if (rows - r == 1) {
    accumulate<float, 1>(weights + r * kTileKeys, values, value_width, count, value_width, sums + r * value_width);
  }
}

template <typename T>
void attend_transposed(const Step<T>& step, const Task& task, State& state, int64_t first_row, int64_t last_row,
                       const Tile<T>& tile, float* scratch) {
  const int64_t key_width = step.key_width(), value_width = step.value_width(), count = tile.count;
  float *columns = scratch, *values = columns + kTileKeys * key_width;
  transpose_tile(step, tile, columns, values, values + kTileKeys * value_width);
  alignas(64) float scores[kScoreRows * kTileKeys];
  for (int64_t row = first_row; row < last_row; row += kScoreRows) {
    const int64_t rows = std::min(kScoreRows, last_row - row);
    score_transposed(state.query.data() + row * key_width, rows, key_width, columns, scores);
    softmax_transposed(step, task, state, first_row, row, rows, tile, scores);
    accumulate_transposed(scores, rows, values, count, value_width, state.sums.data() + row * value_width);
  }
}

}  // namespace
}  // namespace leapgen
