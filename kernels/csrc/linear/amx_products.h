// Products of x and W by matrix tiles: both as tiles, and blocks of y^T as their products.

#pragma once

#include <algorithm>
#include <type_traits>

#include "isa/amx.h"

namespace leapgen {
namespace {

constexpr int64_t kBlockRows = 2 * kSide;       // rows of W, and of x, in a block: four C tiles
constexpr int64_t kPrefetchTiles = 4;           // how many tiles ahead W is prefetched, for few rows of x
constexpr int64_t kGroupRows = 3 * kBlockRows;  // rows of x that one load of a tile of W is multiplied with, at most
constexpr int64_t kManyRows = 4 * kBlockRows;   // for more rows of x, rows of W that straddle cache lines are packed

// y = x W^T + b for some matrices, or for a gated pair V and W: f(x V^T + a) * (x W^T + b), arranged as the next layer's x.
struct Job {
  const BFloat16* x;            // [rows, depth], rows x_stride apart; null if it is arranged already
  const BFloat16* const* w;     // [columns[i], depth] each
  const BFloat16* const* bias;  // [columns[i]] each, or null
  BFloat16* const* y;           // [rows, columns[i]] each
  const int64_t* columns;
  int64_t matrices, rows, depth, x_stride;
  Gate gate = Gate::kNone;       // f
  uint32_t* arranged = nullptr;  // y of a gated pair, as `arrange` writes x

  int64_t steps() const { return (depth + kTileDepth - 1) / kTileDepth; }
  int64_t row_blocks() const { return (rows + kSide - 1) / kSide; }
  int64_t row_block() const { return steps() * kSide * kSide; }     // size of kSide rows of x as B tiles
  int64_t together() const { return gate != Gate::kNone ? 2 : 1; }  // matrices that are multiplied row_block by row_block
};

// Writes up to kSide rows of x from `row` on as B tiles [steps][kSide pairs][kSide rows of x][2], padded with zeros.
FOR_EVERY_CPU void arrange(const Job& job, int64_t row, uint32_t* out) {
  const int64_t rows = std::min(kSide, job.rows - row);
  for (int64_t first = 0; first < job.depth; first += kTileDepth, out += kSide * kSide) {
    const int64_t there = std::min(kTileDepth, job.depth - first);
    const BFloat16* x = job.x + row * job.x_stride + first;
    WideBits pairs[kSide] = {};
    if (rows == kSide && there == kTileDepth) {
#pragma GCC unroll 16
      for (int64_t r = 0; r < kSide; ++r) pairs[r] = load_as<WideBits>(x + r * job.x_stride);
    } else {
      for (int64_t r = 0; r < rows; ++r) std::memcpy(&pairs[r], x + r * job.x_stride, there * sizeof *x);
    }
    transpose_pairs(pairs, out);
  }
}

// What a product prefetches: `share` bytes from `from` on at each step. For few rows of x also the tiles of W that are
// kPrefetchTiles ahead, and past the last tile those at `from`.
struct Prefetch {
  const char* from;
  int64_t share;
};

// kBlockRows rows of W as A tiles, in place or packed.
struct Weights {
  const char* tiles;
  int64_t stride, half, step;  // bytes from row to row, from the first kSide rows to the others, from tile to tile
};

Weights in_place(const BFloat16* w, int64_t depth) {
  return {reinterpret_cast<const char*>(w), depth * 2, kSide * depth * 2, 64};
}

Weights packed(const char* tiles) { return {tiles, 64, kTileBytes, 2 * kTileBytes}; }

// Packs `width` rows of W as consecutive tiles, padded with zeros.
FOR_EVERY_CPU void pack(const BFloat16* w, int64_t width, int64_t depth, char* tiles) {
  for (int64_t first = 0; first < depth; first += kTileDepth, tiles += 2 * kTileBytes) {
    const int64_t there = std::min(kTileDepth, depth - first);
    if (there == kTileDepth && width == kBlockRows) {
      for (int64_t r = 0; r < kBlockRows; ++r) save_all(tiles + r * 64, load_as<WideBits>(w + r * depth + first));
    } else {
      std::memset(tiles, 0, 2 * kTileBytes);
      for (int64_t r = 0; r < width; ++r) std::memcpy(tiles + r * 64, w + r * depth + first, there * sizeof *w);
    }
  }
}

// Multiplies kBlockRows rows of W with S * kSide rows of x: c [kBlockRows][kGroupRows]. Where rows of x are many, they stay
// in the first-level cache, and W streams.
template <class Tiles, int S, bool Many>
void multiply(Tiles& tiles, const Weights& w, const uint32_t* x, int64_t steps, Prefetch prefetch, float* c) {
  const int64_t row_block = steps * kSide * kSide;
  tiles.template zero<0>();
  tiles.template zero<1>();
  tiles.template zero<2>();
  tiles.template zero<3>();
  for (int64_t step = 0; step < steps; ++step) {
    for (int64_t i = 0; i < prefetch.share; i += 64) __builtin_prefetch(prefetch.from + step * prefetch.share + i, 0, 2);
    if (!Many && prefetch.from) {
      const char* soon = step + kPrefetchTiles < steps ? w.tiles + (step + kPrefetchTiles) * 64
                                                       : prefetch.from + (step + kPrefetchTiles - steps) * 64;
      for (int64_t r = 0; r < kBlockRows; ++r) __builtin_prefetch(soon + r * w.stride, 0, 3);
    }
    if (Many) {
      tiles.template load_once<4>(w.tiles + step * w.step, w.stride);
      tiles.template load_once<5>(w.tiles + step * w.step + w.half, w.stride);
    } else {
      tiles.template load<4>(w.tiles + step * w.step, w.stride);
      tiles.template load<5>(w.tiles + step * w.step + w.half, w.stride);
    }
    tiles.template load<6>(x + step * kSide * kSide, 64);
    tiles.template multiply<0, 4, 6>();
    tiles.template multiply<1, 5, 6>();
    if (S == 2) {
      tiles.template load<7>(x + row_block + step * kSide * kSide, 64);
      tiles.template multiply<2, 4, 7>();
      tiles.template multiply<3, 5, 7>();
    }
  }
  constexpr int64_t stride = kGroupRows * sizeof(float);
  tiles.template store<0>(c, stride);
  tiles.template store<1>(c + kSide * kGroupRows, stride);
  if (S == 2) {
    tiles.template store<2>(c + kSide, stride);
    tiles.template store<3>(c + kSide * kGroupRows + kSide, stride);
  }
}

template <int I>
using Number = std::integral_constant<int, I>;

// Multiplies kSide rows of W with S * kSide rows of x, S from 3 to 6; each tile of W is loaded once. W is prefetched
// kPrefetchTiles ahead, and past the last tile what lies at `following`; nothing is, if that is null.
template <class Tiles, int S>
void multiply_more(Tiles& tiles, const char* w, const Weights& weights, const uint32_t* x, int64_t steps,
                   const char* following, float* c) {
  const int64_t row_block = steps * kSide * kSide;
  const auto each = [](auto f) INLINE {  // for each of the S tiles of c
    f(Number<0>()), f(Number<1>()), f(Number<2>());
    if constexpr (S > 3) f(Number<3>());
    if constexpr (S > 4) f(Number<4>());
    if constexpr (S > 5) f(Number<5>());
  };
  each([&](auto i) INLINE { tiles.template zero<i>(); });
  for (int64_t step = 0; step < steps; ++step, x += kSide * kSide) {
    if (following) {
      const char* soon = step + kPrefetchTiles < steps ? w + (step + kPrefetchTiles) * 64
                                                       : following + (step + kPrefetchTiles - steps) * 64;
      for (int64_t r = 0; r < kSide; ++r) __builtin_prefetch(soon + r * weights.stride, 0, 3);
    }
    tiles.template load<6>(w + step * weights.step, weights.stride);
    each([&](auto i) INLINE {
      tiles.template load<7>(x + i * row_block, 64);
      tiles.template multiply<i, 6, 7>();
    });
  }
  each([&](auto i) INLINE { tiles.template store<i>(c + i * kSide, kGroupRows * sizeof(float)); });
}

// Multiplies kBlockRows rows of W with more than kBlockRows and at most kGroupRows rows of x.
template <class Tiles>
void multiply_group(Tiles& tiles, const Weights& w, const uint32_t* x, int64_t rows, int64_t steps, const char* following,
                    float* c) {
  for (int64_t half = 0; half < 2; ++half, c += kSide * kGroupRows) {
    const char* tiles_of_w = w.tiles + half * w.half;
    const char* next = following && half == 0 ? tiles_of_w + w.half : following;
    switch ((rows + kSide - 1) / kSide) {
      case 3: multiply_more<Tiles, 3>(tiles, tiles_of_w, w, x, steps, next, c); break;
      case 4: multiply_more<Tiles, 4>(tiles, tiles_of_w, w, x, steps, next, c); break;
      case 5: multiply_more<Tiles, 5>(tiles, tiles_of_w, w, x, steps, next, c); break;
      default: multiply_more<Tiles, 6>(tiles, tiles_of_w, w, x, steps, next, c);
    }
  }
}

// Multiplies kBlockRows rows of W with `rows` rows of x, at most kGroupRows.
template <class Tiles>
void multiply_block(Tiles& tiles, const Weights& weights, const uint32_t* x, int64_t rows, int64_t steps, bool many,
                    Prefetch prefetch, float* c) {
  if (rows > kBlockRows) {
    multiply_group(tiles, weights, x, rows, steps, prefetch.from, c);
  } else if (rows <= kSide) {
    multiply<Tiles, 1, false>(tiles, weights, x, steps, prefetch, c);
  } else if (many) {
    multiply<Tiles, 2, true>(tiles, weights, x, steps, prefetch, c);
  } else {
    multiply<Tiles, 2, false>(tiles, weights, x, steps, prefetch, c);
  }
}

}  // namespace
}  // namespace leapgen
