// How blocks of y^T are stored: as rows of y, or gated, as tiles of the next layer's x.

#pragma once

#include "isa/activation.h"
#include "linear/amx_products.h"

namespace leapgen {
namespace {

// Row `column` of c for kSide rows of x from `row` on, plus the column's bias.
INLINED Wide row_of(const float* c, const BFloat16* bias, int64_t column, int64_t width, int64_t row) {
  const Wide v = load_floats<Wide>(c + column * kGroupRows + row);
  return bias && column < width ? v + to_float(bias[column]) : v;
}

// Stores y = c^T + bias: `rows` rows, `columns` apart, of `width` columns.
struct Put {
  const float* c;
  const BFloat16* bias;
  int64_t width, rows, columns;
  BFloat16* y;

  template <class Tiles>
  INLINED void run() const {
    alignas(64) uint32_t transposed[kSide * kSide];
    BFloat16* out = y;
    for (int64_t row = 0; row < rows; row += kSide, out += kSide * columns) {
      WideBits pairs[kSide];
#pragma GCC unroll 16
      for (int64_t p = 0; p < kSide; ++p) {
        pairs[p] = Tiles::pairs(row_of(c, bias, 2 * p, width, row), row_of(c, bias, 2 * p + 1, width, row));
      }
      transpose_pairs(pairs, transposed);
      const int64_t there = std::min(kSide, rows - row);
      if (width == kBlockRows) {
        for (int64_t r = 0; r < there; ++r) save_all(out + r * columns, load_as<WideBits>(transposed + r * kSide));
      } else {
        for (int64_t r = 0; r < there; ++r) std::memcpy(out + r * columns, transposed + r * kSide, width * sizeof *out);
      }
    }
  }
};

// Stores kBlockRows columns of a gated pair's y: a B tile for each kSide of its `rows` rows, `row_block` apart. Gate and
// factor are not rounded, only their product.
struct PutGated {
  Gate gate;
  const float* c;
  const BFloat16 *gate_bias, *bias;
  int64_t rows, row_block;
  uint32_t* tiles;

  template <class Tiles>
  INLINED void run() const {
    using Math = typename Tiles::Math;
    switch (gate) {
      case Gate::kNone: break;
      case Gate::kSilu: run_with<Tiles>([](Wide x) INLINE { return silu<Math>(x); }); break;
      case Gate::kGelu: run_with<Tiles>([](Wide x) INLINE { return gelu<Math>(x); }); break;
      case Gate::kGeluTanh: run_with<Tiles>([](Wide x) INLINE { return gelu_tanh<Math>(x); }); break;
      case Gate::kRelu: run_with<Tiles>([](Wide x) INLINE { return relu(x); }); break;
    }
  }
  template <class Tiles, typename F>
  INLINED void run_with(F f) const {
    uint32_t* out = tiles;
    for (int64_t row = 0; row < rows; row += kSide, out += row_block) {
      for (int64_t p = 0; p < kSide; ++p) {
        const auto product = [&](int64_t column) INLINE {
          return f(row_of(c, gate_bias, column, kBlockRows, row)) *
                 row_of(c + kBlockRows * kGroupRows, bias, column, kBlockRows, row);
        };
        save_all(out + p * kSide, Tiles::pairs(product(2 * p), product(2 * p + 1)));
      }
    }
  }
};

}  // namespace
}  // namespace leapgen
