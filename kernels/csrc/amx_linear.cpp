// y = x W^T + b in bfloat16 by matrix tiles (AMX), W read where it lies: no packing, no second copy of the weights.
//
// Sixteen rows of W, thirty-two elements at a time, are an A tile as they lie in memory; x, the small side, is arranged as B
// tiles once a call. So C is a block of y^T, and every element of y is summed in one fixed order whatever else is in the
// batch.

#include <algorithm>

#include "amx.h"

namespace leapgen {
namespace {

constexpr int64_t kBlock = 2 * kSide;  // rows of W, and of x, whose products are made together: four C tiles

struct Job {
  const BFloat16* x;            // [rows, depth], rows x_stride apart
  const BFloat16* const* w;     // `weights` matrices [columns[i], depth]
  const BFloat16* const* bias;  // [columns[i]] each, or null
  BFloat16* const* y;           // [rows, columns[i]] each
  const int64_t* columns;
  int64_t weights, rows, depth, x_stride;

  int64_t steps() const { return (depth + kStep - 1) / kStep; }
  int64_t sides() const { return (rows + kSide - 1) / kSide; }
};

// x as B tiles [sides, steps][kSide pairs][kSide rows of x][2], zeros where there is no x.
void arrange(const Job& job, uint32_t* out) {
  for (int64_t side = 0; side < job.sides(); ++side) {
    for (int64_t step = 0; step < job.steps(); ++step, out += kSide * kSide) {
      for (int64_t j = 0; j < kSide; ++j) {
        const int64_t row = side * kSide + j, first = step * kStep;
        const int64_t there = row < job.rows ? std::min(kStep, job.depth - first) : 0;
        uint32_t pairs[kSide] = {};
        std::memcpy(pairs, job.x + (there ? row * job.x_stride + first : 0), there * sizeof(BFloat16));
        for (int64_t p = 0; p < kSide; ++p) out[p * kSide + j] = pairs[p];
      }
    }
  }
}

// C tiles of kBlock rows of W and S * kSide rows of x, as floats [kBlock][kBlock]. The kBlock rows `ahead`, w_stride
// bytes apart too, are asked for meanwhile.
template <class Tiles, int S>
void multiply(Tiles& tiles, const char* w, int64_t w_stride, const uint32_t* x, int64_t steps, const char* ahead, float* c) {
  const int64_t side = steps * kSide * kSide;
  tiles.template zero<0>();
  tiles.template zero<1>();
  tiles.template zero<2>();
  tiles.template zero<3>();
  for (int64_t step = 0; step < steps; ++step) {
    if (ahead) {
      for (int64_t row = 0; row < kBlock; ++row) __builtin_prefetch(ahead + row * w_stride + step * 64, 0, 2);
    }
    tiles.template load<4>(w + step * 64, w_stride);
    tiles.template load<5>(w + kSide * w_stride + step * 64, w_stride);
    tiles.template load<6>(x + step * kSide * kSide, 64);
    tiles.template multiply<0, 4, 6>();
    tiles.template multiply<1, 5, 6>();
    if (S == 2) {
      tiles.template load<7>(x + side + step * kSide * kSide, 64);
      tiles.template multiply<2, 4, 7>();
      tiles.template multiply<3, 5, 7>();
    }
  }
  constexpr int64_t stride = kBlock * sizeof(float);
  tiles.template store<0>(c, stride);
  tiles.template store<1>(c + kSide * kBlock, stride);
  if (S == 2) {
    tiles.template store<2>(c + kSide, stride);
    tiles.template store<3>(c + kSide * kBlock + kSide, stride);
  }
}

// y = c^T + bias, for `width` columns of y from `y` on and `rows` rows of it, `columns` apart.
FOR_EVERY_CPU void put(const float* c, const BFloat16* bias, int64_t width, int64_t rows, int64_t columns, BFloat16* y) {
  int64_t column = 0;
  for (; column + kLanes <= width; column += kLanes) {
    const Vector added = bias ? load(bias + column) : Vector{};
    for (int64_t row = 0; row < rows; row += kLanes) {
      Vector block[kLanes];
      for (int64_t i = 0; i < kLanes; ++i) block[i] = load(c + (column + i) * kBlock + row);
      transpose(block);
      const int64_t count = std::min(kLanes, rows - row);
      for (int64_t r = 0; r < count; ++r) save(y + (row + r) * columns + column, block[r] + added);
    }
  }
  for (; column < width; ++column) {
    const float added = bias ? to_float(bias[column]) : 0.0f;
    for (int64_t row = 0; row < rows; ++row) from_float(c[column * kBlock + row] + added, y + row * columns + column);
  }
}

// Columns first .. last - 1 of matrix i, all rows. `padded` is room for kBlock rows of W, for where a tile would reach past
// the matrix.
template <class Tiles>
void columns_of(Tiles& tiles, const Job& job, const uint32_t* x, int64_t i, int64_t first, int64_t last, BFloat16* padded) {
  const int64_t columns = job.columns[i], steps = job.steps(), side = steps * kSide * kSide;
  alignas(64) float c[kBlock * kBlock];
  for (int64_t column = first; column < last; column += kBlock) {
    const int64_t width = std::min(kBlock, last - column);
    const BFloat16* w = job.w[i] + column * job.depth;
    int64_t stride = job.depth;
    const char* ahead = nullptr;
    if (job.depth % kStep || width < kBlock) {
      stride = steps * kStep;
      std::memset(padded, 0, kBlock * stride * sizeof(BFloat16));
      for (int64_t row = 0; row < width; ++row) std::memcpy(padded + row * stride, w + row * job.depth, job.depth * sizeof *w);
      w = padded;
    } else if (column + 2 * kBlock <= columns) {
      ahead = reinterpret_cast<const char*>(w + kBlock * job.depth);
    }
    const auto* bytes = reinterpret_cast<const char*>(w);
    for (int64_t row = 0; row < job.rows; row += kBlock, ahead = nullptr) {
      const uint32_t* tile = x + row / kSide * side;
      if (job.rows - row > kSide) {
        multiply<Tiles, 2>(tiles, bytes, stride * sizeof *w, tile, steps, ahead, c);
      } else {
        multiply<Tiles, 1>(tiles, bytes, stride * sizeof *w, tile, steps, ahead, c);
      }
      put(c, job.bias[i] ? job.bias[i] + column : nullptr, width, std::min(kBlock, job.rows - row), columns,
          job.y[i] + row * columns + column);
    }
  }
}

template <class Tiles>
void linear(const Job& job, int threads) {
  thread_local Scratch<uint32_t> arranged;  // kept, so that no call waits for fresh memory
  const size_t size = job.sides() * job.steps() * kSide * kSide;
  if (arranged.size() < size) arranged.resize(size);
  uint32_t* x = arranged.data();
  arrange(job, x);
  // Long runs of rows, so that fetching ahead is seldom in vain; short enough for a slow thread to be helped out.
  int64_t total = 0;
  for (int64_t i = 0; i < job.weights; ++i) total += job.columns[i];
  const int64_t chunk = std::clamp<int64_t>(total / (threads * 6) / kBlock * kBlock, kBlock, 512);
  std::vector<int64_t> starts(job.weights + 1, 0);  // chunks before each matrix
  for (int64_t i = 0; i < job.weights; ++i) starts[i + 1] = starts[i] + (job.columns[i] + chunk - 1) / chunk;
#pragma omp parallel num_threads(threads)
  {
    Tiles tiles;
    tiles.begin();
    Scratch<BFloat16> padded(kBlock * job.steps() * kStep);
#pragma omp for schedule(dynamic)
    for (int64_t c = 0; c < starts[job.weights]; ++c) {
      int64_t i = 0;
      while (c >= starts[i + 1]) ++i;
      const int64_t first = (c - starts[i]) * chunk;
      columns_of(tiles, job, x, i, first, std::min(first + chunk, job.columns[i]), padded.data());
    }
    tiles.end();
  }
}

}  // namespace
}  // namespace leapgen

// Whether this machine multiplies tiles itself.
extern "C" __attribute__((visibility("default"))) int leapgen_has_amx() { return leapgen::hardware_tiles(); }

// As leapgen_linear_bfloat16: with the machine's tiles, or with the model of them.
#define LEAPGEN_EXPORT(NAME, TILES)                                                                                     \
  extern "C" __attribute__((visibility("default"))) void leapgen_linear_##NAME(                                         \
      const void* x, const void* const* w, const void* const* bias, void* const* y, const int64_t* columns,             \
      int64_t weights, int64_t rows, int64_t depth, int64_t x_stride, int threads) {                                    \
    using leapgen::BFloat16;                                                                                            \
    leapgen::linear<leapgen::TILES>(                                                                                    \
        leapgen::Job{static_cast<const BFloat16*>(x), reinterpret_cast<const BFloat16* const*>(w),                      \
                     reinterpret_cast<const BFloat16* const*>(bias), reinterpret_cast<BFloat16* const*>(y), columns,    \
                     weights, rows, depth, x_stride},                                                                   \
        threads);                                                                                                       \
  }

LEAPGEN_EXPORT(amx, HardwareTiles)
LEAPGEN_EXPORT(amx_model, ModelTiles)
