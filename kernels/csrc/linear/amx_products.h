// Products of a linear layer's matrices by matrix tiles: how x and W become tiles, and blocks of y^T of them.

#pragma once

#include <algorithm>
#include <type_traits>

#include "isa/amx.h"

namespace leapgen {
namespace {

constexpr int64_t kBlock = 2 * kSide;  // rows of W, and of x, whose products are made together: four C tiles
constexpr int64_t kSoon = 4;           // tiles that the few rows' W is asked for before it is needed
constexpr int64_t kMost = 3 * kBlock;  // rows of x that meet a tile of W at once
constexpr int64_t kMany = 4 * kBlock;  // from more rows of x on, W is laid out anew if its rows straddle cache lines

// As leapgen_kernels.cpu.GATES has them, from 1 on.
enum Gate : int64_t { kNone, kSilu, kGelu, kGeluTanh, kRelu };

// y = x W^T + bias for some matrices; or, of a gated pair of them, f(x V^T + bias) * (x W^T + bias) as the next layer's x.
struct Job {
  const BFloat16* x;            // [rows, depth], rows x_stride apart; null where it lies arranged already
  const BFloat16* const* w;     // `weights` matrices [columns[i], depth]
  const BFloat16* const* bias;  // [columns[i]] each, or null
  BFloat16* const* y;           // [rows, columns[i]] each
  const int64_t* columns;
  int64_t weights, rows, depth, x_stride;
  Gate gate = kNone;             // f
  uint32_t* arranged = nullptr;  // the gated pair's y, as `arrange` has it

  int64_t steps() const { return (depth + kStep - 1) / kStep; }
  int64_t sides() const { return (rows + kSide - 1) / kSide; }
  int64_t side() const { return steps() * kSide * kSide; }  // of x as B tiles: kSide rows
  int64_t together() const { return gate ? 2 : 1; }         // matrices whose columns are made together
};

// kSide rows of x from `row` on, or as many as there are, as B tiles [steps][kSide pairs][kSide rows of x][2], then zeros.
FOR_EVERY_CPU void arrange(const Job& job, int64_t row, uint32_t* out) {
  const int64_t rows = std::min(kSide, job.rows - row);
  for (int64_t first = 0; first < job.depth; first += kStep, out += kSide * kSide) {
    const int64_t there = std::min(kStep, job.depth - first);
    const BFloat16* x = job.x + row * job.x_stride + first;
    WideBits pairs[kSide] = {};
    if (rows == kSide && there == kStep) {
#pragma GCC unroll 16
      for (int64_t r = 0; r < kSide; ++r) pairs[r] = load_as<WideBits>(x + r * job.x_stride);
    } else {
      for (int64_t r = 0; r < rows; ++r) std::memcpy(&pairs[r], x + r * job.x_stride, there * sizeof *x);
    }
    turn(pairs, out);
  }
}

// Memory that is asked for while other work goes on: `share` bytes at each step. Where rows of x are few: tiles of W, some
// steps before they are needed, and those of the rows of W at `from` after the last.
struct Ahead {
  const char* from;
  int64_t share;
};

// kBlock rows of W as A tiles: where they lie, or laid out anew.
struct Left {
  const char* tiles;
  int64_t stride, half, step;  // bytes from row to row, from the first kSide rows to the others, from tile to tile
};

Left where_it_lies(const BFloat16* w, int64_t depth) {
  return {reinterpret_cast<const char*>(w), depth * 2, kSide * depth * 2, 64};
}

Left laid_out(const char* tiles) { return {tiles, 64, kTileBytes, 2 * kTileBytes}; }

// `width` rows of W as tiles one after the other, zeros past their end.
FOR_EVERY_CPU void lay_out(const BFloat16* w, int64_t width, int64_t depth, char* tiles) {
  for (int64_t first = 0; first < depth; first += kStep, tiles += 2 * kTileBytes) {
    const int64_t there = std::min(kStep, depth - first);
    if (there == kStep && width == kBlock) {
      for (int64_t r = 0; r < kBlock; ++r) save_all(tiles + r * 64, load_as<WideBits>(w + r * depth + first));
    } else {
      std::memset(tiles, 0, 2 * kTileBytes);
      for (int64_t r = 0; r < width; ++r) std::memcpy(tiles + r * 64, w + r * depth + first, there * sizeof *w);
    }
  }
}

// C tiles of kBlock rows of W and S * kSide rows of x, as floats [kBlock][kMany]. Where rows of x are many, the first-level
// cache is for them.
template <class Tiles, int S, bool Many>
void multiply(Tiles& tiles, const Left& w, const uint32_t* x, int64_t steps, Ahead ahead, float* c) {
  const int64_t side = steps * kSide * kSide;
  tiles.template zero<0>();
  tiles.template zero<1>();
  tiles.template zero<2>();
  tiles.template zero<3>();
  for (int64_t step = 0; step < steps; ++step) {
    for (int64_t i = 0; i < ahead.share; i += 64) __builtin_prefetch(ahead.from + step * ahead.share + i, 0, 2);
    if (!Many && ahead.from) {
      const char* soon = step + kSoon < steps ? w.tiles + (step + kSoon) * 64 : ahead.from + (step + kSoon - steps) * 64;
      for (int64_t r = 0; r < kBlock; ++r) __builtin_prefetch(soon + r * w.stride, 0, 3);
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
      tiles.template load<7>(x + side + step * kSide * kSide, 64);
      tiles.template multiply<2, 4, 7>();
      tiles.template multiply<3, 5, 7>();
    }
  }
  constexpr int64_t stride = kMost * sizeof(float);
  tiles.template store<0>(c, stride);
  tiles.template store<1>(c + kSide * kMost, stride);
  if (S == 2) {
    tiles.template store<2>(c + kSide, stride);
    tiles.template store<3>(c + kSide * kMost + kSide, stride);
  }
}

template <int I>
using Number = std::integral_constant<int, I>;

// As multiply, of kSide rows of W and more rows of x, S * kSide: W passes by once. It is asked for some tiles ahead, and what
// lies at `following` after the last; not at all if that is null.
template <class Tiles, int S>
void multiply_more(Tiles& tiles, const char* w, const Left& left, const uint32_t* x, int64_t steps, const char* following,
                   float* c) {
  const int64_t side = steps * kSide * kSide;
  const auto each = [](auto f) INLINE {  // of the S tiles of c
    f(Number<0>()), f(Number<1>()), f(Number<2>());
    if constexpr (S > 3) f(Number<3>());
    if constexpr (S > 4) f(Number<4>());
    if constexpr (S > 5) f(Number<5>());
  };
  each([&](auto i) INLINE { tiles.template zero<i>(); });
  for (int64_t step = 0; step < steps; ++step, x += kSide * kSide) {
    if (following) {
      const char* soon = step + kSoon < steps ? w + (step + kSoon) * 64 : following + (step + kSoon - steps) * 64;
      for (int64_t r = 0; r < kSide; ++r) __builtin_prefetch(soon + r * left.stride, 0, 3);
    }
    tiles.template load<6>(w + step * left.step, left.stride);
    each([&](auto i) INLINE {
      tiles.template load<7>(x + i * side, 64);
      tiles.template multiply<i, 6, 7>();
    });
  }
  each([&](auto i) INLINE { tiles.template store<i>(c + i * kSide, kMost * sizeof(float)); });
}

// As multiply, of kBlock rows of W and more than kBlock rows of x, at most kMost.
template <class Tiles>
void multiply_group(Tiles& tiles, const Left& w, const uint32_t* x, int64_t rows, int64_t steps, const char* following, float* c) {
  for (int64_t half = 0; half < 2; ++half, c += kSide * kMost) {
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

// Products of `rows` rows of x and kBlock rows of W.
template <class Tiles>
void multiply_block(Tiles& tiles, const Left& left, const uint32_t* x, int64_t rows, int64_t steps, bool many, Ahead ahead,
                    float* c) {
  if (rows > kBlock) {
    multiply_group(tiles, left, x, rows, steps, ahead.from, c);
  } else if (rows <= kSide) {
    multiply<Tiles, 1, false>(tiles, left, x, steps, ahead, c);
  } else if (many) {
    multiply<Tiles, 2, true>(tiles, left, x, steps, ahead, c);
  } else {
    multiply<Tiles, 2, false>(tiles, left, x, steps, ahead, c);
  }
}

}  // namespace
}  // namespace leapgen
