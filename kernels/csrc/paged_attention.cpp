// Paged attention on CPU: the KV store and the attention of a flat mixed step (decode and prefill together).
//
// Plain C ABI, no torch; threads are OpenMP's, so that they are torch's own where both load the same runtime. The hot loops
// are ordinary C++ that the compiler vectorises; target_clones compiles them for AVX-512, AVX2 and the baseline, and the
// loader picks the best the machine has when the library is first used.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EVERY_CPU __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EVERY_CPU
#endif

// Helpers must become part of each clone, or they would run compiled for the baseline.
#define INLINED inline __attribute__((always_inline))

namespace {

constexpr int kTile = 16;       // keys scored together
constexpr int kQueryBlock = 8;  // query tokens of a prefill that read the same keys together

struct BFloat16 {
  uint16_t bits;
};

INLINED float to_float(float x) { return x; }
INLINED float to_float(BFloat16 x) {
  uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
INLINED void from_float(float x, float* out) { *out = x; }
INLINED void from_float(float x, BFloat16* out) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if (x != x) {
    out->bits = 0x7fc0;
  } else {
    out->bits = static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);  // to nearest, ties to even
  }
}

// Eight floats; the compiler lowers them to what each clone's machine has.
typedef float Vector __attribute__((vector_size(32)));
typedef int32_t IntVector __attribute__((vector_size(32)));
typedef uint16_t ShortVector __attribute__((vector_size(16)));
constexpr int64_t kLanes = 8;

INLINED int64_t round_up(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }
INLINED Vector load(const float* p) {
  Vector v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
INLINED void save(float* p, Vector v) { std::memcpy(p, &v, sizeof v); }
INLINED Vector splat(float x) { return Vector{} + x; }
INLINED Vector larger(Vector a, Vector b) { return a > b ? a : b; }

// e^x for x <= 0 with a relative error below 2e-7: 2^n * p(r), the polynomial of Cephes' expf.
INLINED Vector exp_negative(Vector x) {
  x = x < -87.0f ? splat(-87.0f) : x;
  const IntVector n = __builtin_convertvector(x * 1.44269504f - 0.5f, IntVector);  // to nearest, as x <= 0
  const Vector whole = __builtin_convertvector(n, Vector);
  const Vector r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
  Vector p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const IntVector bits = (n + 127) << 23;
  Vector power;
  std::memcpy(&power, &bits, sizeof power);
  return p * power;
}

// The sums of eight vectors, as one vector.
INLINED Vector sums_of(const Vector v[8]) {
  Vector pairs[4], quads[2];
  for (int i = 0; i < 4; ++i) {
    pairs[i] = __builtin_shufflevector(v[2 * i], v[2 * i + 1], 0, 8, 2, 10, 4, 12, 6, 14) +
               __builtin_shufflevector(v[2 * i], v[2 * i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
  }
  for (int i = 0; i < 2; ++i) {
    quads[i] = __builtin_shufflevector(pairs[2 * i], pairs[2 * i + 1], 0, 1, 8, 9, 4, 5, 12, 13) +
               __builtin_shufflevector(pairs[2 * i], pairs[2 * i + 1], 2, 3, 10, 11, 6, 7, 14, 15);
  }
  return __builtin_shufflevector(quads[0], quads[1], 0, 1, 2, 3, 8, 9, 10, 11) +
         __builtin_shufflevector(quads[0], quads[1], 4, 5, 6, 7, 12, 13, 14, 15);
}

template <typename T>
struct Step {
  const T* query;               // [tokens, heads, key_dim], rows query_stride and heads query_head_stride apart
  T* output;                    // [tokens, heads, value_dim]
  const T* keys;                // [pages, page_size, kv_heads, key_dim]
  const T* values;              // [pages, page_size, kv_heads, value_dim]
  const int64_t* page_table;    // [sequences, max_pages]
  const int64_t* query_starts;  // [sequences + 1]
  const int64_t* kv_lengths;    // [sequences]
  const float* sinks;           // [heads] or null
  int64_t query_stride, query_head_stride;
  int64_t max_pages, page_size, heads, kv_heads, key_dim, value_dim;
  int64_t window;          // 0: none
  float scaling, softcap;  // softcap 0: none
};

struct Task {
  int32_t sequence;
  int32_t kv_head, kv_heads;  // the first, and how many: read page by page together, so that pages are read in one piece
  int64_t first, count;       // query tokens of the sequence
};

// `count` rows of a pool as floats a multiple of kLanes wide: where they lie if they are that, else copied to the tile.
INLINED const float* rows_of(const float* source, int64_t row_stride, int64_t count, int64_t dim, float* tile,
                             int64_t* stride) {
  if (dim % kLanes == 0) {
    *stride = row_stride;
    return source;
  }
  *stride = round_up(dim);
  for (int64_t t = 0; t < count; ++t) {
    for (int64_t d = 0; d < dim; ++d) tile[t * *stride + d] = source[t * row_stride + d];
    for (int64_t d = dim; d < *stride; ++d) tile[t * *stride + d] = 0.0f;
  }
  return tile;
}

INLINED const float* rows_of(const BFloat16* source, int64_t row_stride, int64_t count, int64_t dim, float* tile,
                             int64_t* stride) {
  *stride = round_up(dim);
  for (int64_t t = 0; t < count; ++t) {
    const BFloat16* row = source + t * row_stride;
    int64_t d = 0;
    for (; d + kLanes <= dim; d += kLanes) {
      ShortVector bits;
      std::memcpy(&bits, row + d, sizeof bits);
      const IntVector wide = __builtin_convertvector(bits, IntVector) << 16;
      std::memcpy(tile + t * *stride + d, &wide, sizeof wide);
    }
    for (; d < dim; ++d) tile[t * *stride + d] = to_float(row[d]);
    for (; d < *stride; ++d) tile[t * *stride + d] = 0.0f;
  }
  return tile;
}

// scores[t] = query . key t, for t < kTile; keys past `count` repeat the last one.
INLINED void score(const float* query, const float* keys, int64_t stride, int64_t count, int64_t dim, float* scores) {
  for (int64_t first = 0; first < count; first += 8) {
    const float* row[8];
    for (int t = 0; t < 8; ++t) row[t] = keys + std::min(first + t, count - 1) * stride;
    Vector sums[8] = {};
    for (int64_t d = 0; d < dim; d += kLanes) {
      const Vector q = load(query + d);
      for (int t = 0; t < 8; ++t) sums[t] += q * load(row[t] + d);
    }
    save(scores + first, sums_of(sums));
  }
}

// sum += weights . values, over `count` rows.
INLINED void accumulate(const float* weights, const float* values, int64_t stride, int64_t count, int64_t dim, float* sum) {
  int64_t d = 0;
  for (; d + 8 * kLanes <= dim; d += 8 * kLanes) {
    Vector part[8];
    for (int i = 0; i < 8; ++i) part[i] = load(sum + d + i * kLanes);
    for (int64_t t = 0; t < count; ++t) {
      const float weight = weights[t];
      for (int i = 0; i < 8; ++i) part[i] += weight * load(values + t * stride + d + i * kLanes);
    }
    for (int i = 0; i < 8; ++i) save(sum + d + i * kLanes, part[i]);
  }
  for (; d < dim; d += kLanes) {
    Vector part = load(sum + d);
    for (int64_t t = 0; t < count; ++t) part += weights[t] * load(values + t * stride + d);
    save(sum + d, part);
  }
}

// Online softmax (Milakov and Gimelshein, arXiv 1805.02867) over the pages, all query heads of a KV head together.
template <typename T>
FOR_EVERY_CPU void attend(const Step<T>& step, const Task& task, float* scratch) {
  const int64_t group = step.heads / step.kv_heads, rows = task.count * group, all_rows = rows * task.kv_heads;
  const int64_t kd = round_up(step.key_dim), vd = round_up(step.value_dim);
  float* q = scratch;                          // [all_rows, kd]; rows are KV head, query token, head of the group
  float* sums = q + all_rows * kd;             // [all_rows, vd]
  float* highest = sums + all_rows * vd;       // [all_rows]
  float* norms = highest + all_rows;           // [all_rows, kLanes], to be added up at the end
  float* weights = norms + all_rows * kLanes;  // [rows, kTile]
  float* tile = weights + rows * kTile;        // [kTile, max(kd, vd)]

  const int64_t start = step.query_starts[task.sequence];
  const int64_t length = step.kv_lengths[task.sequence];
  const int64_t queries = step.query_starts[task.sequence + 1] - start;
  const int64_t first_position = length - queries + task.first;
  const int64_t last_position = first_position + task.count - 1;
  for (int64_t r = 0; r < all_rows; ++r) {
    const int64_t head = (task.kv_head + r / rows) * group + r % group, token = start + task.first + r % rows / group;
    const T* row = step.query + token * step.query_stride + head * step.query_head_stride;
    for (int64_t d = 0; d < kd; ++d) q[r * kd + d] = d < step.key_dim ? to_float(row[d]) * step.scaling : 0.0f;
    for (int64_t d = 0; d < vd; ++d) sums[r * vd + d] = 0.0f;
    highest[r] = step.sinks ? step.sinks[head] : -INFINITY;
    save(norms + r * kLanes, Vector{step.sinks ? 1.0f : 0.0f});
  }

  const int64_t key_stride = step.kv_heads * step.key_dim, value_stride = step.kv_heads * step.value_dim;
  int64_t position = step.window ? std::max<int64_t>(first_position - step.window + 1, 0) : 0;
  while (position <= last_position) {
    const int64_t offset = position % step.page_size;
    const int64_t count = std::min({static_cast<int64_t>(kTile), step.page_size - offset, last_position + 1 - position});
    const int64_t page = step.page_table[task.sequence * step.max_pages + position / step.page_size];
    const int64_t slot = page * step.page_size + offset;
    for (int64_t h = 0; h < task.kv_heads; ++h) {
      const int64_t kv_head = task.kv_head + h, first_row = h * rows;
      int64_t stride;
      const float* keys =
          rows_of(step.keys + slot * key_stride + kv_head * step.key_dim, key_stride, count, step.key_dim, tile, &stride);
      for (int64_t r = first_row; r < first_row + rows; ++r) {
        float* weight = weights + (r - first_row) * kTile;
        score(q + r * kd, keys, stride, count, kd, weight);
        if (step.softcap > 0.0f) {
          for (int64_t t = 0; t < count; ++t) weight[t] = std::tanh(weight[t] / step.softcap) * step.softcap;
        }
        const int64_t own = first_position + (r - first_row) / group;
        const int64_t visible = std::min(count, own + 1 - position);  // later keys are not visible
        const int64_t hidden = step.window ? std::max<int64_t>(own - step.window + 1 - position, 0) : 0;
        if (hidden >= visible) {
          for (int64_t t = 0; t < kTile; ++t) weight[t] = 0.0f;
          continue;
        }
        for (int64_t t = 0; t < hidden; ++t) weight[t] = -INFINITY;
        for (int64_t t = visible; t < kTile; ++t) weight[t] = -INFINITY;
        Vector tops = load(weight);
        for (int64_t t = kLanes; t < kTile; t += kLanes) tops = larger(tops, load(weight + t));
        tops = larger(tops, __builtin_shufflevector(tops, tops, 4, 5, 6, 7, 0, 1, 2, 3));
        tops = larger(tops, __builtin_shufflevector(tops, tops, 2, 3, 0, 1, 6, 7, 4, 5));
        tops = larger(tops, __builtin_shufflevector(tops, tops, 1, 0, 3, 2, 5, 4, 7, 6));
        const float top = std::max(highest[r], tops[0]);
        Vector norm = load(norms + r * kLanes);
        if (top > highest[r]) {
          const float shrink = exp_negative(splat(highest[r] - top))[0];
          norm *= shrink;
          for (int64_t d = 0; d < vd; d += kLanes) save(sums + r * vd + d, load(sums + r * vd + d) * shrink);
          highest[r] = top;
        }
        for (int64_t t = 0; t < kTile; t += kLanes) {
          const Vector score = load(weight + t);
          const Vector value = exp_negative(score - top);
          const Vector kept = score == -INFINITY ? Vector{} : value;
          save(weight + t, kept);
          norm += kept;
        }
        save(norms + r * kLanes, norm);
      }
      const float* values = rows_of(step.values + slot * value_stride + kv_head * step.value_dim, value_stride, count,
                                    step.value_dim, tile, &stride);
      for (int64_t r = 0; r < rows; ++r) {
        accumulate(weights + r * kTile, values, stride, count, vd, sums + (first_row + r) * vd);
      }
    }
    position += count;
  }

  for (int64_t r = 0; r < all_rows; ++r) {
    const int64_t head = (task.kv_head + r / rows) * group + r % group, token = start + task.first + r % rows / group;
    float norm = 0.0f;
    for (int64_t i = 0; i < kLanes; ++i) norm += norms[r * kLanes + i];
    T* row = step.output + (token * step.heads + head) * step.value_dim;
    for (int64_t d = 0; d < step.value_dim; ++d) from_float(sums[r * vd + d] / norm, row + d);
  }
}

template <typename T>
void attend_step(const Step<T>& step, int64_t sequences, int threads) {
  int64_t blocks = 0;
  for (int64_t i = 0; i < sequences; ++i) {
    blocks += (step.query_starts[i + 1] - step.query_starts[i] + kQueryBlock - 1) / kQueryBlock;
  }
  // All KV heads in one task where there are tasks enough for every thread, else one by one.
  const int64_t heads_each = blocks >= 4 * threads ? step.kv_heads : 1;
  std::vector<Task> tasks;
  for (int64_t i = 0; i < sequences; ++i) {
    const int64_t queries = step.query_starts[i + 1] - step.query_starts[i];
    for (int64_t first = 0; first < queries; first += kQueryBlock) {
      const int64_t count = std::min<int64_t>(kQueryBlock, queries - first);
      for (int64_t head = 0; head < step.kv_heads; head += heads_each) {
        tasks.push_back(
            {static_cast<int32_t>(i), static_cast<int32_t>(head), static_cast<int32_t>(heads_each), first, count});
      }
    }
  }
  const int64_t rows = kQueryBlock * step.heads / step.kv_heads * heads_each;
  const int64_t kd = round_up(step.key_dim), vd = round_up(step.value_dim);
  const int64_t scratch = rows * (kd + vd + kTile + 1 + kLanes) + kTile * std::max(kd, vd);
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

#define LEAPGEN_EXPORT(NAME, T)                                                                                            \
  extern "C" __attribute__((visibility("default"))) void leapgen_attend_##NAME(                                            \
      const void* query, void* output, const void* keys, const void* values, const int64_t* page_table,                    \
      const int64_t* query_starts, const int64_t* kv_lengths, const float* sinks, int64_t query_stride,                    \
      int64_t query_head_stride, int64_t sequences, int64_t max_pages, int64_t page_size, int64_t heads, int64_t kv_heads, \
      int64_t key_dim, int64_t value_dim, int64_t window, float scaling, float softcap, int threads) {                     \
    attend_step(                                                                                                           \
        Step<T>{static_cast<const T*>(query), static_cast<T*>(output), static_cast<const T*>(keys),                        \
                static_cast<const T*>(values), page_table, query_starts, kv_lengths, sinks, query_stride,                  \
                query_head_stride, max_pages, page_size, heads, kv_heads, key_dim, value_dim, window, scaling, softcap},   \
        sequences, threads);                                                                                               \
  }                                                                                                                        \
  extern "C" __attribute__((visibility("default"))) void leapgen_store_##NAME(                                             \
      const void* source, int64_t stride, int64_t head_stride, void* pool, const int64_t* slots, int64_t tokens,           \
      int64_t heads, int64_t dim) {                                                                                        \
    store(static_cast<const T*>(source), stride, head_stride, static_cast<T*>(pool), slots, tokens, heads, dim);           \
  }

LEAPGEN_EXPORT(float32, float)
LEAPGEN_EXPORT(bfloat16, BFloat16)
