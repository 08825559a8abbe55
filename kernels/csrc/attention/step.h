// One layer's attention in a step.

#pragma once

#include <limits>

#include "attention/plan.h"
#include "isa/dots.h"

namespace leapgen {

constexpr float kLowestScore = std::numeric_limits<float>::lowest();  // below every score but that of a masked key

template <typename T>
struct Step {
  Plan plan;
  const T *query, *key, *value;  // [tokens, heads or kv_heads, dim], apart by `strides`
  Strides strides;
  T* output;  // [tokens, heads, value_dim]
  T* keys;    // [pages, page_size, kv_heads, key_dim]
  T* values;  // [pages, page_size, kv_heads, value_dim]
  int64_t heads, kv_heads, key_dim, value_dim;
  const float* sinks;      // [heads] or null
  int64_t window;          // 0: none
  float scaling, softcap;  // softcap 0: none

  int64_t group() const { return heads / kv_heads; }
  int64_t key_width() const { return round_to_width<T>(key_dim); }
  int64_t value_width() const { return round_to_width<T>(value_dim); }
};

// The step of the plan's next layer, from an AttendKernel's arguments. Zeroes the padding of `output`.
template <typename T>
Step<T> step_of(int64_t* plan, const void* query, const void* key, const void* value, const Strides* strides, void* output,
                int64_t tokens, int64_t heads, int64_t kv_heads, int64_t key_dim, int64_t value_dim, const float* sinks,
                int64_t window, float scaling, float softcap) {
  auto* header = reinterpret_cast<PlanHeader*>(plan);
  const Plan parsed(header);
  const int64_t layer = header->next_layer++, row = heads * value_dim;
  T* out = static_cast<T*>(output);
  std::memset(static_cast<void*>(out + parsed.tokens * row), 0, (tokens - parsed.tokens) * row * sizeof(T));
  T* keys = reinterpret_cast<T*>(parsed.pools[2 * layer]);
  T* values = reinterpret_cast<T*>(parsed.pools[2 * layer + 1]);
  const T *q = static_cast<const T*>(query), *k = static_cast<const T*>(key), *v = static_cast<const T*>(value);
  return {parsed, q,        k,       v,         *strides, out,    keys,    values,
          heads,  kv_heads, key_dim, value_dim, sinks,    window, scaling, softcap};
}

// Stores token t's keys and values in its slot.
template <typename T>
INLINED void store_token(const Step<T>& step, int64_t t) {
  const int64_t slot = step.plan.slots[t];
  for (int64_t h = 0; h < step.kv_heads; ++h) {
    std::memcpy(step.keys + (slot * step.kv_heads + h) * step.key_dim,
                step.key + t * step.strides.key_token + h * step.strides.key_head, step.key_dim * sizeof(T));
    std::memcpy(step.values + (slot * step.kv_heads + h) * step.value_dim,
                step.value + t * step.strides.value_token + h * step.strides.value_head, step.value_dim * sizeof(T));
  }
}

}  // namespace leapgen
