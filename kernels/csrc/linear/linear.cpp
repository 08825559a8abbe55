// y = x W^T + b, with W read in place: no packing, no second copy of the weights.
//
// Rows of x and rows of W are both contiguous along the sum, so a block of kDotRows x kDotColumns dot products needs only
// whole vector loads. Every element of y is summed in one fixed order, so a row's result has the same bits alone and in a
// batch.

#include <algorithm>
#include <vector>

#include "interface.h"
#include "isa/dots.h"
#include "isa/scratch.h"

namespace leapgen {
namespace {

constexpr int64_t kCacheFloats = 52 * 1024;         // of x that stay in the second-level cache while W streams through
constexpr int64_t kPassRows = 96;                   // rows of x in a pass over W, at most
constexpr int64_t kWidenRows = 9;                   // from this many rows of x on, rows of W are widened once for all
constexpr int64_t kStoreColumns = 4 * kDotColumns;  // columns of y that are stored at a time
constexpr int64_t kMaxPanelColumns = 512;           // columns of a task, at most
constexpr int64_t kSpreadBlocks = 4;  // from this many blocks of dot products on, prefetches are spread over them
constexpr int64_t kRunDepth = 640;    // of a run of long sums: its rows of W, as floats, fit the first-level cache

template <typename T>
struct Job {
  const T* x;            // [rows, depth], rows x_stride apart
  const T* const* w;     // [columns[i], depth] each
  const T* const* bias;  // [columns[i]] each, or null
  T* const* y;           // [rows, columns[i]] each
  const int64_t* columns;
  int64_t matrices, rows, depth, x_stride;
};

template <typename T>
INLINED int64_t whole_steps(const Job<T>& job) {
  return job.depth / SumOrder<T>::width * SumOrder<T>::width;
}

// Writes some rows of x as floats in sum order, without the columns past `whole`.
template <typename T>
FOR_EVERY_CPU void arrange(const Job<T>& job, int64_t row, int64_t rows, int64_t whole, float* out) {
  for (int64_t r = 0; r < rows; ++r) widen(job.x + (row + r) * job.x_stride, whole, out + r * whole);
}

// dots[r * kDotColumns + c] = x row r . W row c for `rows` rows of x, or one run of these sums. The next rows of W are
// prefetched meanwhile: by the first of a few blocks, or a share before each of many, as only some twenty requests can be in
// flight at once. A function of its own leaves the inner loop all registers.
template <typename W, typename N>
FOR_EVERY_CPU void dots_of(int64_t rows, const float* x, int64_t x_stride, const W* const* w, int64_t depth, const N* next,
                           Run run, float* dots) {
  const int64_t blocks = (rows + kDotRows - 1) / kDotRows, bytes = kDotColumns * depth * sizeof(N);
  const int64_t share = blocks < kSpreadBlocks ? 0 : (bytes / blocks + 63) / 64;
  const char* ahead = reinterpret_cast<const char*>(next);
  int64_t row = 0;
  if (!share) {
    if (rows == 1) return dot_block<W, 1, 1>(x, x_stride, w, depth, &next, dots, run);
    if (rows == 2) return dot_block<W, 2, 1>(x, x_stride, w, depth, &next, dots, run);
    dot_block<W, 3, 1>(x, x_stride, w, depth, &next, dots, run.after(row));
    row = kDotRows;
  }
  for (; row + kDotRows <= rows; row += kDotRows) {
    for (int64_t line = 0; line < share; ++line, ahead += 64) __builtin_prefetch(ahead, 0, 2);
    dot_block<W, 3, 0>(x + row * x_stride, x_stride, w, depth, &next, dots + row * kDotColumns, run.after(row));
  }
  if (rows - row == 2) {
    dot_block<W, 2, 0>(x + row * x_stride, x_stride, w, depth, &next, dots + row * kDotColumns, run.after(row));
  } else if (rows - row == 1) {
    dot_block<W, 1, 0>(x + row * x_stride, x_stride, w, depth, &next, dots + row * kDotColumns, run.after(row));
  }
}

// Adds the tails of the sums and the bias to the dot products of `rows` rows of x with `width` rows of W, and stores them.
// They lie as dots_of leaves them; those with the next kDotColumns rows of W begin kPassRows * kDotColumns further on.
template <typename T>
FOR_EVERY_CPU void finish(const Job<T>& job, int64_t whole, int64_t row, int64_t rows, int64_t i, int64_t column,
                          int64_t width, const float* dots) {
  const T *w = job.w[i] + column * job.depth, *bias = job.bias[i] ? job.bias[i] + column : nullptr;
  for (int64_t r = 0; r < rows; ++r) {
    const float* dot = dots + r * kDotColumns;
    T* y = job.y[i] + (row + r) * job.columns[i] + column;
    if (width == kStoreColumns && whole == job.depth) {
#pragma GCC unroll 2
      for (int64_t c = 0; c < kStoreColumns; c += kLanes) {
        const Quad low = load_quad(dot + c * kPassRows), high = load_quad(dot + (c + kDotColumns) * kPassRows);
        const Vector sums = __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7);
        save(y + c, bias ? sums + load(bias + c) : sums);
      }
      continue;
    }
    const T* tail = job.x + (row + r) * job.x_stride;
    for (int64_t c = 0; c < width; ++c) {
      float sum = dot[c / kDotColumns * kDotColumns * kPassRows + c % kDotColumns];
      for (int64_t d = whole; d < job.depth; ++d) sum += to_float(tail[d]) * to_float(w[c * job.depth + d]);
      from_float(bias ? sum + to_float(bias[c]) : sum, y + c);
    }
  }
}

// Multiplies `rows` rows from `row` on, arranged at x, with columns first .. last - 1 of matrix i. `wide` is scratch for
// kDotColumns * kRunDepth floats.
template <typename T>
FOR_EVERY_CPU void multiply(const Job<T>& job, int64_t row, int64_t rows, const float* x, int64_t x_stride, int64_t i,
                            int64_t first, int64_t last, float* wide) {
  const int64_t whole = whole_steps(job);
  const bool many = job.rows >= kWidenRows, widened = many && SumOrder<T>::width != kLanes;
  const int64_t runs = many ? std::max<int64_t>((whole + kRunDepth - 1) / kRunDepth, 1) : 1;
  const int64_t length = round_to_width<T>((whole + runs - 1) / runs);
  alignas(64) float dots[kStoreColumns * kPassRows], sums[kPassRows * kDotColumns * kLanes];
  for (int64_t column = first; column < last; column += kStoreColumns) {
    const int64_t width = std::min(kStoreColumns, last - column);
    for (int64_t some = 0; some < width; some += kDotColumns) {
      const int64_t after = std::min(column + some + kDotColumns, job.columns[i] - kDotColumns);
      for (int64_t run = 0; run < runs; ++run) {
        const int64_t start = run * length, depth = std::min(length, whole - start);
        const T *w[kDotColumns], *next = job.w[i] + std::max<int64_t>(after, 0) * job.depth + start * kDotColumns;
        const float* right[kDotColumns];
        for (int64_t c = 0; c < kDotColumns; ++c) {
          w[c] = job.w[i] + std::min(column + some + c, last - 1) * job.depth + start;
          if (widened) widen(w[c], depth, wide + c * length), right[c] = wide + c * length;
        }
        const Run part{sums, run == 0, run + 1 == runs};
        if (widened) {
          dots_of(rows, x + start, x_stride, right, depth, next, part, dots + some * kPassRows);
        } else {
          dots_of(rows, x + start, x_stride, w, depth, next, part, dots + some * kPassRows);
        }
      }
    }
    finish(job, whole, row, rows, i, column, width, dots);
  }
}

// A task is a pass (rows of x that fit the second-level cache) times a panel (columns of one matrix). Few rows are one pass,
// whose panels the threads share; many rows go pass by pass, so that x is arranged and read once.
template <typename T>
void linear(const Job<T>& job, int threads) {
  const int64_t whole = whole_steps(job);
  const bool in_place = SumOrder<T>::width == kLanes;  // float32 is in sum order as it lies
  const int64_t most = std::clamp(kCacheFloats / std::max<int64_t>(whole, 1), kWidenRows, kPassRows);
  const int64_t passes = (job.rows + most - 1) / most, pass = passes ? (job.rows + passes - 1) / passes : 0;
  // Panels are long, so that few prefetches are wasted, and short enough for the threads to end together.
  int64_t total = 0;
  for (int64_t i = 0; i < job.matrices; ++i) total += job.columns[i];
  const int64_t panel_columns =
      std::clamp<int64_t>(total * passes / (threads * 6) / kStoreColumns * kStoreColumns, kStoreColumns, kMaxPanelColumns);
  std::vector<int64_t> starts(job.matrices + 1, 0);  // panels before each matrix
  for (int64_t i = 0; i < job.matrices; ++i) {
    starts[i + 1] = starts[i] + (job.columns[i] + panel_columns - 1) / panel_columns;
  }
  const int64_t panels = starts[job.matrices];
#pragma omp parallel num_threads(threads)
  {
    thread_local Scratch<float> wide, arranged;  // from call to call, so that none waits for fresh memory
    if (!in_place && wide.empty()) wide.resize(kDotColumns * kRunDepth);
    if (!in_place && static_cast<int64_t>(arranged.size()) < pass * whole) arranged.resize(pass * whole);
    int64_t arranged_row = -1;  // the row whose pass is arranged
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < passes * panels; ++task) {
      const int64_t panel = task % panels, row = task / panels * pass, rows = std::min(pass, job.rows - row);
      if (!in_place && row != arranged_row) arrange(job, row, rows, whole, arranged.data()), arranged_row = row;
      const float* x = in_place ? reinterpret_cast<const float*>(job.x + row * job.x_stride) : arranged.data();
      int64_t i = 0;
      while (panel >= starts[i + 1]) ++i;
      const int64_t first = (panel - starts[i]) * panel_columns;
      multiply(job, row, rows, x, in_place ? job.x_stride : whole, i, first, std::min(first + panel_columns, job.columns[i]),
               wide.data());
    }
  }
}

}  // namespace

#define LEAPGEN_LINEAR(NAME, T)                                                                                            \
  void leapgen_linear_##NAME(const void* x, const void* const* w, const void* const* bias, void* const* y,                 \
                             const int64_t* columns, int64_t matrices, int64_t rows, int64_t depth, int64_t x_stride,      \
                             int threads) {                                                                                \
    linear(Job<T>{static_cast<const T*>(x), reinterpret_cast<const T* const*>(w), reinterpret_cast<const T* const*>(bias), \
                  reinterpret_cast<T* const*>(y), columns, matrices, rows, depth, x_stride},                               \
           threads);                                                                                                       \
  }

LEAPGEN_LINEAR(float32, float)
LEAPGEN_LINEAR(bfloat16, BFloat16)

}  // namespace leapgen
