// A step of attention as the kernel is given it, what its rows carry along, and how it is cut into tasks and tiles.

#pragma once

#include <vector>

#include "dots.h"

namespace leapgen {

constexpr int64_t kTile = 16;  // keys scored together
constexpr int kParts = kTile / kLanes;

// Sequences first .. last - 1 attend to positions start .. end - 1, whose pages they share.
struct Segment {
  int64_t level, first, last, start, end;
};

// A step's plan as leapgen.engine.plan packs it: one run of int64.
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

// What each (KV head, token, head of its group) carries along, in that order.
struct State {
  Scratch<float> query;    // [rows, kd], scaled, in the steps' order
  Scratch<float> sums;     // [rows, vd], in the steps' order
  std::vector<float> highest;  // [rows]
  Scratch<float> norms;    // [rows, kLanes], to be added up at the end
  std::vector<int64_t> position;  // [tokens]

  void make_room(int64_t tokens, int64_t rows, int64_t kd, int64_t vd) {
    if (static_cast<int64_t>(query.size()) < rows * kd) query.resize(rows * kd);
    if (static_cast<int64_t>(sums.size()) < rows * vd) sums.resize(rows * vd);
    if (static_cast<int64_t>(highest.size()) < rows) highest.resize(rows);
    if (static_cast<int64_t>(norms.size()) < rows * kLanes) norms.resize(rows * kLanes);
    if (static_cast<int64_t>(position.size()) < tokens) position.resize(tokens);
  }
};

// Query tokens first_token .. last_token - 1 of a segment go through its keys, for some of the KV heads.
struct Task {
  const int64_t* pages;  // of the segment's first sequence: all that it covers are shared
  int64_t start, end;    // positions
  int64_t first_token, last_token, kv_head, kv_heads;
};

// One KV head's part of a tile: `count` keys and values from `position` on. `next` is where this head's share of the next
// tile begins, keys and values: a tile of all heads is one run of memory, of which each head asks for an equal part.
template <typename T>
struct Tile {
  int64_t position, count;
  bool open;  // every row sees all kTile keys, and scores count as they are
  const T *keys, *values;
  int64_t key_stride, value_stride;
  const T *next_keys, *next_values;
};

}  // namespace leapgen
