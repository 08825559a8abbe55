// Blocks of dot products between rows that are contiguous along the sum: what y = x W^T and scores of keys have in common.
//
// Every dot product is summed in one fixed order whatever block it is in, so a result is the same bits alone and in a batch.

#pragma once

#include "isa/vector.h"

namespace leapgen {

constexpr int64_t kRows = 3;     // rows of the left side in a block
constexpr int64_t kColumns = 4;  // rows of the right side; 12 sums, 3 + 1 operands: the 16 registers of AVX2

// One step along the sum is kLanes floats, or 2 * kLanes bfloat16: those at even places, then those at odd places.
template <typename W>
struct Steps;

template <>
struct Steps<float> {
  static constexpr int64_t width = kLanes;
  INLINED static Vector part(const float* w, int) { return load(w); }
  INLINED static void put(float* out, const Vector* parts) { save(out, parts[0]); }
};

template <>
struct Steps<BFloat16> {
  static constexpr int64_t width = 2 * kLanes;
  INLINED static Vector part(const BFloat16* w, int p) {
    IntVector bits;
    std::memcpy(&bits, w, sizeof bits);
    bits = p ? bits & static_cast<int32_t>(0xffff0000) : bits << 16;
    Vector v;
    std::memcpy(&v, &bits, sizeof v);
    return v;
  }
  INLINED static void put(BFloat16* out, const Vector* parts) {  // what part() takes apart, rounded
    const IntVector even = rounded<IntVector>(parts[0]) >> 16 & 0xffff;
    const IntVector bits = even | (rounded<IntVector>(parts[1]) & static_cast<int32_t>(0xffff0000));
    std::memcpy(out, &bits, sizeof bits);
  }
};

// Where element `d` of a row lies once the row is in the steps' order.
template <typename W>
INLINED int64_t place(int64_t d) {
  constexpr int64_t parts = Steps<W>::width / kLanes;
  return d / Steps<W>::width * Steps<W>::width + d % parts * kLanes + d % Steps<W>::width / parts;
}

template <typename W>
INLINED int64_t round_to_steps(int64_t n) {
  return (n + Steps<W>::width - 1) / Steps<W>::width * Steps<W>::width;
}

// A row as floats in the steps' order; depth is a multiple of the step width.
template <typename W>
INLINED void widen(const W* row, int64_t depth, float* out) {
  constexpr int64_t width = Steps<W>::width;
  for (int64_t d = 0; d < depth; d += width) {
    for (int p = 0; p < width / kLanes; ++p) save(out + d + p * kLanes, Steps<W>::part(row + d, p));
  }
}

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

// A part of long sums. What their lanes have come to is kept between the parts: [rows, kColumns, kLanes].
struct Run {
  float* sums = nullptr;
  bool first = true, last = true;

  Run after(int64_t rows) const { return {sums + rows * kColumns * kLanes, first, last}; }
};

// dots[r * kColumns + c] = left row r . right row c, for R rows and kColumns columns. The left side is floats in the
// steps' order; depth is a multiple of the step width. On the way, kColumns * depth elements at each of the F places in
// `next` are asked for, so that the memory system brings what comes next while this computes.
template <typename W, int R, int F, typename N = W>
INLINED void dot_block(const float* left, int64_t left_stride, const W* const* right, int64_t depth,
                       const N* const* next, float* dots, Run run = {}) {
  constexpr int64_t width = Steps<W>::width, line = 64 / sizeof(N);
  constexpr int parts = width / kLanes;
  Vector sums[R * kColumns] = {};
  if (!run.first) {
#pragma GCC unroll 12
    for (int i = 0; i < R * kColumns; ++i) sums[i] = load(run.sums + i * kLanes);
  }
  for (int64_t d = 0; d < depth; d += width) {
#pragma GCC unroll 2
    for (int f = 0; f < F; ++f) {
#pragma GCC unroll 2
      for (int64_t b = 0; b < kColumns * width; b += line) __builtin_prefetch(next[f] + kColumns * d + b, 0, 2);
    }
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) {
#pragma GCC unroll 2
      for (int p = 0; p < parts; ++p) {
        const Vector part = Steps<W>::part(right[c] + d, p);
#pragma GCC unroll 3
        for (int r = 0; r < R; ++r) sums[r * kColumns + c] += part * load(left + r * left_stride + d + p * kLanes);
      }
    }
  }
  if (!run.last) {
#pragma GCC unroll 12
    for (int i = 0; i < R * kColumns; ++i) save(run.sums + i * kLanes, sums[i]);
    return;
  }
  if (R >= 2) save(dots, sums_of(sums));
  if (R % 2) save(dots + (R - 1) * kColumns, sums_of_four(sums + (R - 1) * kColumns));
}

}  // namespace leapgen
