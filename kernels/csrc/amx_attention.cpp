// Paged attention in bfloat16 by matrix tiles (AMX): the walk over pages of paged_attention.cpp with other arithmetic.
//
// Scores are K Q^T, keys read where they lie, so that a score tile has a key in each row and a query in each column, and the
// softmax works on sixteen queries at once with no sum across lanes. Weights are rounded to bfloat16 (their sum is not), as
// FlashAttention does it, and multiplied with values whose rows are interleaved in pairs. A row meets its keys in the same
// tiles and order whatever it is computed with, so its result is the same bits.

#include <algorithm>
#include <cmath>

#include "amx.h"
#include "step.h"

namespace leapgen {
namespace {

constexpr float kSlack = 8.0f;    // weights are relative to the greatest score once it is this far, in powers of two, ahead
constexpr int64_t kKeys = kStep;  // keys of a tile: what one product of weights and values sums over

typedef uint16_t Line __attribute__((vector_size(64)));  // 32 bfloat16


// Queries that are scored together, at most kSide: of one KV head, or of several that have few. Column `i * rows + r` of a
// score tile is row first_row + r of KV head first_head + i.
struct Pack {
  int64_t first_head, heads, first_row, rows;
  uint32_t* query;                     // B tiles [heads][key_steps][kSide pairs][kSide queries][2], 0 for queries of others
  float* sums;                         // [kSide queries, value_width], dims as `pairs` leaves them
  alignas(64) float highest[kSide];    // score that weights count from, times log2(e): none is kSlack above it
  alignas(64) float norms[kSide];      // sum of the weights
  alignas(64) int32_t position[kSide];
};

// A KV head's keys or values of a tile: 16 rows each from two places on, `stride` elements apart.
struct Rows {
  const BFloat16* half[2];
  int64_t stride;

  const BFloat16* row(int64_t t) const { return half[t / kSide] + t % kSide * stride; }
};

// What each (KV head, token, head of its group) carries along from task to task, in that order.
struct State {
  Scratch<float> sums;  // [rows, value_width]
  std::vector<float> highest, norms;
  std::vector<int64_t> position;  // [tokens]
};

struct Attention {
  const Step<BFloat16>& step;
  State& state;
  int64_t key_steps, value_width;  // in tiles: steps of kStep dims; dims, a multiple of kStep

  Attention(const Step<BFloat16>& step, State& state)
      : step(step), state(state), key_steps((step.key_dim + kStep - 1) / kStep),
        value_width((step.value_dim + kStep - 1) / kStep * kStep) {}

  bool in_place(int64_t dim) const { return step.plan.page_size % kSide == 0 && dim % kStep == 0; }
  int64_t row(int64_t kv_head, int64_t token) const { return (kv_head * step.plan.tokens + token) * step.group(); }
};

// Scratch memory of a thread.
struct Room {
  std::vector<Pack> packs;
  Scratch<uint32_t> query;         // of all packs
  Scratch<float> sums;
  Scratch<BFloat16> keys, values;  // [kSide heads, kKeys, width], [kKeys, width]: rows that do not lie as tiles need them
  Scratch<uint32_t> pairs;         // a head's values as B tiles [value_width / kSide][kSide pairs][kSide dims][2]
};

// ---- a pack's beginning and end ------------------------------------------------------------------------------------------

// f(lane, token, head) for each of a pack's queries.
template <typename F>
INLINED void for_each_lane(const Step<BFloat16>& step, const Task& task, const Pack& pack, F f) {
  const int64_t group = step.group();
  for (int64_t i = 0; i < pack.heads; ++i) {
    int64_t token = task.first_token + pack.first_row / group, member = pack.first_row % group;
    for (int64_t lane = i * pack.rows; lane < (i + 1) * pack.rows; ++lane, ++member) {
      if (member == group) ++token, member = 0;
      f(lane, token, (pack.first_head + i) * group + member);
    }
  }
}

FOR_EVERY_CPU void begin_pack(const Attention& a, const Task& task, Pack& pack) {
  const Step<BFloat16>& step = a.step;
  const BFloat16* query[kSide];
  for (int64_t lane = 0; lane < kSide; ++lane) {
    pack.highest[lane] = pack.norms[lane] = 0.0f;
    pack.position[lane] = static_cast<int32_t>(a.state.position[task.first_token]);
  }
  for_each_lane(step, task, pack, [&](int64_t lane, int64_t token, int64_t head) INLINE {
    query[lane] = step.query + token * step.query_stride + head * step.query_head_stride;
    pack.position[lane] = static_cast<int32_t>(a.state.position[token]);
    pack.highest[lane] = step.sinks ? std::max(step.sinks[head] * 1.44269504f, kLowest) : kLowest;
    pack.norms[lane] = step.sinks ? 1.0f : 0.0f;
  });
  if (task.first) std::memset(pack.sums, 0, pack.heads * pack.rows * a.value_width * sizeof(float));
  for (int64_t i = 0; i < pack.heads && !task.first; ++i) {
    const int64_t row = a.row(pack.first_head + i, task.first_token) + pack.first_row, lane = i * pack.rows;
    std::copy_n(a.state.highest.data() + row, pack.rows, pack.highest + lane);
    std::copy_n(a.state.norms.data() + row, pack.rows, pack.norms + lane);
    std::copy_n(a.state.sums.data() + row * a.value_width, pack.rows * a.value_width, pack.sums + lane * a.value_width);
  }
  uint32_t* tile = pack.query;
  for (int64_t first = 0; first < pack.heads * pack.rows; first += pack.rows) {
    for (int64_t d = 0; d < step.key_dim; d += kStep, tile += kSide * kSide) {
      const int64_t there = std::min(kStep, step.key_dim - d);
      WideBits pairs[kSide] = {};
      for (int64_t lane = first; lane < first + pack.rows; ++lane) {
        if (there == kStep) {
          pairs[lane] = load_as<WideBits>(query[lane] + d);
        } else {
          std::memcpy(&pairs[lane], query[lane] + d, there * sizeof(BFloat16));
        }
      }
      turn(pairs, tile);
    }
  }
}

FOR_EVERY_CPU void end_pack(const Attention& a, const Task& task, const Pack& pack) {
  const Step<BFloat16>& step = a.step;
  if (!task.last) {
    for (int64_t i = 0; i < pack.heads; ++i) {
      const int64_t row = a.row(pack.first_head + i, task.first_token) + pack.first_row, lane = i * pack.rows;
      std::copy_n(pack.highest + lane, pack.rows, a.state.highest.data() + row);
      std::copy_n(pack.norms + lane, pack.rows, a.state.norms.data() + row);
      std::copy_n(pack.sums + lane * a.value_width, pack.rows * a.value_width, a.state.sums.data() + row * a.value_width);
    }
    return;
  }
  for_each_lane(step, task, pack, [&](int64_t lane, int64_t token, int64_t head) INLINE {
    const float *sums = pack.sums + lane * a.value_width, inverse = 1.0f / pack.norms[lane];
    BFloat16* out = step.output + (token * step.heads + head) * step.value_dim;
    for (int64_t d = 0; d < step.value_dim; d += kStep) {
      const auto shorts = [&](const float* from) INLINE {
        return __builtin_convertvector(rounded<WideInt>(floats_at<Wide>(from) * inverse) >> 16, WideShort);
      };
      const WideShort low = shorts(sums + d), high = shorts(sums + d + kSide);  // as interleave() has left them
      const Line line = __builtin_shufflevector(low, high, 0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23, 8, 9, 10,
                                                11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
      if (d + kStep <= step.value_dim) {
        save_all(out + d, line);
      } else {
        std::memcpy(out + d, &line, (step.value_dim - d) * sizeof *out);
      }
    }
  });
}

// The packs of a task; `rows` of each KV head.
void make_packs(const Attention& a, const Task& task, int64_t rows, Room& room) {
  const int64_t together = std::max<int64_t>(kSide / rows, 1), query_size = together * a.key_steps * kSide * kSide;
  room.packs.clear();
  for (int64_t head = task.kv_head; head < task.kv_head + task.kv_heads; head += together) {
    for (int64_t row = 0; row < rows; row += kSide) {
      Pack pack;
      pack.first_head = head, pack.heads = std::min(together, task.kv_head + task.kv_heads - head);
      pack.first_row = row, pack.rows = std::min(kSide, rows - row);
      room.packs.push_back(pack);
    }
  }
  const size_t count = room.packs.size();
  if (room.query.size() < count * query_size) room.query.resize(count * query_size);
  if (room.sums.size() < count * kSide * a.value_width) room.sums.resize(count * kSide * a.value_width);
  for (size_t i = 0; i < count; ++i) {
    room.packs[i].query = room.query.data() + i * query_size;
    room.packs[i].sums = room.sums.data() + i * kSide * a.value_width;
    begin_pack(a, task, room.packs[i]);
  }
}

// ---- a tile --------------------------------------------------------------------------------------------------------------

// Where a head's `count` rows of a tile lie. Rows that a matrix tile cannot be loaded from are copied, zeros past their end.
Rows rows_of(const Attention& a, const Task& task, const BFloat16* pool, int64_t kv_head, int64_t dim, int64_t width,
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

// The next tile's keys and values. A quarter of them is asked for in each part of the work on this one, bit by bit, as only
// some sixteen requests can be under way at once.
struct Ahead {
  enum Part { kScore, kSoften, kInterleave, kAccumulate };
  struct Quarter {
    const BFloat16 *next = nullptr, *end = nullptr;
    int64_t share = 0;
  } quarters[4];

  INLINED void ask(Part part) {
    Quarter& q = quarters[part];
    const BFloat16* last = std::min(q.next + q.share, q.end);
    for (; q.next < last; q.next += kStep) __builtin_prefetch(q.next, 0, 2);
  }
};

// Where they lie, if in one piece for all KV heads. They are asked for while these packs are worked on.
Ahead next_of(const Attention& a, const Task& task, int64_t position, int64_t end, const std::vector<Pack>& packs) {
  const Step<BFloat16>& step = a.step;
  if (position >= end || task.kv_heads < step.kv_heads || !a.in_place(step.key_dim) || !a.in_place(step.value_dim)) return {};
  const int64_t count = std::min(kKeys, end - position), all = packs.size() * packs[0].heads;
  const Rows keys = rows_of(a, task, step.keys, 0, step.key_dim, step.key_dim, position, count, nullptr);
  const Rows values = rows_of(a, task, step.values, 0, step.value_dim, step.value_dim, position, count, nullptr);
  const auto quarter = [](const Rows& rows, int half, int64_t times) {
    const int64_t size = kSide * rows.stride;
    return Ahead::Quarter{rows.half[half], rows.half[half] + size, (size / times + kStep - 1) / kStep * kStep};
  };
  return {{quarter(keys, 0, all * a.key_steps), quarter(keys, 1, packs.size() * kSide), quarter(values, 0, task.kv_heads * kSide),
           quarter(values, 1, all * a.value_width / kStep)}};
}

// Values as B tiles: rows of neighbours interleaved, 32 dims at a time, which leaves dims 0-3, 8-11, 16-19 and 24-27 in one
// tile and the others in the next.
FOR_EVERY_CPU void interleave(const Rows& values, int64_t count, int64_t width, Ahead& ahead,
                              uint32_t* pairs) {
  const auto put = [](Line a, Line b, uint32_t* out) INLINE {
    save_all(out, __builtin_shufflevector(a, b, 0, 32, 1, 33, 2, 34, 3, 35, 8, 40, 9, 41, 10, 42, 11, 43, 16, 48, 17, 49,
                                          18, 50, 19, 51, 24, 56, 25, 57, 26, 58, 27, 59));
    save_all(out + kSide * kSide,
             __builtin_shufflevector(a, b, 4, 36, 5, 37, 6, 38, 7, 39, 12, 44, 13, 45, 14, 46, 15, 47, 20, 52, 21, 53, 22, 54,
                                     23, 55, 28, 60, 29, 61, 30, 62, 31, 63));
  };
  const int64_t stride = values.stride;
  for (int64_t half = 0; half < 2; ++half) {
    const BFloat16* row = values.half[half];
    const int64_t there = count - half * kSide;
    for (int64_t p = half * kSide / 2; p < (half + 1) * kSide / 2; ++p, row += 2 * stride) {
      const int64_t t = 2 * p - half * kSide;
      ahead.ask(Ahead::kInterleave);
      uint32_t* out = pairs + p * kSide;
      if (t + 1 < there) {
#pragma GCC unroll 2
        for (int64_t d = 0; d < width; d += kStep) {
          put(load_as<Line>(row + d), load_as<Line>(row + stride + d), out + d * kSide);
        }
      } else {
        for (int64_t d = 0; d < width; d += kStep) put(t < there ? load_as<Line>(row + d) : Line{}, Line{}, out + d * kSide);
      }
    }
  }
}

// scores[t][lane] = key t . query of the lane.
template <class Tiles>
INLINED void score(Tiles& tiles, const Attention& a, const Pack& pack, const Rows* keys, Ahead& ahead, float* scores) {
  tiles.template zero<0>();
  tiles.template zero<1>();
  const uint32_t* query = pack.query;
  for (int64_t i = 0; i < pack.heads; ++i) {
    const int64_t stride = keys[i].stride * sizeof(BFloat16);
    for (int64_t step = 0; step < a.key_steps; ++step, query += kSide * kSide) {
      ahead.ask(Ahead::kScore);
      tiles.template load<3>(query, 64);
      tiles.template load_once<2>(keys[i].half[0] + step * kStep, stride);
      tiles.template multiply<0, 2, 3>();
      tiles.template load_once<7>(keys[i].half[1] + step * kStep, stride);
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
  const Halves h = bits_of<Halves>(quad);
  return (h[0] | h[1]) != 0;
}

// What of a tile the queries see, and how scores count.
struct Sight {
  bool open;         // all of it, and scores count as they are
  int32_t position;  // of the first key
  int32_t count, window;
  float scaling, softcap;
};

INLINED void hide(const Sight& sight, const Pack& pack, float* scores) {
  if (sight.softcap > 0.0f) {
    for (int64_t i = 0; i < kKeys * kSide; ++i) {
      scores[i] = std::tanh(scores[i] * sight.scaling / sight.softcap) * sight.softcap / sight.scaling;
    }
  }
  // A loop for each condition: GCC takes two in one lane by lane.
  const Wide own = __builtin_convertvector(load_as<WideInt>(pack.position) - sight.position, Wide);
  const Wide end = copies<Wide>(static_cast<float>(sight.count - 1)), last = own < end ? own : end;
  for (int64_t t = 0; t < kKeys; ++t) {
    const Wide score = load_as<Wide>(scores + t * kSide);
    save_all(scores + t * kSide, last < static_cast<float>(t) ? copies<Wide>(-INFINITY) : score);
  }
  if (!sight.window) return;
  const Wide first = own - static_cast<float>(sight.window - 1);
  for (int64_t t = 0; t < kKeys; ++t) {
    const Wide score = load_as<Wide>(scores + t * kSide);
    save_all(scores + t * kSide, first > static_cast<float>(t) ? copies<Wide>(-INFINITY) : score);
  }
}

// Scores become weights, an A tile of pairs of keys for each query; what the queries carry along follows.
struct Soften {
  const Sight& sight;
  Pack& pack;
  int64_t width;
  Ahead& ahead;
  float* scores;
  uint32_t* weights;

  template <class Tiles>
  INLINED void run() const {
    if (!sight.open) hide(sight, pack, scores);
    const Wide factor = copies<Wide>(sight.scaling * 1.44269504f);
    Wide tops[2] = {load_as<Wide>(scores), load_as<Wide>(scores + kSide)};
#pragma GCC unroll 15
    for (int64_t t = 2; t < kKeys; t += 2) {
#pragma GCC unroll 2
      for (int64_t i = 0; i < 2; ++i) {
        const Wide one = load_as<Wide>(scores + (t + i) * kSide);
        tops[i] = one > tops[i] ? one : tops[i];
      }
    }
    const Wide top = (tops[0] > tops[1] ? tops[0] : tops[1]) * factor;
    Wide highest = load_as<Wide>(pack.highest), norms = load_as<Wide>(pack.norms);
    const WideInt higher = top > highest + kSlack;
    if (any(higher)) {  // seldom, so that the branch is guessed right and nothing waits for the greatest
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
      ahead.ask(Ahead::kSoften);
      sums[0] += a, sums[1] += b;
      const WideBits low = (bits_of<WideBits>(a) + 0x8000) >> 16, high = (bits_of<WideBits>(b) + 0x8000) & 0xffff0000;
      pairs[p] = low | high;
    }
    save_all(pack.norms, norms + (sums[0] + sums[1]));
    turn(pairs, weights);
  }
};

// sums += weights x values for the queries of a pack's i-th head.
template <class Tiles>
INLINED void accumulate(Tiles& tiles, const Attention& a, const Pack& pack, int64_t i, const uint32_t* weights,
                        const uint32_t* pairs, Ahead& ahead) {
  const int64_t stride = a.value_width * sizeof(float), steps = a.value_width / kStep;
  float* sums = pack.sums + i * pack.rows * a.value_width;
  tiles.template load<4>(weights + i * pack.rows * kSide, 64);
  for (int64_t step = 0; step < steps; ++step, sums += kStep, pairs += 2 * kSide * kSide) {
    ahead.ask(Ahead::kAccumulate);
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

// `following`: what the thread will probably do next, or null.
template <class Tiles>
void attend(Tiles& tiles, const Attention& a, const Task& task, const Task* following, Room& room) {
  const Step<BFloat16>& step = a.step;
  const int64_t rows = (task.last_token - task.first_token) * step.group(), key_width = a.key_steps * kStep;
  const auto own = std::minmax_element(a.state.position.begin() + task.first_token, a.state.position.begin() + task.last_token);
  const int64_t lowest = *own.first, end = std::min(task.end, *own.second + 1);
  int64_t position = task.start;
  if (step.window) position = std::max(position, (lowest - step.window + 1) / kKeys * kKeys);
  make_packs(a, task, rows, room);
  tiles.begin(std::min(rows, kSide));
  alignas(64) float scores[2][kKeys * kSide];
  alignas(64) uint32_t weights[kSide * kSide];
  for (; position < end; position += kKeys) {
    const int64_t count = std::min(kKeys, end - position);
    const bool open = count == kKeys && position + kKeys <= lowest + 1 && !step.window && step.softcap <= 0.0f;
    const Sight sight{open, static_cast<int32_t>(position), static_cast<int32_t>(count), static_cast<int32_t>(step.window),
                      step.scaling, step.softcap};
    Ahead ahead = following && position + kKeys >= end
                      ? next_of(a, *following, following->start, following->end, room.packs)
                      : next_of(a, task, position + kKeys, end, room.packs);
    Rows keys[kSide];
    int64_t found = -1;  // the first head of those whose keys these are
    const auto score_pack = [&](size_t p) INLINE {
      const Pack& pack = room.packs[p];
      for (int64_t i = 0; i < pack.heads && pack.first_head != found; ++i) {
        keys[i] = rows_of(a, task, step.keys, pack.first_head + i, step.key_dim, key_width, position, count,
                          room.keys.data() + i * kKeys * key_width);
      }
      found = pack.first_head;
      score(tiles, a, pack, keys, ahead, scores[p % 2]);
    };
    int64_t done = -1;  // the last head whose values lie interleaved
    score_pack(0);
    for (size_t p = 0; p < room.packs.size(); ++p) {
      Pack& pack = room.packs[p];
      if (p + 1 < room.packs.size()) score_pack(p + 1);  // matrix tiles have something to do meanwhile
      run(tiles, Soften{sight, pack, a.value_width, ahead, scores[p % 2], weights});
      for (int64_t i = 0; i < pack.heads; ++i) {
        if (pack.first_head + i != done) {
          const Rows values = rows_of(a, task, step.values, pack.first_head + i, step.value_dim, a.value_width, position, count,
                                      room.values.data());
          interleave(values, count, a.value_width, ahead, room.pairs.data());
          done = pack.first_head + i;
        }
        accumulate(tiles, a, pack, i, weights, room.pairs.data(), ahead);
      }
    }
  }
  for (const Pack& pack : room.packs) end_pack(a, task, pack);
}

// ---- a step --------------------------------------------------------------------------------------------------------------

template <class Tiles>
void attend_step(const Step<BFloat16>& step, int threads) {
  const Plan& plan = step.plan;
  thread_local State kept;  // between calls, so that no call waits for fresh memory
  const Attention a(step, kept);
  const size_t rows = plan.tokens * step.heads;
  if (kept.sums.size() < rows * a.value_width) kept.sums.resize(rows * a.value_width);
  if (kept.highest.size() < rows) kept.highest.resize(rows), kept.norms.resize(rows);
  positions_of(plan, kept.position);
  const auto levels = tasks_of(plan, step.kv_heads, threads);
#pragma omp parallel num_threads(threads)
  {
    Tiles tiles;
    thread_local Room room;
    room.keys.resize(kSide * kKeys * a.key_steps * kStep);
    room.values.resize(kKeys * a.value_width);
    room.pairs.resize(a.value_width * kSide);
#pragma omp for schedule(static)
    for (int64_t t = 0; t < plan.tokens; ++t) store_token(step, t);
    for (const auto& tasks : levels) {
#pragma omp for schedule(dynamic)
      for (size_t i = 0; i < tasks.size(); ++i) {
        const size_t following = i + threads;
        attend(tiles, a, tasks[i], following < tasks.size() ? &tasks[following] : nullptr, room);
      }
    }
    tiles.end();
  }
}

}  // namespace
}  // namespace leapgen

// As leapgen_attend_bfloat16, for scaling > 0: with the machine's tiles, or with the model of them.
#define LEAPGEN_EXPORT(NAME, TILES)                                                                                       \
  extern "C" __attribute__((visibility("default"))) void leapgen_attend_##NAME(                                           \
      int64_t* plan, const leapgen::BFloat16* query, const leapgen::BFloat16* key, const leapgen::BFloat16* value,        \
      const int64_t* strides, leapgen::BFloat16* output, int64_t tokens, int64_t heads, int64_t kv_heads,                 \
      int64_t key_dim, int64_t value_dim, const float* sinks, int64_t window, float scaling, float softcap,               \
      int threads) {                                                                                                      \
    leapgen::attend_step<leapgen::TILES>(                                                                                 \
        leapgen::step_of(plan, query, key, value, strides, output, tokens, heads, kv_heads, key_dim, value_dim, sinks,    \
                         window, scaling, softcap),                                                                       \
        threads);                                                                                                         \
  }

LEAPGEN_EXPORT(amx, HardwareTiles)
LEAPGEN_EXPORT(amx_model, ModelTiles)
