// y = x W^T + b in bfloat16 by matrix tiles (AMX), W read where it lies: no packing, no second copy of the weights.
//
// Sixteen rows of W, thirty-two elements at a time, are an A tile as they lie in memory; x, the small side, is arranged as B
// tiles once a call. So C is a block of y^T, and every element of y is summed in one fixed order whatever else is in the
// batch. Pairs of rows of y^T are what B tiles consist of: where y is only the x of a next layer, it is stored as such.

#include <algorithm>
#include <utility>
#include <vector>

#include "linear/amx_store.h"

namespace leapgen {
namespace {

constexpr int64_t kCacheBytes = 1 << 20;  // of W kept in the second-level cache while rows of x pass by
constexpr int64_t kPiece = 16 * kBlock;   // rows of x in a task at least, where rows are many

// Rows first_row .. last_row - 1, which lie arranged at x, times columns first .. last - 1 of matrix i, or of the pair: few
// columns, so that their rows of W stay in the second-level cache, and a block of rows of x in the first. `room` is for those
// rows of W; `following` is where the thread will probably read on, or null.
template <class Tiles>
void columns_of(Tiles& tiles, const Job& job, int64_t first_row, int64_t last_row, const uint32_t* x, int64_t i, int64_t first,
                int64_t last, const BFloat16* following, char* room) {
  const int64_t columns = job.columns[i], steps = job.steps(), side = job.side(), together = job.together();
  const int64_t blocks = (last - first + kBlock - 1) / kBlock * together;  // of W
  const int64_t share = (2 * side * 4 / (steps * blocks) + 63) / 64 * 64;  // of the next rows of x
  const bool many = last_row - first_row > kMany, whole = job.depth % kStep == 0;
  const int64_t block = many ? kBlock : kMany;
  alignas(64) float c[2 * kBlock * kMost];
  for (int64_t row = first_row; row < last_row; row += block, x += block / kSide * side) {
    const int64_t rows = std::min(block, last_row - row);
    // In groups of the same size, none too small, that meet W one after the other.
    const int64_t groups = (rows + kMost - 1) / kMost, group = ((rows + groups - 1) / groups + kSide - 1) / kSide * kSide;
    for (int64_t column = first; column < last; column += kBlock) {
      const int64_t width = std::min(kBlock, last - column), number = (column - first) / kBlock * together;
      for (int64_t r = 0; r < rows; r += group) {
        const int64_t these = std::min(group, rows - r);
        for (int64_t m = 0; m < together; ++m) {
          const BFloat16* w = job.w[i + m] + column * job.depth;
          Left left = where_it_lies(w, job.depth);
          if ((many && reinterpret_cast<uintptr_t>(w) % 64) || !whole || width < kBlock) {
            char* tiles_of_w = room + (number + m) * steps * 2 * kTileBytes;
            if (row == first_row && r == 0) lay_out(w, width, job.depth, tiles_of_w);
            left = laid_out(tiles_of_w);
          }
          Ahead ahead{};
          if (row > first_row && many) {  // W is in the cache by now
            ahead = {reinterpret_cast<const char*>(x + 2 * side) + (number + m) * steps * share, share};
          } else if (row == first_row && r == 0 && whole && width == kBlock) {
            const BFloat16* next = m + 1 < together ? job.w[i + 1] + column * job.depth
                                   : column + 2 * kBlock <= last ? job.w[i] + (column + kBlock) * job.depth : following;
            ahead = {reinterpret_cast<const char*>(next), many && next ? kBlock * 64 : 0};
          }
          multiply_block(tiles, left, x + r / kSide * side, these, steps, many, ahead, c + m * kBlock * kMost);
        }
        const auto bias_of = [&](int64_t m) { return job.bias[i + m] ? job.bias[i + m] + column : nullptr; };
        if (job.gate) {
          const int64_t next_side = columns * kSide / 2;
          run(tiles, PutGated{job.gate, c, bias_of(0), bias_of(1), these, next_side,
                              job.arranged + (row + r) / kSide * next_side + column / kBlock * kSide * kSide});
        } else {
          run(tiles, Put{c, bias_of(0), width, these, columns, job.y[i] + (row + r) * columns + column});
        }
      }
    }
  }
}

// How a job's work is cut into tasks: some rows of x times some columns, the latter of one matrix or of the pair.
struct Tasks {
  const Job& job;
  int64_t threads, pieces, piece, chunk;  // runs of rows; columns
  std::vector<int64_t> starts;            // chunks before each matrix

  Tasks(const Job& job, int threads) : job(job), threads(threads), starts(1, 0) {
    // Long runs of rows of W, so that fetching ahead is seldom in vain; short enough for a slow thread to be helped out.
    int64_t total = 0;
    for (int64_t i = 0; i < job.weights; i += job.together()) total += job.columns[i];
    const int64_t most = std::max(kCacheBytes / (job.steps() * kStep * 2 * job.together() + 1), kBlock);
    pieces = std::clamp<int64_t>(job.rows / kPiece, 1, threads);
    piece = (job.rows + pieces * kBlock - 1) / (pieces * kBlock) * kBlock;
    chunk = std::clamp((total * pieces + 2 * threads - 1) / (2 * threads), kBlock, most) / kBlock * kBlock;
    for (int64_t i = 0; i < job.weights; i += job.together()) {
      starts.push_back(starts.back() + (job.columns[i] + chunk - 1) / chunk);
    }
  }

  int64_t room() const { return chunk * job.together() * job.steps() * 64; }

  // First matrix and first column of a chunk.
  std::pair<int64_t, int64_t> place_of(int64_t c) const {
    int64_t i = 0;
    while (c >= starts[i + 1]) ++i;
    return {i * job.together(), (c - starts[i]) * chunk};
  }

  // To be called by all threads of a team; x lies arranged.
  template <class Tiles>
  void run(Tiles& tiles, const uint32_t* x, char* room) const {
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < pieces * starts.back(); ++task) {
      const auto [i, first] = place_of(task / pieces);
      const int64_t row = task % pieces * piece, next = task + threads;
      const BFloat16* following = nullptr;
      if (pieces == 1 && next < starts.back()) {
        const auto [j, column] = place_of(next);
        following = job.w[j] + column * job.depth;
      }
      columns_of(tiles, job, row, std::min(row + piece, job.rows), x + row / kSide * job.side(), i, first,
                 std::min(first + chunk, job.columns[i]), following, room);
    }
  }
};

// Jobs one after the other, each but the last a gated pair whose y is the x of the next.
template <class Tiles>
void linear(Job* jobs, int64_t count, int threads) {
  thread_local std::vector<Scratch<uint32_t>> kept(2);  // so that no call waits for fresh memory
  std::vector<Tasks> tasks;
  int64_t room_size = 0;
  for (int64_t i = 0; i < count; ++i) {
    const size_t size = jobs[i].sides() * jobs[i].side();
    if (kept[i].size() < size) kept[i].resize(size);
    if (i > 0) jobs[i - 1].arranged = kept[i].data();
    tasks.emplace_back(jobs[i], threads);
    room_size = std::max(room_size, tasks.back().room());
  }
  Scratch<uint32_t>* const arranged = kept.data();
#pragma omp parallel num_threads(threads)
  {
    Tiles tiles;
    tiles.begin();
    thread_local Scratch<char> room;
    if (room.size() < static_cast<size_t>(room_size)) room.resize(room_size);
#pragma omp for schedule(static)
    for (int64_t s = 0; s < jobs[0].sides(); ++s) arrange(jobs[0], s * kSide, arranged[0].data() + s * jobs[0].side());
    for (int64_t i = 0; i < count; ++i) tasks[i].run(tiles, arranged[i].data(), room.data());
    tiles.end();
  }
}

// y = (f(x V^T + a) * (x W^T + b)) U^T + c.
struct Gated {
  const BFloat16 *x, *w[3], *bias[3];  // V, W: [inner, depth]; U: [columns, inner]; biases or null
  BFloat16* y;                         // [rows, columns]
  Gate gate;
  int64_t rows, depth, x_stride, inner, columns;  // inner: a multiple of kStep
};

template <class Tiles>
void gated(const Gated& all, int threads) {
  const int64_t columns[3] = {all.inner, all.inner, all.columns};
  Job jobs[2] = {{all.x, all.w, all.bias, nullptr, columns, 2, all.rows, all.depth, all.x_stride, all.gate, nullptr},
                 {nullptr, all.w + 2, all.bias + 2, &all.y, columns + 2, 1, all.rows, all.inner, 0}};
  linear<Tiles>(jobs, 2, threads);
}

}  // namespace
}  // namespace leapgen

// Whether this machine multiplies tiles itself.
extern "C" __attribute__((visibility("default"))) int leapgen_has_amx() { return leapgen::hardware_tiles(); }

// As leapgen_linear_bfloat16, and a gated pair of layers with the one after it: with the machine's tiles, or with the model
// of them.
#define LEAPGEN_EXPORT(NAME, TILES)                                                                                     \
  extern "C" __attribute__((visibility("default"))) void leapgen_linear_##NAME(                                         \
      const void* x, const void* const* w, const void* const* bias, void* const* y, const int64_t* columns,             \
      int64_t weights, int64_t rows, int64_t depth, int64_t x_stride, int threads) {                                    \
    using leapgen::BFloat16;                                                                                            \
    leapgen::Job job{static_cast<const BFloat16*>(x), reinterpret_cast<const BFloat16* const*>(w),                      \
                     reinterpret_cast<const BFloat16* const*>(bias), reinterpret_cast<BFloat16* const*>(y), columns,    \
                     weights, rows, depth, x_stride};                                                                   \
    leapgen::linear<leapgen::TILES>(&job, 1, threads);                                                                  \
  }                                                                                                                     \
  extern "C" __attribute__((visibility("default"))) void leapgen_gated_##NAME(                                          \
      const void* x, const void* const* w, const void* const* bias, void* y, int64_t gate, int64_t rows, int64_t depth, \
      int64_t x_stride, int64_t inner, int64_t columns, int threads) {                                                  \
    using leapgen::BFloat16;                                                                                            \
    const auto of = [](const void* p) { return static_cast<const BFloat16*>(p); };                                      \
    leapgen::gated<leapgen::TILES>({of(x), {of(w[0]), of(w[1]), of(w[2])}, {of(bias[0]), of(bias[1]), of(bias[2])},     \
                                    static_cast<BFloat16*>(y), static_cast<leapgen::Gate>(gate), rows, depth, x_stride, \
                                    inner, columns},                                                                    \
                                   threads);                                                                            \
  }

LEAPGEN_EXPORT(amx, HardwareTiles)
LEAPGEN_EXPORT(amx_model, ModelTiles)
