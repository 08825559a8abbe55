// Paged attention on CPU: the KV store and the attention of a flat mixed step (decode and prefill together).
//
// Plain C ABI, no torch; threads are OpenMP's, so that they are torch's own where both load the same runtime. The hot loops are ordinary C++ that the compiler vectorises; target_clones compiles them for
// AVX-512, AVX2 and the baseline, and the loader picks the best the machine has when the library is first used.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EVERY_CPU __attribute__((target_clones("arch=skylake-avx512", "arch=haswell", "default")))
#else
#define FOR_EVERY_CPU
#endif

namespace {

constexpr int kTile = 16;       // keys scored together
constexpr int kQueryBlock = 8;  // query tokens of a prefill that read the same keys together

struct BFloat16 {
  uint16_t bits;
};

inline float to_float(float x) { return x; }
inline float to_float(BFloat16 x) {
  uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
inline void from_float(float x, float* out) { *out = x; }
inline void from_float(float x, BFloat16* out) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if (x != x) {
    out->bits = 0x7fc0;
  } else {
    out->bits = static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);  // to nearest, ties to even
  }
}

// e^x for x <= 0 with a relative error below 2e-7: 2^n * p(r), the polynomial of Cephes' expf.
inline float exp_negative(float x) {
  x = x < -87.0f ? -87.0f : x;
  const float n = std::nearbyint(x * 1.44269504f);
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return p * power;
}

template <typename T>
struct Step {
  const T* query;   // [tokens, heads, key_dim], rows query_stride and heads query_head_stride apart
  T* output;        // [tokens, heads, value_dim]
  const T* keys;    // [pages, page_size, kv_heads, key_dim]
  const T* values;  // [pages, page_size, kv_heads, value_dim]
  const int64_t* page_table;    // [sequences, max_pages]
  const int64_t* query_starts;  // [sequences + 1]
  const int64_t* kv_lengths;    // [sequences]
  const float* sinks;           // [heads] or null
  int64_t query_stride, query_head_stride;
  int64_t max_pages, page_size, heads, kv_heads, key_dim, value_dim;
  int64_t window;  // 0: none
  float scaling, softcap;  // softcap 0: none
};

struct Task {
  int32_t sequence, kv_head;
  int64_t first, count;  // query tokens of the sequence
};

// One tile of keys (or values) as float rows, contiguous.
template <typename T>
inline void load_row(const T* source, int64_t dim, float* target) {
  for (int64_t d = 0; d < dim; ++d) target[d] = to_float(source[d]);
}

// Online softmax (Milakov and Gimelshein, arXiv 1805.02867) over the pages, all query heads of one KV head together.
template <typename T>
FOR_EVERY_CPU void attend(const Step<T>& step, const Task& task, float* scratch) {
  const int64_t group = step.heads / step.kv_heads, rows = task.count * group;
  const int64_t kd = step.key_dim, vd = step.value_dim;
  float* q = scratch;                 // [rows, key_dim]
  float* sums = q + rows * kd;        // [rows, value_dim]
  float* scores = sums + rows * vd;   // [rows, kTile]
  float* highest = scores + rows * kTile;  // [rows]
  float* norms = highest + rows;      // [rows]
  float* tile = norms + rows;         // [kTile, max(key_dim, value_dim)]

  const int64_t start = step.query_starts[task.sequence];
  const int64_t length = step.kv_lengths[task.sequence];
  const int64_t queries = step.query_starts[task.sequence + 1] - start;
  const int64_t first_position = length - queries + task.first;
  const int64_t last_position = first_position + task.count - 1;
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t head = task.kv_head * group + r % group;
    const T* row = step.query + (start + task.first + r / group) * step.query_stride + head * step.query_head_stride;
    for (int64_t d = 0; d < kd; ++d) q[r * kd + d] = to_float(row[d]) * step.scaling;
    for (int64_t d = 0; d < vd; ++d) sums[r * vd + d] = 0.0f;
    highest[r] = step.sinks ? step.sinks[head] : -INFINITY;
    norms[r] = step.sinks ? 1.0f : 0.0f;
  }

  int64_t position = step.window ? std::max<int64_t>(first_position - step.window + 1, 0) : 0;
  while (position <= last_position) {
    const int64_t offset = position % step.page_size;
    const int64_t count = std::min({static_cast<int64_t>(kTile), step.page_size - offset, last_position + 1 - position});
    const int64_t page = step.page_table[task.sequence * step.max_pages + position / step.page_size];
    const int64_t slot = page * step.page_size + offset;

    for (int64_t t = 0; t < count; ++t) {
      load_row(step.keys + ((slot + t) * step.kv_heads + task.kv_head) * kd, kd, tile + t * kd);
    }
    for (int64_t r = 0; r < rows; ++r) {
      const float* query = q + r * kd;
      float* score = scores + r * kTile;
      for (int64_t t = 0; t < count; ++t) {
        const float* key = tile + t * kd;
        float dot = 0.0f;
        for (int64_t d = 0; d < kd; ++d) dot += query[d] * key[d];
        score[t] = dot;
      }
      if (step.softcap > 0.0f) {
        for (int64_t t = 0; t < count; ++t) score[t] = std::tanh(score[t] / step.softcap) * step.softcap;
      }
      const int64_t own = first_position + r / group;
      const int64_t visible = std::min(count, own + 1 - position);  // later keys are not visible
      const int64_t hidden = step.window ? std::max<int64_t>(own - step.window + 1 - position, 0) : 0;
      float top = highest[r];
      for (int64_t t = hidden; t < visible; ++t) top = std::max(top, score[t]);
      if (hidden >= visible) {
        for (int64_t t = 0; t < count; ++t) score[t] = 0.0f;
        continue;
      }
      if (top > highest[r]) {
        const float shrink = exp_negative(highest[r] - top);
        norms[r] *= shrink;
        for (int64_t d = 0; d < vd; ++d) sums[r * vd + d] *= shrink;
        highest[r] = top;
      }
      for (int64_t t = 0; t < count; ++t) score[t] = exp_negative(score[t] - top);
      for (int64_t t = 0; t < hidden; ++t) score[t] = 0.0f;
      for (int64_t t = visible; t < count; ++t) score[t] = 0.0f;
      float norm = 0.0f;
      for (int64_t t = 0; t < count; ++t) norm += score[t];
      norms[r] += norm;
    }
    for (int64_t t = 0; t < count; ++t) {
      load_row(step.values + ((slot + t) * step.kv_heads + task.kv_head) * vd, vd, tile + t * vd);
    }
    for (int64_t r = 0; r < rows; ++r) {
      float* sum = sums + r * vd;
      const float* weight = scores + r * kTile;
      for (int64_t t = 0; t < count; ++t) {
        const float* value = tile + t * vd;
        for (int64_t d = 0; d < vd; ++d) sum[d] += weight[t] * value[d];
      }
    }
    position += count;
  }

  for (int64_t r = 0; r < rows; ++r) {
    const int64_t head = task.kv_head * group + r % group;
    T* row = step.output + ((start + task.first + r / group) * step.heads + head) * vd;
    for (int64_t d = 0; d < vd; ++d) from_float(sums[r * vd + d] / norms[r], row + d);
  }
}

template <typename T>
void attend_step(const Step<T>& step, int64_t sequences, int threads) {
  std::vector<Task> tasks;
  for (int64_t i = 0; i < sequences; ++i) {
    const int64_t queries = step.query_starts[i + 1] - step.query_starts[i];
    for (int64_t first = 0; first < queries; first += kQueryBlock) {
      const int64_t count = std::min<int64_t>(kQueryBlock, queries - first);
      for (int64_t head = 0; head < step.kv_heads; ++head) {
        tasks.push_back({static_cast<int32_t>(i), static_cast<int32_t>(head), first, count});
      }
    }
  }
  const int64_t rows = kQueryBlock * step.heads / step.kv_heads;
  const int64_t scratch = rows * (step.key_dim + step.value_dim + kTile + 2) + kTile * std::max(step.key_dim, step.value_dim);
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> memory(scratch);
#pragma omp for schedule(dynamic)
    for (size_t i = 0; i < tasks.size(); ++i) attend(step, tasks[i], memory.data());
  }
}

template <typename T>
void store(const T* source, int64_t stride, int64_t head_stride, T* pool, const int64_t* slots, int64_t tokens,
           int64_t heads, int64_t dim) {
  for (int64_t i = 0; i < tokens; ++i) {
    for (int64_t h = 0; h < heads; ++h) {
      std::memcpy(pool + (slots[i] * heads + h) * dim, source + i * stride + h * head_stride, dim * sizeof(T));
    }
  }
}

}  // namespace

#define LEAPGEN_EXPORT(NAME, T)                                                                                         \
  extern "C" __attribute__((visibility("default"))) void leapgen_attend_##NAME(                                                                                \
      const void* query, void* output, const void* keys, const void* values, const int64_t* page_table,                 \
      const int64_t* query_starts, const int64_t* kv_lengths, const float* sinks, int64_t query_stride,                 \
      int64_t query_head_stride, int64_t sequences, int64_t max_pages, int64_t page_size, int64_t heads,                \
      int64_t kv_heads, int64_t key_dim, int64_t value_dim, int64_t window, float scaling, float softcap, int threads) { \
    attend_step(Step<T>{static_cast<const T*>(query), static_cast<T*>(output), static_cast<const T*>(keys),             \
                        static_cast<const T*>(values), page_table, query_starts, kv_lengths, sinks, query_stride,       \
                        query_head_stride, max_pages, page_size, heads, kv_heads, key_dim, value_dim, window, scaling,  \
                        softcap},                                                                                       \
                sequences, threads);                                                                                    \
  }                                                                                                                     \
  extern "C" __attribute__((visibility("default"))) void leapgen_store_##NAME(const void* source, int64_t stride, int64_t head_stride, void* pool,             \
                                       const int64_t* slots, int64_t tokens, int64_t heads, int64_t dim) {              \
    store(static_cast<const T*>(source), stride, head_stride, static_cast<T*>(pool), slots, tokens, heads, dim);        \
  }

LEAPGEN_EXPORT(float32, float)
LEAPGEN_EXPORT(bfloat16, BFloat16)
