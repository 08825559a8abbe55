// A step's plan, and the tasks that it is cut into.

#pragma once

#include <algorithm>
#include <vector>

#include "interface.h"

namespace leapgen {

// Query tokens of a task; fewer where its segment has fewer.
constexpr int64_t kMinTaskTokens = 8, kMaxTaskTokens = 32;

// The packed plan: one array of int64.
struct Plan {
  int64_t sequences, tokens, page_size, max_pages, segments, layers;
  const int64_t* pools;         // address of keys, address of values: of each layer, in the order they run
  const int64_t* slots;         // [tokens]
  const int64_t* query_starts;  // [sequences + 1]
  const int64_t* kv_lengths;    // [sequences]
  const Segment* segment;       // [segments]
  const int64_t* block_table;   // [sequences, max_pages]

  explicit Plan(const PlanHeader* header)
      : sequences(header->sequences),
        tokens(header->tokens),
        page_size(header->page_size),
        max_pages(header->max_pages),
        segments(header->segments),
        layers(header->layers) {
    pools = reinterpret_cast<const int64_t*>(header + 1);
    slots = pools + 2 * layers;
    query_starts = slots + tokens;
    kv_lengths = query_starts + sequences + 1;
    segment = reinterpret_cast<const Segment*>(kv_lengths + sequences);
    block_table = reinterpret_cast<const int64_t*>(segment + segments);
  }
};

// Query tokens first_token .. last_token - 1 of a segment attend to its positions, for some of the KV heads.
struct Task {
  const int64_t* pages;  // of the segment's first sequence: every page of the segment is shared
  int64_t start, end;    // positions
  int64_t first_token, last_token, kv_head, kv_heads;
  bool first, last;  // of the tasks of these tokens
};

// The position of each of the step's tokens in its sequence.
inline void positions_of(const Plan& plan, std::vector<int64_t>& positions) {
  if (static_cast<int64_t>(positions.size()) < plan.tokens) positions.resize(plan.tokens);
  for (int64_t i = 0; i < plan.sequences; ++i) {
    const int64_t start = plan.query_starts[i], end = plan.query_starts[i + 1];
    for (int64_t t = start; t < end; ++t) positions[t] = plan.kv_lengths[i] - end + t;
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
      const Segment segment = plan.segment[i];
      if (static_cast<int64_t>(levels.size()) <= segment.level) levels.resize(segment.level + 1);
      // A task has all KV heads, so that pages are read in one piece, unless the level then has too few for the threads.
      const bool few = pass == 1 && wholes[segment.level] < static_cast<size_t>(2 * threads);
      const int64_t heads_each = few ? 1 : kv_heads;
      const int64_t first = plan.query_starts[segment.first], last = plan.query_starts[segment.last];
      const int64_t block = std::clamp((last - first + threads - 1) / threads, kMinTaskTokens, kMaxTaskTokens);
      for (int64_t token = first; token < last; token += block) {
        for (int64_t head = 0; head < kv_heads; head += heads_each) {
          levels[segment.level].push_back({plan.block_table + segment.first * plan.max_pages, segment.start, segment.end,
                                           token, std::min(token + block, last), head, heads_each, segment.level == 0,
                                           segment.last - segment.first == 1});
        }
      }
    }
  }
  return levels;
}

}  // namespace leapgen
