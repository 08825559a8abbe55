// y = x W^T + b on CPU, W read where it lies: no packing, no second copy of the weights.
//
// Rows of x and rows of W are both contiguous along the sum, so a block of kRows x kColumns dot products needs only whole
// vector loads. Every output element is summed in one fixed order whatever else is in the batch: a row's result is the
// same bits alone and among others.

#include <algorithm>
#include <vector>

#include "isa/dots.h"

namespace leapgen {
namespace {

constexpr int64_t kCacheFloats = 52 * 1024;  // of x kept in the second-level cache while rows of W pass by
constexpr int64_t kHeld = 96;                // rows of x whose dot products with some rows of W are held at a time
constexpr int64_t kTogether = 4 * kColumns;  // columns of y that are stored at a time
constexpr int64_t kMany = 4;                 // blocks of dot products that share one set of rows of W
constexpr int64_t kWiden = 9;                // from this many rows of x on, bfloat16 rows of W are widened once for all
constexpr int64_t kLongest = 512;            // columns a task has at most
constexpr int64_t kRun = 640;                // elements of kColumns rows of W, as floats, that the first-level cache holds

template <typename T>
struct Job {
  const T* x;            // [rows, depth], rows x_stride apart
  const T* const* w;     // `weights` matrices [columns[i], depth]
  const T* const* bias;  // [columns[i]] each, or null
  T* const* y;           // [rows, columns[i]] each
  const int64_t* columns;
  int64_t weights, rows, depth, x_stride;
};

template <typename T>
INLINED int64_t whole_steps(const Job<T>& job) {
  return job.depth / Steps<T>::width * Steps<T>::width;
}

// Some rows of x as floats in the order the steps take them, columns past `whole` left out.
template <typename T>
FOR_EVERY_CPU void arrange(const Job<T>& job, int64_t row, int64_t rows, int64_t whole, float* out) {
  for (int64_t r = 0; r < rows; ++r) widen(job.x + (row + r) * job.x_stride, whole, out + r * whole);
}

// dots[r * kColumns + c] = x row r . W row c for all of `rows` rows of x, or a run's part of it. The next rows of W are asked
// for meanwhile: by the first of a few blocks of dot products as it goes along, or a share before each of many, for only
// some twenty requests can be under way at once. A function of its own, so that the compiler has all registers for the inner
// loop.
template <typename W, typename N>
FOR_EVERY_CPU void dots_of(int64_t rows, const float* x, int64_t x_stride, const W* const* w, int64_t depth, const N* next,
                           Run run, float* dots) {
  const int64_t blocks = (rows + kRows - 1) / kRows, bytes = kColumns * depth * sizeof(N);
  const int64_t share = blocks < kMany ? 0 : (bytes / blocks + 63) / 64;
  const char* ahead = reinterpret_cast<const char*>(next);
  int64_t row = 0;
  if (!share) {
    if (rows == 1) return dot_block<W, 1, 1>(x, x_stride, w, depth, &next, dots, run);
    if (rows == 2) return dot_block<W, 2, 1>(x, x_stride, w, depth, &next, dots, run);
    dot_block<W, 3, 1>(x, x_stride, w, depth, &next, dots, run.after(row));
    row = kRows;
  }
  for (; row + kRows <= rows; row += kRows) {
    for (int64_t line = 0; line < share; ++line, ahead += 64) __builtin_prefetch(ahead, 0, 2);
    dot_block<W, 3, 0>(x + row * x_stride, x_stride, w, depth, &next, dots + row * kColumns, run.after(row));
  }
  if (rows - row == 2) {
    dot_block<W, 2, 0>(x + row * x_stride, x_stride, w, depth, &next, dots + row * kColumns, run.after(row));
  } else if (rows - row == 1) {
    dot_block<W, 1, 0>(x + row * x_stride, x_stride, w, depth, &next, dots + row * kColumns, run.after(row));
  }
}

// What remains to be done to the dot products of `rows` rows of x with `width` rows of W: the end of the sum, the bias,
// storing. They lie as dots_of made them, those with the next kColumns rows of W kHeld * kColumns further on.
template <typename T>
FOR_EVERY_CPU void finish(const Job<T>& job, int64_t whole, int64_t row, int64_t rows, int64_t i, int64_t column,
                          int64_t width, const float* dots) {
  const T *w = job.w[i] + column * job.depth, *bias = job.bias[i] ? job.bias[i] + column : nullptr;
  for (int64_t r = 0; r < rows; ++r) {
    const float* dot = dots + r * kColumns;
    T* y = job.y[i] + (row + r) * job.columns[i] + column;
    if (width == kTogether && whole == job.depth) {
#pragma GCC unroll 2
      for (int64_t c = 0; c < kTogether; c += kLanes) {
        const Quad low = load_quad(dot + c * kHeld), high = load_quad(dot + (c + kColumns) * kHeld);
        const Vector sums = __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7);
        save(y + c, bias ? sums + load(bias + c) : sums);
      }
      continue;
    }
    const T* tail = job.x + (row + r) * job.x_stride;
    for (int64_t c = 0; c < width; ++c) {
      float sum = dot[c / kColumns * kColumns * kHeld + c % kColumns];
      for (int64_t d = whole; d < job.depth; ++d) sum += to_float(tail[d]) * to_float(w[c * job.depth + d]);
      from_float(bias ? sum + to_float(bias[c]) : sum, y + c);
    }
  }
}

// `rows` rows of x from `row` on, which lie arranged at x, times columns first .. last - 1 of matrix i. `wide` is room for
// kColumns times kRun floats.
template <typename T>
FOR_EVERY_CPU void multiply(const Job<T>& job, int64_t row, int64_t rows, const float* x, int64_t x_stride, int64_t i,
                            int64_t first, int64_t last, float* wide) {
  const int64_t whole = whole_steps(job);
  const bool many = job.rows >= kWiden, widened = many && Steps<T>::width != kLanes;
  const int64_t runs = many ? std::max<int64_t>((whole + kRun - 1) / kRun, 1) : 1;
  const int64_t length = round_to_steps<T>((whole + runs - 1) / runs);
  alignas(64) float dots[kTogether * kHeld], sums[kHeld * kColumns * kLanes];
  for (int64_t column = first; column < last; column += kTogether) {
    const int64_t width = std::min(kTogether, last - column);
    for (int64_t some = 0; some < width; some += kColumns) {
      const int64_t after = std::min(column + some + kColumns, job.columns[i] - kColumns);
      for (int64_t run = 0; run < runs; ++run) {
        const int64_t start = run * length, depth = std::min(length, whole - start);
        const T *w[kColumns], *next = job.w[i] + std::max<int64_t>(after, 0) * job.depth + start * kColumns;
        const float* right[kColumns];
        for (int64_t c = 0; c < kColumns; ++c) {
          w[c] = job.w[i] + std::min(column + some + c, last - 1) * job.depth + start;
          if (widened) widen(w[c], depth, wide + c * length), right[c] = wide + c * length;
        }
        const Run part{sums, run == 0, run + 1 == runs};
        if (widened) {
          dots_of(rows, x + start, x_stride, right, depth, next, part, dots + some * kHeld);
        } else {
          dots_of(rows, x + start, x_stride, w, depth, next, part, dots + some * kHeld);
        }
      }
    }
    finish(job, whole, row, rows, i, column, width, dots);
  }
}

// A task is some rows of x, few enough for the second-level cache, times some columns: all rows where they are few, so that
// every thread has columns to read; all columns where rows are many, so that x is read once.
template <typename T>
void linear(const Job<T>& job, int threads) {
  const int64_t whole = whole_steps(job);
  const bool in_place = Steps<T>::width == kLanes;  // float32: x is already in the steps' order
  const int64_t most = std::clamp(kCacheFloats / std::max<int64_t>(whole, 1), kWiden, kHeld);
  const int64_t passes = (job.rows + most - 1) / most, pass = passes ? (job.rows + passes - 1) / passes : 0;
  // Long runs of rows of W, so that fetching ahead is seldom in vain; short enough for a slow thread to be helped out.
  int64_t total = 0;
  for (int64_t i = 0; i < job.weights; ++i) total += job.columns[i];
  const int64_t chunk_columns =
      std::clamp<int64_t>(total * passes / (threads * 6) / kTogether * kTogether, kTogether, kLongest);
  std::vector<int64_t> starts(job.weights + 1, 0);  // chunks before each matrix
  for (int64_t i = 0; i < job.weights; ++i) starts[i + 1] = starts[i] + (job.columns[i] + chunk_columns - 1) / chunk_columns;
  const int64_t chunks = starts[job.weights];
#pragma omp parallel num_threads(threads)
  {
    thread_local Scratch<float> wide, arranged;  // kept, so that no call waits for fresh memory
    if (!in_place && wide.empty()) wide.resize(kColumns * kRun);
    if (!in_place && static_cast<int64_t>(arranged.size()) < pass * whole) arranged.resize(pass * whole);
    int64_t here = -1;  // the row whose pass is arranged
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < passes * chunks; ++task) {
      const int64_t chunk = task % chunks, row = task / chunks * pass, rows = std::min(pass, job.rows - row);
      if (!in_place && row != here) arrange(job, row, rows, whole, arranged.data()), here = row;
      const float* x = in_place ? reinterpret_cast<const float*>(job.x + row * job.x_stride) : arranged.data();
      int64_t i = 0;
      while (chunk >= starts[i + 1]) ++i;
      const int64_t first = (chunk - starts[i]) * chunk_columns;
      multiply(job, row, rows, x, in_place ? job.x_stride : whole, i, first,
               std::min(first + chunk_columns, job.columns[i]), wide.data());
    }
  }
}

}  // namespace
}  // namespace leapgen

#define LEAPGEN_EXPORT(NAME, T)                                                                                         \
  extern "C" __attribute__((visibility("default"))) void leapgen_linear_##NAME(                                         \
      const void* x, const void* const* w, const void* const* bias, void* const* y, const int64_t* columns,             \
      int64_t weights, int64_t rows, int64_t depth, int64_t x_stride, int threads) {                                    \
    using leapgen::T;                                                                                                   \
    leapgen::linear(leapgen::Job<T>{static_cast<const T*>(x), reinterpret_cast<const T* const*>(w),                     \
                                    reinterpret_cast<const T* const*>(bias), reinterpret_cast<T* const*>(y), columns,   \
                                    weights, rows, depth, x_stride},                                                    \
                    threads);                                                                                           \
  }

namespace leapgen {
using Float32 = float;
}
LEAPGEN_EXPORT(float32, Float32)
LEAPGEN_EXPORT(bfloat16, BFloat16)
