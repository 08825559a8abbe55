// Packs: queries that attention by matrix tiles scores together, with their online softmax.

#pragma once

#include "attention/step.h"
#include "isa/amx.h"
#include "isa/scratch.h"

namespace leapgen {
namespace {

typedef uint16_t Line __attribute__((vector_size(64)));  // 32 bfloat16

// At most kSide queries, of one KV head or of several with few rows. Lane `i * rows + r`, a column of a score tile, is row
// first_row + r of KV head first_head + i.
struct Pack {
  int64_t first_head, heads, first_row, rows;
  uint32_t* query;                   // B tiles [heads][key_steps][kSide pairs][kSide queries][2], 0 for other heads' queries
  float* sums;                       // [kSide queries, value_width], dims in the order of interleave()
  alignas(64) float highest[kSide];  // the score whose weight is 1, times log2(e); none is kSlack above it
  alignas(64) float norms[kSide];    // sum of the weights
  alignas(64) int32_t position[kSide];
};

// The online softmax of every row between tasks. Rows are (KV head, token, head of its group), in that order.
struct State {
  Scratch<float> sums;  // [rows, value_width]
  std::vector<float> highest, norms;
  std::vector<int64_t> position;  // [tokens]
};

struct Attention {
  const Step<BFloat16>& step;
  State& state;
  int64_t key_steps;    // products of kTileDepth dims in a score
  int64_t value_width;  // value_dim, rounded up to kTileDepth

  Attention(const Step<BFloat16>& step, State& state)
      : step(step),
        state(state),
        key_steps((step.key_dim + kTileDepth - 1) / kTileDepth),
        value_width((step.value_dim + kTileDepth - 1) / kTileDepth * kTileDepth) {}

  bool in_place(int64_t dim) const { return step.plan.page_size % kSide == 0 && dim % kTileDepth == 0; }
  int64_t row(int64_t kv_head, int64_t token) const { return (kv_head * step.plan.tokens + token) * step.group(); }
};

// Scratch memory of a thread.
struct Workspace {
  std::vector<Pack> packs;
  Scratch<uint32_t> query;  // of all packs
  Scratch<float> sums;
  Scratch<BFloat16> keys, values;  // [kSide heads, kAmxTileKeys, width], [kAmxTileKeys, width]: copies of rows not in place
  Scratch<uint32_t> pairs;         // a head's values as B tiles [value_width / kSide][kSide pairs][kSide dims][2]
};

// Calls f(lane, token, head) for each of a pack's queries.
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
    query[lane] = step.query + token * step.strides.query_token + head * step.strides.query_head;
    pack.position[lane] = static_cast<int32_t>(a.state.position[token]);
    pack.highest[lane] = step.sinks ? std::max(step.sinks[head] * 1.44269504f, kLowestScore) : kLowestScore;
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
    for (int64_t d = 0; d < step.key_dim; d += kTileDepth, tile += kSide * kSide) {
      const int64_t there = std::min(kTileDepth, step.key_dim - d);
      WideBits pairs[kSide] = {};
      for (int64_t lane = first; lane < first + pack.rows; ++lane) {
        if (there == kTileDepth) {
          pairs[lane] = load_as<WideBits>(query[lane] + d);
        } else {
          std::memcpy(&pairs[lane], query[lane] + d, there * sizeof(BFloat16));
        }
      }
      transpose_pairs(pairs, tile);
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
    for (int64_t d = 0; d < step.value_dim; d += kTileDepth) {
      const auto shorts = [&](const float* from) INLINE {
        return __builtin_convertvector(rounded<WideInt>(load_floats<Wide>(from) * inverse) >> 16, WideShort);
      };
      const WideShort low = shorts(sums + d), high = shorts(sums + d + kSide);  // in the order of interleave()
      const Line line = __builtin_shufflevector(low, high, 0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23, 8, 9, 10,
                                                11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
      if (d + kTileDepth <= step.value_dim) {
        save_all(out + d, line);
      } else {
        std::memcpy(out + d, &line, (step.value_dim - d) * sizeof *out);
      }
    }
  });
}

// Makes the packs of a task, with `rows` rows of each KV head.
void make_packs(const Attention& a, const Task& task, int64_t rows, Workspace& workspace) {
  const int64_t together = std::max<int64_t>(kSide / rows, 1), query_size = together * a.key_steps * kSide * kSide;
  workspace.packs.clear();
  for (int64_t head = task.kv_head; head < task.kv_head + task.kv_heads; head += together) {
    for (int64_t row = 0; row < rows; row += kSide) {
      Pack pack;
      pack.first_head = head, pack.heads = std::min(together, task.kv_head + task.kv_heads - head);
      pack.first_row = row, pack.rows = std::min(kSide, rows - row);
      workspace.packs.push_back(pack);
    }
  }
  const size_t count = workspace.packs.size();
  if (workspace.query.size() < count * query_size) workspace.query.resize(count * query_size);
  if (workspace.sums.size() < count * kSide * a.value_width) workspace.sums.resize(count * kSide * a.value_width);
  for (size_t i = 0; i < count; ++i) {
    workspace.packs[i].query = workspace.query.data() + i * query_size;
    workspace.packs[i].sums = workspace.sums.data() + i * kSide * a.value_width;
    begin_pack(a, task, workspace.packs[i]);
  }
}

}  // namespace
}  // namespace leapgen
