// A step of attention as the kernel is given it, what its rows carry along, and how it is cut into tasks and tiles.

#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "isa/dots.h"

namespace leapgen {

constexpr int64_t kFewest = 8, kMost = 32;  // query tokens that go through the same keys together
constexpr float kLowest = std::numeric_limits<float>::lowest();  // below every score but that of a key that is not seen

// Sequences first .. last - 1 attend to positions start .. end - 1, whose pages they share. Level by level each sequence comes
// to all of its positions, in the end alone.
struct Segment {
  int64_t level, first, last, start, end;
};

// A step's plan as leapgen.engine.step packs it: one run of int64.
struct Plan {
  int64_t sequences, tokens, page_size, max_pages, segments, layers;
  const int64_t *pools, *slots, *query_starts, *kv_lengths, *segment, *page_table;

  explicit Plan(const int64_t* p)
      : sequences(p[0]), tokens(p[1]), page_size(p[2]), max_pages(p[3]), segments(p[4]), layers(p[5]) {
    pools = p + 7;  // address of keys, address of values, for each layer in the order they run; p[6] is whose turn it is
    slots = pools + 2 * layers;
    query_starts = slots + tokens;
    kv_lengths = query_starts + sequences + 1;
    segment = kv_lengths + sequences;
    page_table = segment + 5 * segments;
  }
};

template <typename T>
struct Step {
  Plan plan;
  const T *query, *key, *value;  // [tokens, heads or kv_heads, dim], strides in elements, dim contiguous
  int64_t query_stride, query_head_stride, key_stride, key_head_stride, value_stride, value_head_stride;
  T* output;  // [tokens, heads, value_dim]
  T* keys;    // [pages, page_size, kv_heads, key_dim]
  T* values;  // [pages, page_size, kv_heads, value_dim]
  int64_t heads, kv_heads, key_dim, value_dim;
  const float* sinks;      // [heads] or null
  int64_t window;          // 0: none
  float scaling, softcap;  // softcap 0: none

  int64_t group() const { return heads / kv_heads; }
  int64_t kd() const { return round_to_steps<T>(key_dim); }
  int64_t vd() const { return round_to_steps<T>(value_dim); }
};

// Query tokens first_token .. last_token - 1 of a segment go through its keys, for some of the KV heads.
struct Task {
  const int64_t* pages;  // of the segment's first sequence: all that it covers are shared
  int64_t start, end;    // positions
  int64_t first_token, last_token, kv_head, kv_heads;
  bool first, last;  // of the tasks that these tokens go through
};

// The step that a kernel's C interface describes, for the layer whose turn it is; what is padding in `output` is set to 0.
template <typename T>
Step<T> step_of(int64_t* plan, const T* query, const T* key, const T* value, const int64_t* strides, T* output,
                int64_t tokens, int64_t heads, int64_t kv_heads, int64_t key_dim, int64_t value_dim, const float* sinks,
                int64_t window, float scaling, float softcap) {
  const Plan parsed(plan);
  const int64_t layer = plan[6]++, row = heads * value_dim;
  std::memset(static_cast<void*>(output + parsed.tokens * row), 0, (tokens - parsed.tokens) * row * sizeof(T));
  T* keys = reinterpret_cast<T*>(parsed.pools[2 * layer]);
  T* values = reinterpret_cast<T*>(parsed.pools[2 * layer + 1]);
  return {parsed, query, key, value, strides[0], strides[1], strides[2], strides[3], strides[4], strides[5], output, keys,
          values, heads, kv_heads, key_dim, value_dim, sinks, window, scaling, softcap};
}

// The position of each of the step's tokens in its sequence.
inline void positions_of(const Plan& plan, std::vector<int64_t>& positions) {
  if (static_cast<int64_t>(positions.size()) < plan.tokens) positions.resize(plan.tokens);
  for (int64_t i = 0; i < plan.sequences; ++i) {
    const int64_t start = plan.query_starts[i], end = plan.query_starts[i + 1];
    for (int64_t t = start; t < end; ++t) positions[t] = plan.kv_lengths[i] - end + t;
  }
}

// Puts token t's keys and values into its slot.
template <typename T>
INLINED void store_token(const Step<T>& step, int64_t t) {
  const int64_t slot = step.plan.slots[t];
  for (int64_t h = 0; h < step.kv_heads; ++h) {
    std::memcpy(step.keys + (slot * step.kv_heads + h) * step.key_dim,
                step.key + t * step.key_stride + h * step.key_head_stride, step.key_dim * sizeof(T));
    std::memcpy(step.values + (slot * step.kv_heads + h) * step.value_dim,
                step.value + t * step.value_stride + h * step.value_head_stride, step.value_dim * sizeof(T));
  }
}

// The tasks of each level.
inline std::vector<std::vector<Task>> tasks_of(const Plan& plan, int64_t kv_heads, int threads) {
  std::vector<std::vector<Task>> levels;
  for (int pass = 0; pass < 2; ++pass) {
    std::vector<size_t> wholes;  // tasks with all KV heads together, by level
    for (const auto& level : levels) wholes.push_back(level.size());
    if (pass == 1) {
      for (auto& level : levels) level.clear();
    }
    for (int64_t i = 0; i < plan.segments; ++i) {
      const int64_t* s = plan.segment + 5 * i;
      const Segment segment{s[0], s[1], s[2], s[3], s[4]};
      if (static_cast<int64_t>(levels.size()) <= segment.level) levels.resize(segment.level + 1);
      // All KV heads in one task, so that pages are read in one piece, where there are tasks enough for every thread.
      const bool few = pass == 1 && wholes[segment.level] < static_cast<size_t>(2 * threads);
      const int64_t heads_each = few ? 1 : kv_heads;
      const int64_t first = plan.query_starts[segment.first], last = plan.query_starts[segment.last];
      const int64_t block = std::clamp((last - first + threads - 1) / threads, kFewest, kMost);
      for (int64_t token = first; token < last; token += block) {
        for (int64_t head = 0; head < kv_heads; head += heads_each) {
          levels[segment.level].push_back({plan.page_table + segment.first * plan.max_pages, segment.start, segment.end,
                                           token, std::min(token + block, last), head, heads_each,
                                           segment.level == 0, segment.last - segment.first == 1});
        }
      }
    }
  }
  return levels;
}

}  // namespace leapgen
