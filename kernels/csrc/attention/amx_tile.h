// One tile of keys by matrix tiles: scores of a pack's queries, their weights, and the weighted sums of values.

#pragma once

#include <cmath>

#include "attention/amx_pack.h"

namespace leapgen {
namespace {

constexpr float kSlack = 8.0f;                // powers of two that a score may exceed `highest` by before sums are rescaled
constexpr int64_t kAmxTileKeys = kTileDepth;  // one product of weights and values sums over them
static_assert(kTile % kAmxTileKeys == 0, "shared segments end where tiles end");

// A KV head's keys or values of a tile: kSide rows from each of two addresses on, `stride` elements apart.
struct TileRows {
  const BFloat16* half[2];
  int64_t stride;
};

// A head's `count` rows of a tile. Rows that no matrix tile can be loaded from are copied, padded with zeros.
TileRows tile_rows(const Attention& a, const Task& task, const BFloat16* pool, int64_t kv_head, int64_t dim, int64_t width,
                   int64_t position, int64_t count, BFloat16* copies) {
  const int64_t page_size = a.step.plan.page_size, stride = a.step.kv_heads * dim;
  const auto at = [&](int64_t t) {
    const int64_t p = position + t, slot = task.pages[p / page_size] * page_size + p % page_size;
    return pool + slot * stride + kv_head * dim;
  };
  if (a.in_place(dim)) return {{at(0), at(count > kSide ? kSide : 0)}, stride};
  for (int64_t t = 0; t < count; ++t) {
    std::memcpy(copies + t * width, at(t), dim * sizeof *copies);
    std::memset(static_cast<void*>(copies + t * width + dim), 0, (width - dim) * sizeof *copies);
  }
  return {{copies, copies + kSide * width}, width};
}

// The next tile's keys and values. Each part of the work on this tile prefetches a quarter of them, in small shares: only
// some sixteen requests can be in flight at once.
struct Prefetch {
  enum Part { kScore, kSoftmax, kInterleave, kAccumulate };
  struct Quarter {
    const BFloat16 *next = nullptr, *end = nullptr;
    int64_t share = 0;
  } quarters[4];

  INLINED void issue(Part part) {
    Quarter& q = quarters[part];
    const BFloat16* last = std::min(q.next + q.share, q.end);
    for (; q.next < last; q.next += kTileDepth) __builtin_prefetch(q.next, 0, 2);
  }
};

// The prefetch of a tile, shared out over the work on these packs; none where its heads are not contiguous.
Prefetch prefetch_of(const Attention& a, const Task& task, int64_t position, int64_t end, const std::vector<Pack>& packs) {
  const Step<BFloat16>& step = a.step;
  if (position >= end || task.kv_heads < step.kv_heads || !a.in_place(step.key_dim) || !a.in_place(step.value_dim)) {
    return {};
  }
  const int64_t count = std::min(kAmxTileKeys, end - position), all = packs.size() * packs[0].heads;
  const TileRows keys = tile_rows(a, task, step.keys, 0, step.key_dim, step.key_dim, position, count, nullptr);
  const TileRows values = tile_rows(a, task, step.values, 0, step.value_dim, step.value_dim, position, count, nullptr);
  const auto quarter = [](const TileRows& rows, int half, int64_t times) {
    const int64_t size = kSide * rows.stride;
    return Prefetch::Quarter{rows.half[half], rows.half[half] + size,
                             (size / times + kTileDepth - 1) / kTileDepth * kTileDepth};
  };
  return {{quarter(keys, 0, all * a.key_steps), quarter(keys, 1, packs.size() * kSide),
           quarter(values, 0, task.kv_heads * kSide), quarter(values, 1, all * a.value_width / kTileDepth)}};
}

// Values as B tiles: neighbouring rows are interleaved, 32 dims at a time. Dims 0-3, 8-11, 16-19 and 24-27 come to lie in
// one tile and the others in the next.
FOR_EVERY_CPU void interleave(const TileRows& values, int64_t count, int64_t width, Prefetch& prefetch, uint32_t* pairs) {
  const auto put = [](Line a, Line b, uint32_t* out) INLINE {
    save_all(out, __builtin_shufflevector(a, b, 0, 32, 1, 33, 2, 34, 3, 35, 8, 40, 9, 41, 10, 42, 11, 43, 16, 48, 17, 49, 18,
                                          50, 19, 51, 24, 56, 25, 57, 26, 58, 27, 59));
    save_all(out + kSide * kSide, __builtin_shufflevector(a, b, 4, 36, 5, 37, 6, 38, 7, 39, 12, 44, 13, 45, 14, 46, 15, 47,
                                                          20, 52, 21, 53, 22, 54, 23, 55, 28, 60, 29, 61, 30, 62, 31, 63));
  };
  const int64_t stride = values.stride;
  for (int64_t half = 0; half < 2; ++half) {
    const BFloat16* row = values.half[half];
    const int64_t there = count - half * kSide;
    for (int64_t p = half * kSide / 2; p < (half + 1) * kSide / 2; ++p, row += 2 * stride) {
      const int64_t t = 2 * p - half * kSide;
      prefetch.issue(Prefetch::kInterleave);
      uint32_t* out = pairs + p * kSide;
      if (t + 1 < there) {
#pragma GCC unroll 2
        for (int64_t d = 0; d < width; d += kTileDepth) {
          put(load_as<Line>(row + d), load_as<Line>(row + stride + d), out + d * kSide);
        }
      } else {
        for (int64_t d = 0; d < width; d += kTileDepth) {
          put(t < there ? load_as<Line>(row + d) : Line{}, Line{}, out + d * kSide);
        }
      }
    }
  }
}

// scores[t][lane] = key t . query of the lane.
template <class Tiles>
INLINED void score(Tiles& tiles, const Attention& a, const Pack& pack, const TileRows* keys, Prefetch& prefetch,
                   float* scores) {
  tiles.template zero<0>();
  tiles.template zero<1>();
  const uint32_t* query = pack.query;
  for (int64_t i = 0; i < pack.heads; ++i) {
    const int64_t stride = keys[i].stride * sizeof(BFloat16);
    for (int64_t step = 0; step < a.key_steps; ++step, query += kSide * kSide) {
      prefetch.issue(Prefetch::kScore);
      tiles.template load<3>(query, 64);
      tiles.template load_once<2>(keys[i].half[0] + step * kTileDepth, stride);
      tiles.template multiply<0, 2, 3>();
      tiles.template load_once<7>(keys[i].half[1] + step * kTileDepth, stride);
      tiles.template multiply<1, 7, 3>();
    }
  }
  tiles.template store<0>(scores, 64);
  tiles.template store<1>(scores + kSide * kSide, 64);
}

INLINED bool any(WideInt mask) {
  const auto low = __builtin_shufflevector(mask, mask, 0, 1, 2, 3, 4, 5, 6, 7);
  const auto both = low | __builtin_shufflevector(mask, mask, 8, 9, 10, 11, 12, 13, 14, 15);
  const auto quad = __builtin_shufflevector(both, both, 0, 1, 2, 3) | __builtin_shufflevector(both, both, 4, 5, 6, 7);
  typedef int64_t Halves __attribute__((vector_size(16)));
  const Halves h = bit_cast<Halves>(quad);
  return (h[0] | h[1]) != 0;
}

// Which keys of a tile the queries see, and what becomes of their scores.
struct Mask {
  bool unmasked;     // every query sees every key, without softcap
  int32_t position;  // of the first key
  int32_t count, window;
  float scaling, softcap;
};

INLINED void apply_mask(const Mask& mask, const Pack& pack, float* scores) {
  if (mask.softcap > 0.0f) {
    for (int64_t i = 0; i < kAmxTileKeys * kSide; ++i) {
      scores[i] = std::tanh(scores[i] * mask.scaling / mask.softcap) * mask.softcap / mask.scaling;
    }
  }
  // A loop for each condition: GCC takes two conditions in one loop lane by lane.
  const Wide own = __builtin_convertvector(load_as<WideInt>(pack.position) - mask.position, Wide);
  const Wide end = broadcast<Wide>(static_cast<float>(mask.count - 1)), last = own < end ? own : end;
  for (int64_t t = 0; t < kAmxTileKeys; ++t) {
    const Wide score = load_as<Wide>(scores + t * kSide);
    save_all(scores + t * kSide, last < static_cast<float>(t) ? broadcast<Wide>(-INFINITY) : score);
  }
  if (!mask.window) return;
  const Wide first = own - static_cast<float>(mask.window - 1);
  for (int64_t t = 0; t < kAmxTileKeys; ++t) {
    const Wide score = load_as<Wide>(scores + t * kSide);
    save_all(scores + t * kSide, first > static_cast<float>(t) ? broadcast<Wide>(-INFINITY) : score);
  }
}

// Replaces scores by weights, an A tile of pairs of keys for each query, and updates the pack's softmax.
struct Softmax {
  const Mask& mask;
  Pack& pack;
  int64_t width;
  Prefetch& prefetch;
  float* scores;
  uint32_t* weights;

  template <class Tiles>
  INLINED void run() const {
    if (!mask.unmasked) apply_mask(mask, pack, scores);
    const Wide factor = broadcast<Wide>(mask.scaling * 1.44269504f);
    Wide tops[2] = {load_as<Wide>(scores), load_as<Wide>(scores + kSide)};
#pragma GCC unroll 15
    for (int64_t t = 2; t < kAmxTileKeys; t += 2) {
#pragma GCC unroll 2
      for (int64_t i = 0; i < 2; ++i) {
        const Wide one = load_as<Wide>(scores + (t + i) * kSide);
        tops[i] = one > tops[i] ? one : tops[i];
      }
    }
    const Wide top = (tops[0] > tops[1] ? tops[0] : tops[1]) * factor;
    Wide highest = load_as<Wide>(pack.highest), norms = load_as<Wide>(pack.norms);
    const WideInt higher = top > highest + kSlack;
    if (any(higher)) {  // seldom: the branch is predicted, and nothing waits for the maximum
      const Wide shrink = Tiles::Math::power_of_two(higher ? highest - top : Wide{});
      highest = higher ? top : highest;
      norms *= shrink;
      save_all(pack.highest, highest);
      for (int64_t lane = 0; lane < kSide; ++lane) {
        float* sums = pack.sums + lane * width;
        if (higher[lane]) {
          for (int64_t d = 0; d < width; d += kSide) save_all(sums + d, load_as<Wide>(sums + d) * shrink[lane]);
        }
      }
    }
    WideBits pairs[kSide];
    Wide sums[2] = {};
#pragma GCC unroll 4
    for (int64_t p = 0; p < kSide; ++p) {
      const auto weight = [&](int64_t t) INLINE {
        return Tiles::Math::power_of_two(load_as<Wide>(scores + t * kSide) * factor - highest);
      };
      const Wide a = weight(2 * p), b = weight(2 * p + 1);
      prefetch.issue(Prefetch::kSoftmax);
      sums[0] += a, sums[1] += b;
      // Ties are rounded up, which takes less time than Tiles::pairs.
      const WideBits low = (bit_cast<WideBits>(a) + 0x8000) >> 16, high = (bit_cast<WideBits>(b) + 0x8000) & 0xffff0000;
      pairs[p] = low | high;
    }
    save_all(pack.norms, norms + (sums[0] + sums[1]));
    transpose_pairs(pairs, weights);
  }
};

// Adds weights times values to the sums of a pack's i-th head.
template <class Tiles>
INLINED void accumulate(Tiles& tiles, const Attention& a, const Pack& pack, int64_t i, const uint32_t* weights,
                        const uint32_t* pairs, Prefetch& prefetch) {
  const int64_t stride = a.value_width * sizeof(float), steps = a.value_width / kTileDepth;
  float* sums = pack.sums + i * pack.rows * a.value_width;
  tiles.template load<4>(weights + i * pack.rows * kSide, 64);
  for (int64_t step = 0; step < steps; ++step, sums += kTileDepth, pairs += 2 * kSide * kSide) {
    prefetch.issue(Prefetch::kAccumulate);
    tiles.template load<5>(sums, stride);
    tiles.template load<7>(pairs, 64);
    tiles.template multiply<5, 4, 7>();
    tiles.template load<6>(sums + kSide, stride);
    tiles.template load<2>(pairs + kSide * kSide, 64);
    tiles.template multiply<6, 4, 2>();
    tiles.template store<5>(sums, stride);
    tiles.template store<6>(sums + kSide, stride);
  }
}

}  // namespace
}  // namespace leapgen
