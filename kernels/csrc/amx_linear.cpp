// y = x W^T + b in bfloat16 by matrix tiles (AMX), W read where it lies: no packing, no second copy of the weights.
//
// Sixteen rows of W, thirty-two elements at a time, are an A tile as they lie in memory; x, the small side, is arranged as B
// tiles once a call. So C is a block of y^T, and every element of y is summed in one fixed order whatever else is in the
// batch. Pairs of rows of y^T are what B tiles consist of: where y is only the x of a next layer, it is stored as such.

#include <algorithm>
#include <type_traits>
#include <utility>

#include "activation.h"
#include "amx.h"

namespace leapgen {
namespace {

constexpr int64_t kBlock = 2 * kSide;     // rows of W, and of x, whose products are made together: four C tiles
constexpr int64_t kCacheBytes = 1 << 20;  // of W kept in the second-level cache while rows of x pass by
constexpr int64_t kPiece = 16 * kBlock;   // rows of x in a task at least, where rows are many
constexpr int64_t kSoon = 4;             // tiles that the few rows' W is asked for before it is needed
constexpr int64_t kMost = 3 * kBlock;     // rows of x that meet a tile of W at once
constexpr int64_t kMany = 4 * kBlock;     // from more rows of x on, W is laid out anew if its rows straddle cache lines

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
