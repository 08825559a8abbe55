// How blocks of a linear layer's y^T are stored: as rows of y, or gated, as tiles of the next layer's x.

#pragma once

#include "isa/activation.h"
#include "linear/amx_products.h"

namespace leapgen {
namespace {

// Row `column` of c, of kSide rows of x from `row` on, with its bias.
INLINED Wide row_of(const float* c, const BFloat16* bias, int64_t column, int64_t width, int64_t row) {
  const Wide v = floats_at<Wide>(c + column * kMost + row);
  return bias && column < width ? v + to_float(bias[column]) : v;
}

// y = c^T + bias, for `width` columns of y from `y` on and `rows` rows of it, `columns` apart.
struct Put {
  const float* c;
  const BFloat16* bias;
  int64_t width, rows, columns;
  BFloat16* y;

  template <class Tiles>
  INLINED void run() const {
    alignas(64) uint32_t turned[kSide * kSide];
    BFloat16* out = y;
    for (int64_t row = 0; row < rows; row += kSide, out += kSide * columns) {
      WideBits pairs[kSide];
#pragma GCC unroll 16
      for (int64_t p = 0; p < kSide; ++p) {
        pairs[p] = Tiles::pairs(row_of(c, bias, 2 * p, width, row), row_of(c, bias, 2 * p + 1, width, row));
      }
      turn(pairs, turned);
      const int64_t there = std::min(kSide, rows - row);
      if (width == kBlock) {
        for (int64_t r = 0; r < there; ++r) save_all(out + r * columns, load_as<WideBits>(turned + r * kSide));
      } else {
        for (int64_t r = 0; r < there; ++r) std::memcpy(out + r * columns, turned + r * kSide, width * sizeof *out);
      }
    }
  }
};

// kBlock columns of a gated pair's y, for `rows` rows of it: as a B tile for each kSide of them, `side` apart. What
// the pair itself makes is not rounded.
struct PutGated {
  Gate gate;
  const float* c;
  const BFloat16 *gate_bias, *bias;
  int64_t rows, side;
  uint32_t* tiles;

  template <class Tiles>
  INLINED void run() const {
    using Math = typename Tiles::Math;
    switch (gate) {
      case kNone: break;
      case kSilu: run_with<Tiles>([](Wide x) INLINE { return silu<Math>(x); }); break;
      case kGelu: run_with<Tiles>([](Wide x) INLINE { return gelu<Math>(x); }); break;
      case kGeluTanh: run_with<Tiles>([](Wide x) INLINE { return gelu_tanh<Math>(x); }); break;
      case kRelu: run_with<Tiles>([](Wide x) INLINE { return relu(x); }); break;
    }
  }
  template <class Tiles, typename F>
  INLINED void run_with(F f) const {
    uint32_t* out = tiles;
    for (int64_t row = 0; row < rows; row += kSide, out += side) {
      for (int64_t p = 0; p < kSide; ++p) {
        const auto product = [&](int64_t column) INLINE {
          return f(row_of(c, gate_bias, column, kBlock, row)) * row_of(c + kBlock * kMost, bias, column, kBlock, row);
        };
        save_all(out + p * kSide, Tiles::pairs(product(2 * p), product(2 * p + 1)));
      }
    }
  }
};

}  // namespace
}  // namespace leapgen
