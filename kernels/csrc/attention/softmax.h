// The online softmax (Milakov and Gimelshein, arXiv 1805.02867) of rows that meet their keys tile by tile.

#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "interface.h"
#include "isa/math.h"
#include "isa/scratch.h"

namespace leapgen {
namespace {

constexpr int64_t kTileKeys = 16;
constexpr int kTileVectors = kTileKeys / kLanes;
static_assert(kTile % kTileKeys == 0, "shared segments end where tiles end");

// The online softmax of every row. Rows are (KV head, token, head of its group), in that order.
struct State {
  Scratch<float> query;           // [rows, key_width], scaled, in sum order
  Scratch<float> sums;            // [rows, value_width], in sum order: weighted values
  std::vector<float> highest;     // [rows]: the highest score so far
  Scratch<float> norms;           // [rows, kLanes]: sums of weights, added at the end
  std::vector<int64_t> position;  // [tokens]

  void reserve(int64_t tokens, int64_t rows, int64_t key_width, int64_t value_width) {
    if (static_cast<int64_t>(query.size()) < rows * key_width) query.resize(rows * key_width);
    if (static_cast<int64_t>(sums.size()) < rows * value_width) sums.resize(rows * value_width);
    if (static_cast<int64_t>(highest.size()) < rows) highest.resize(rows);
    if (static_cast<int64_t>(norms.size()) < rows * kLanes) norms.resize(rows * kLanes);
    if (static_cast<int64_t>(position.size()) < tokens) position.resize(tokens);
  }
};

// Caps one row's scores of a tile, and masks the keys outside hidden .. visible - 1.
INLINED void mask(float* scores, int64_t count, int64_t hidden, int64_t visible, float softcap) {
  if (softcap > 0.0f) {
    for (int64_t t = 0; t < count; ++t) scores[t] = std::tanh(scores[t] / softcap) * softcap;
  }
  for (int64_t t = 0; t < std::min(hidden, kTileKeys); ++t) scores[t] = -INFINITY;
  for (int64_t t = std::max<int64_t>(visible, 0); t < kTileKeys; ++t) scores[t] = -INFINITY;
}

// Whether a row has a score above its highest so far. It seldom has: the branch is predicted, and nothing waits for a
// maximum.
template <int R>
INLINED bool any_above(const float* scores, const float* highest) {
  IntVector higher{};
#pragma GCC unroll 8
  for (int i = 0; i < R * kTileVectors; ++i) higher |= load(scores + i * kLanes) > splat(highest[i / kTileVectors]);
  return any(higher);
}

// Raises a row's highest score to that of these scores, and rescales its norms and sums.
INLINED void rescale(const float* scores, float* highest, float* norms, float* sums, int64_t value_width) {
  Vector tops = load(scores);
  for (int64_t t = kLanes; t < kTileKeys; t += kLanes) tops = larger(tops, load(scores + t));
  tops = larger(tops, __builtin_shufflevector(tops, tops, 4, 5, 6, 7, 0, 1, 2, 3));
  tops = larger(tops, __builtin_shufflevector(tops, tops, 2, 3, 0, 1, 6, 7, 4, 5));
  tops = larger(tops, __builtin_shufflevector(tops, tops, 1, 0, 3, 2, 5, 4, 7, 6));
  const float top = std::max(*highest, tops[0]);
  Vector shrink[1] = {splat(*highest - top)};
  exp_negative<1>(shrink);
  save(norms, load(norms) * shrink[0]);
  for (int64_t d = 0; d < value_width; d += kLanes) save(sums + d, load(sums + d) * shrink[0]);
  *highest = top;
}

// Replaces the scores of R rows by their weights, and adds these to the norms.
template <int R>
INLINED void weigh(float* scores, float* highest, float* norms, float* sums, int64_t value_width) {
  if (any_above<R>(scores, highest)) {
    for (int r = 0; r < R; ++r) {
      if (R > 1 && !any_above<1>(scores + r * kTileKeys, highest + r)) continue;
      rescale(scores + r * kTileKeys, highest + r, norms + r * kLanes, sums + r * value_width, value_width);
    }
  }
  Vector weights[R * kTileVectors];
#pragma GCC unroll 8
  for (int i = 0; i < R * kTileVectors; ++i) weights[i] = load(scores + i * kLanes) - splat(highest[i / kTileVectors]);
  exp_negative<R * kTileVectors>(weights);
#pragma GCC unroll 8
  for (int i = 0; i < R * kTileVectors; ++i) save(scores + i * kLanes, weights[i]);
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    Vector norm = load(norms + r * kLanes);
#pragma GCC unroll 2
    for (int i = 0; i < kTileVectors; ++i) norm += weights[r * kTileVectors + i];
    save(norms + r * kLanes, norm);
  }
}

}  // namespace
}  // namespace leapgen
