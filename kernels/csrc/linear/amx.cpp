// y = x W^T + b in bfloat16 by matrix tiles (AMX), with W read in place: no second copy of the weights.
//
// Sixteen rows of W, thirty-two elements at a time, are an A tile as they lie in memory; x, the small row_block, is arranged
// as B tiles once a call. So C is a block of y^T, and every element of y is summed in one fixed order, alone and in a batch.
// B tiles consist of pairs of rows of y^T: a y that is only the next layer's x is stored as such.

#include <algorithm>
#include <utility>
#include <vector>

#include "isa/scratch.h"
#include "linear/amx_store.h"

namespace leapgen {
namespace {

constexpr int64_t kCacheBytes = 1 << 20;         // of W that stay in the second-level cache while rows of x stream through
constexpr int64_t kSliceRows = 16 * kBlockRows;  // rows of x in a slice, at least

// Multiplies rows first_row .. last_row - 1, arranged at x, with columns first .. last - 1 of matrix i, or of the gated
// pair: so few that their rows of W stay in the second-level cache, and a block of rows of x in the first. `scratch` is for
// packed rows of W. `following` is the W of the thread's next task, as far as it can be foreseen, or null.
template <class Tiles>
void multiply_columns(Tiles& tiles, const Job& job, int64_t first_row, int64_t last_row, const uint32_t* x, int64_t i,
                      int64_t first, int64_t last, const BFloat16* following, char* scratch) {
  const int64_t columns = job.columns[i], steps = job.steps(), row_block = job.row_block(), together = job.together();
  const int64_t blocks = (last - first + kBlockRows - 1) / kBlockRows * together;  // of W
  const int64_t share = (2 * row_block * 4 / (steps * blocks) + 63) / 64 * 64;     // of the next rows of x
  const bool many = last_row - first_row > kManyRows, whole = job.depth % kTileDepth == 0;
  const int64_t block = many ? kBlockRows : kManyRows;
  alignas(64) float c[2 * kBlockRows * kGroupRows];
  for (int64_t row = first_row; row < last_row; row += block, x += block / kSide * row_block) {
    const int64_t rows = std::min(block, last_row - row);
    // Groups are of one size, so that none is small.
    const int64_t groups = (rows + kGroupRows - 1) / kGroupRows;
    const int64_t group = ((rows + groups - 1) / groups + kSide - 1) / kSide * kSide;
    for (int64_t column = first; column < last; column += kBlockRows) {
      const int64_t width = std::min(kBlockRows, last - column), number = (column - first) / kBlockRows * together;
      for (int64_t r = 0; r < rows; r += group) {
        const int64_t these = std::min(group, rows - r);
        for (int64_t m = 0; m < together; ++m) {
          const BFloat16* w = job.w[i + m] + column * job.depth;
          Weights weights = in_place(w, job.depth);
          if ((many && reinterpret_cast<uintptr_t>(w) % 64) || !whole || width < kBlockRows) {
            char* tiles_of_w = scratch + (number + m) * steps * 2 * kTileBytes;
            if (row == first_row && r == 0) pack(w, width, job.depth, tiles_of_w);
            weights = packed(tiles_of_w);
          }
          Prefetch prefetch{};
          if (row > first_row && many) {  // W is in the cache: prefetch the next rows of x
            prefetch = {reinterpret_cast<const char*>(x + 2 * row_block) + (number + m) * steps * share, share};
          } else if (row == first_row && r == 0 && whole && width == kBlockRows) {
            const BFloat16* next = m + 1 < together                  ? job.w[i + 1] + column * job.depth
                                   : column + 2 * kBlockRows <= last ? job.w[i] + (column + kBlockRows) * job.depth
                                                                     : following;
            prefetch = {reinterpret_cast<const char*>(next), many && next ? kBlockRows * 64 : 0};
          }
          multiply_block(tiles, weights, x + r / kSide * row_block, these, steps, many, prefetch,
                         c + m * kBlockRows * kGroupRows);
        }
        const auto bias_of = [&](int64_t m) { return job.bias[i + m] ? job.bias[i + m] + column : nullptr; };
        if (job.gate != Gate::kNone) {
          const int64_t next_row_block = columns * kSide / 2;
          run(tiles, PutGated{job.gate, c, bias_of(0), bias_of(1), these, next_row_block,
                              job.arranged + (row + r) / kSide * next_row_block + column / kBlockRows * kSide * kSide});
        } else {
          run(tiles, Put{c, bias_of(0), width, these, columns, job.y[i] + (row + r) * columns + column});
        }
      }
    }
  }
}

// A job's tasks: a slice (rows of x) times a panel (columns of one matrix or of the gated pair).
struct Tasks {
  const Job& job;
  int64_t threads, slices, slice_rows, panel;
  std::vector<int64_t> starts;  // panels before each matrix

  Tasks(const Job& job, int threads) : job(job), threads(threads), starts(1, 0) {
    // Panels are long, so that few prefetches are wasted, and short enough for the threads to end together.
    int64_t total = 0;
    for (int64_t i = 0; i < job.matrices; i += job.together()) total += job.columns[i];
    const int64_t most = std::max(kCacheBytes / (job.steps() * kTileDepth * 2 * job.together() + 1), kBlockRows);
    slices = std::clamp<int64_t>(job.rows / kSliceRows, 1, threads);
    slice_rows = (job.rows + slices * kBlockRows - 1) / (slices * kBlockRows) * kBlockRows;
    panel = std::clamp((total * slices + 2 * threads - 1) / (2 * threads), kBlockRows, most) / kBlockRows * kBlockRows;
    for (int64_t i = 0; i < job.matrices; i += job.together()) {
      starts.push_back(starts.back() + (job.columns[i] + panel - 1) / panel);
    }
  }

  int64_t scratch() const { return panel * job.together() * job.steps() * 64; }

  // A panel's first matrix and first column.
  std::pair<int64_t, int64_t> place_of(int64_t c) const {
    int64_t i = 0;
    while (c >= starts[i + 1]) ++i;
    return {i * job.together(), (c - starts[i]) * panel};
  }

  // Called by all threads of a team; x is arranged.
  template <class Tiles>
  void run(Tiles& tiles, const uint32_t* x, char* scratch) const {
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < slices * starts.back(); ++task) {
      const auto [i, first] = place_of(task / slices);
      const int64_t row = task % slices * slice_rows, next = task + threads;
      const BFloat16* following = nullptr;
      if (slices == 1 && next < starts.back()) {
        const auto [j, column] = place_of(next);
        following = job.w[j] + column * job.depth;
      }
      multiply_columns(tiles, job, row, std::min(row + slice_rows, job.rows), x + row / kSide * job.row_block(), i, first,
                       std::min(first + panel, job.columns[i]), following, scratch);
    }
  }
};

// Runs jobs one after the other; each but the last is a gated pair whose y is the next one's x.
template <class Tiles>
void linear(Job* jobs, int64_t count, int threads) {
  thread_local std::vector<Scratch<uint32_t>> kept(2);  // from call to call, so that none waits for fresh memory
  std::vector<Tasks> tasks;
  int64_t scratch_size = 0;
  for (int64_t i = 0; i < count; ++i) {
    const size_t size = jobs[i].row_blocks() * jobs[i].row_block();
    if (kept[i].size() < size) kept[i].resize(size);
    if (i > 0) jobs[i - 1].arranged = kept[i].data();
    tasks.emplace_back(jobs[i], threads);
    scratch_size = std::max(scratch_size, tasks.back().scratch());
  }
  Scratch<uint32_t>* const arranged = kept.data();
#pragma omp parallel num_threads(threads)
  {
    Tiles tiles;
    tiles.begin();
    thread_local Scratch<char> scratch;
    if (scratch.size() < static_cast<size_t>(scratch_size)) scratch.resize(scratch_size);
#pragma omp for schedule(static)
    for (int64_t s = 0; s < jobs[0].row_blocks(); ++s) {
      arrange(jobs[0], s * kSide, arranged[0].data() + s * jobs[0].row_block());
    }
    for (int64_t i = 0; i < count; ++i) tasks[i].run(tiles, arranged[i].data(), scratch.data());
    tiles.end();
  }
}

template <class Tiles>
void linear(Job job, int threads) {
  linear<Tiles>(&job, 1, threads);
}

// y = (f(x V^T + a) * (x W^T + b)) U^T + c.
struct Gated {
  const BFloat16 *x, *const *w, *const *bias;  // w: V, W [inner, depth] and U [columns, inner]; bias: a, b, c, or null each
  BFloat16* y;                                 // [rows, columns]
  Gate gate;
  int64_t rows, depth, x_stride, inner, columns;  // inner: a multiple of kTileDepth
};

template <class Tiles>
void gated(const Gated& all, int threads) {
  const int64_t columns[3] = {all.inner, all.inner, all.columns};
  Job jobs[2] = {{all.x, all.w, all.bias, nullptr, columns, 2, all.rows, all.depth, all.x_stride, all.gate, nullptr},
                 {nullptr, all.w + 2, all.bias + 2, &all.y, columns + 2, 1, all.rows, all.inner, 0}};
  linear<Tiles>(jobs, 2, threads);
}

}  // namespace

int leapgen_has_amx() { return hardware_tiles(); }

#define LEAPGEN_LINEAR(NAME, TILES)                                                                                        \
  void leapgen_linear_##NAME(const void* x, const void* const* w, const void* const* bias, void* const* y,                 \
                             const int64_t* columns, int64_t matrices, int64_t rows, int64_t depth, int64_t x_stride,      \
                             int threads) {                                                                                \
    linear<TILES>(Job{static_cast<const BFloat16*>(x), reinterpret_cast<const BFloat16* const*>(w),                        \
                      reinterpret_cast<const BFloat16* const*>(bias), reinterpret_cast<BFloat16* const*>(y), columns,      \
                      matrices, rows, depth, x_stride},                                                                    \
                  threads);                                                                                                \
  }                                                                                                                        \
  void leapgen_gated_##NAME(const void* x, const void* const* w, const void* const* bias, void* y, int64_t gate,           \
                            int64_t rows, int64_t depth, int64_t x_stride, int64_t inner, int64_t columns, int threads) {  \
    gated<TILES>(Gated{static_cast<const BFloat16*>(x), reinterpret_cast<const BFloat16* const*>(w),                       \
                       reinterpret_cast<const BFloat16* const*>(bias), static_cast<BFloat16*>(y), static_cast<Gate>(gate), \
                       rows, depth, x_stride, inner, columns},                                                             \
                 threads);                                                                                                 \
  }

LEAPGEN_LINEAR(amx, HardwareTiles)
LEAPGEN_LINEAR(amx_model, ModelTiles)

}  // namespace leapgen
