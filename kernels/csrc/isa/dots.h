// Blocks of dot products between rows that are contiguous along the sum, as y = x W^T and the scores of keys need them.
//
// A dot product is summed in the same order in every block, so a result has the same bits alone and in a batch.

#pragma once

#include "isa/vector.h"

namespace leapgen {

// Rows of the left and of the right side in a block: 12 sums and 3 + 1 operands fill the 16 registers of AVX2.
constexpr int64_t kDotRows = 3;
constexpr int64_t kDotColumns = 4;

// The order in which `width` elements of a row enter the sums, in parts of kLanes floats. Of bfloat16, the elements at even
// places come before those at odd places: so each part is one shift or mask of the memory.
template <typename W>
struct SumOrder;

template <>
struct SumOrder<float> {
  static constexpr int64_t width = kLanes;
  INLINED static Vector part(const float* w, int) { return load(w); }
  INLINED static void put(float* out, const Vector* parts) { save(out, parts[0]); }
};

template <>
struct SumOrder<BFloat16> {
  static constexpr int64_t width = 2 * kLanes;
  INLINED static Vector part(const BFloat16* w, int p) {
    IntVector bits;
    std::memcpy(&bits, w, sizeof bits);
    bits = p ? bits & static_cast<int32_t>(0xffff0000) : bits << 16;
    Vector v;
    std::memcpy(&v, &bits, sizeof v);
    return v;
  }
  INLINED static void put(BFloat16* out, const Vector* parts) {  // the inverse of part(), rounded
    const IntVector even = rounded<IntVector>(parts[0]) >> 16 & 0xffff;
    const IntVector bits = even | (rounded<IntVector>(parts[1]) & static_cast<int32_t>(0xffff0000));
    std::memcpy(out, &bits, sizeof bits);
  }
};

// Where element `d` of a row lies once the row is in sum order.
template <typename W>
INLINED int64_t sum_place(int64_t d) {
  constexpr int64_t parts = SumOrder<W>::width / kLanes;
  return d / SumOrder<W>::width * SumOrder<W>::width + d % parts * kLanes + d % SumOrder<W>::width / parts;
}

template <typename W>
INLINED int64_t round_to_width(int64_t n) {
  return (n + SumOrder<W>::width - 1) / SumOrder<W>::width * SumOrder<W>::width;
}

// Writes a row as floats in sum order; depth is a multiple of the width.
template <typename W>
INLINED void widen(const W* row, int64_t depth, float* out) {
  constexpr int64_t width = SumOrder<W>::width;
  for (int64_t d = 0; d < depth; d += width) {
    for (int p = 0; p < width / kLanes; ++p) save(out + d + p * kLanes, SumOrder<W>::part(row + d, p));
  }
}

// Writes a row as `width` floats in sum order, zeros past `dim`.
template <typename T>
INLINED void widen_row(const T* row, int64_t dim, int64_t width, float* out) {
  const int64_t whole = dim / SumOrder<T>::width * SumOrder<T>::width;
  widen(row, whole, out);
  if (whole < width) {
    std::memset(out + whole, 0, (width - whole) * sizeof(float));
    for (int64_t d = whole; d < dim; ++d) out[sum_place<T>(d)] = to_float(row[d]);
  }
}

// A run of long sums, whose lanes are kept from one run to the next: `sums` [rows, kDotColumns, kLanes].
struct Run {
  float* sums = nullptr;
  bool first = true, last = true;

  Run after(int64_t rows) const { return {sums + rows * kDotColumns * kLanes, first, last}; }
};

// dots[r * kDotColumns + c] = left row r . right row c, for R rows and kDotColumns columns. The left side is floats in sum
// order; depth is a multiple of the width. Meanwhile kDotColumns * depth elements at each of the F addresses in `next` are
// prefetched.
template <typename W, int R, int F, typename N = W>
INLINED void dot_block(const float* left, int64_t left_stride, const W* const* right, int64_t depth, const N* const* next,
                       float* dots, Run run = {}) {
  constexpr int64_t width = SumOrder<W>::width, line = 64 / sizeof(N);
  constexpr int parts = width / kLanes;
  Vector sums[R * kDotColumns] = {};
  if (!run.first) {
#pragma GCC unroll 12
    for (int i = 0; i < R * kDotColumns; ++i) sums[i] = load(run.sums + i * kLanes);
  }
  for (int64_t d = 0; d < depth; d += width) {
#pragma GCC unroll 2
    for (int f = 0; f < F; ++f) {
#pragma GCC unroll 2
      for (int64_t b = 0; b < kDotColumns * width; b += line) __builtin_prefetch(next[f] + kDotColumns * d + b, 0, 2);
    }
#pragma GCC unroll 4
    for (int c = 0; c < kDotColumns; ++c) {
#pragma GCC unroll 2
      for (int p = 0; p < parts; ++p) {
        const Vector part = SumOrder<W>::part(right[c] + d, p);
#pragma GCC unroll 3
        for (int r = 0; r < R; ++r) sums[r * kDotColumns + c] += part * load(left + r * left_stride + d + p * kLanes);
      }
    }
  }
  if (!run.last) {
#pragma GCC unroll 12
    for (int i = 0; i < R * kDotColumns; ++i) save(run.sums + i * kLanes, sums[i]);
    return;
  }
  if (R >= 2) save(dots, sums_of(sums));
  if (R % 2) save(dots + (R - 1) * kDotColumns, sums_of_four(sums + (R - 1) * kDotColumns));
}

}  // namespace leapgen
