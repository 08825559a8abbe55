// A decoder layer as a program: linear layers and attention by their kernels, everything else row by row.
//
// What lies between two kernels (norms, rotary embeddings, activations, residual sums) is a list of small instructions on
// a token's own numbers, held as floats in scratch memory that stays in the cache. One call runs the whole layer. Programs
// are written by leapgen_kernels.program; each instruction is kFields int64.

#include <algorithm>
#include <cmath>

#include "isa/activation.h"

namespace leapgen {
namespace {

enum Stage : int64_t { kEnd, kRowwise, kLinear, kAttend, kGated };
enum Op : int64_t {
  kLoadFloat, kLoadBFloat16, kStoreFloat, kStoreBFloat16, kFill,
  kAdd, kSubtract, kMultiply, kDivide,
  kNegate, kRsqrt, kRelu, kTanh, kSigmoid, kSilu, kGelu, kGeluTanh,
  kMean,
};

// `outer` times `inner` numbers. Operands are places in scratch, with their strides; in memory, elements of a token's row.
struct Place {
  int64_t start, outer, inner;
};
struct Instruction {
  int64_t op, outer, inner;
  Place out, a, b;
  int64_t memory, row_stride;  // loads and stores; a stride of 0 reads the same row for every token
  double value;                // fill
};
static_assert(sizeof(Instruction) == 15 * sizeof(int64_t), "as leapgen_kernels.program writes it");

// f is given whole vectors, and says for each number the same wherever in a vector it stands.
template <typename V, typename F>
INLINED void unary(const Instruction& one, float* scratch, F f) {
  const Place to = one.out, from = one.a;  // copies: as far as the compiler knows, what is stored might be the instruction
  const int64_t outer = one.outer, inner = one.inner;
  for (int64_t o = 0; o < outer; ++o) {
    float* out = scratch + to.start + o * to.outer;
    const float* a = scratch + from.start + o * from.outer;
    int64_t i = 0;
    if (to.inner == 1 && from.inner == 1) {
      for (; i + kLanesOf<V> <= inner; i += kLanesOf<V>) save(out + i, f(floats_at<V>(a + i)));
    }
    for (; i < inner; ++i) out[i * to.inner] = f(copies<V>(a[i * from.inner]))[0];
  }
}

template <typename V, typename F>
INLINED void binary(const Instruction& one, float* scratch, F f) {
  const Place to = one.out, left = one.a, right = one.b;
  const int64_t outer = one.outer, inner = one.inner;
  for (int64_t o = 0; o < outer; ++o) {
    float* out = scratch + to.start + o * to.outer;
    const float* a = scratch + left.start + o * left.outer;
    const float* b = scratch + right.start + o * right.outer;
    int64_t i = 0;
    if (to.inner == 1 && left.inner == 1 && right.inner == 1) {
      for (; i + kLanesOf<V> <= inner; i += kLanesOf<V>) save(out + i, f(floats_at<V>(a + i), floats_at<V>(b + i)));
    } else if (to.inner == 1 && left.inner == 1 && right.inner == 0) {
      const V same = copies<V>(*b);
      for (; i + kLanesOf<V> <= inner; i += kLanesOf<V>) save(out + i, f(floats_at<V>(a + i), same));
    }
    for (; i < inner; ++i) out[i * to.inner] = f(copies<V>(a[i * left.inner]), copies<V>(b[i * right.inner]))[0];
  }
}

template <typename V>
INLINED void mean(const Instruction& one, float* scratch) {
  const Place to = one.out, from = one.a;
  const int64_t outer = one.outer, inner = one.inner;
  for (int64_t o = 0; o < outer; ++o) {
    const float* a = scratch + from.start + o * from.outer;
    V sums[4] = {};
    int64_t i = 0;
    for (; from.inner == 1 && i + 4 * kLanesOf<V> <= inner; i += 4 * kLanesOf<V>) {
#pragma GCC unroll 4
      for (int64_t part = 0; part < 4; ++part) sums[part] += floats_at<V>(a + i + part * kLanesOf<V>);
    }
    const V all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    float sum = 0.0f;
    for (int64_t lane = 0; lane < kLanesOf<V>; ++lane) sum += all[lane];
    for (; i < inner; ++i) sum += a[i * from.inner];
    scratch[to.start + o * to.outer] = sum / static_cast<float>(inner);
  }
}

template <typename V, typename T>
INLINED void load_row(const Instruction& one, const void* memory, int64_t token, float* scratch) {
  const T* row = static_cast<const T*>(memory) + token * one.row_stride + one.a.start;
  float* out = scratch + one.out.start;
  const int64_t inner = one.inner;
  int64_t i = 0;
  for (; i + kLanesOf<V> <= inner; i += kLanesOf<V>) save(out + i, floats_at<V>(row + i));
  for (; i < inner; ++i) out[i] = to_float(row[i]);
}

template <typename V, typename T>
INLINED void store_row(const Instruction& one, void* memory, int64_t token, const float* scratch) {
  const Place to = one.out, from = one.a;
  const int64_t outer = one.outer, inner = one.inner;
  for (int64_t o = 0; o < outer; ++o) {
    T* row = static_cast<T*>(memory) + token * one.row_stride + to.start + o * to.outer;
    const float* a = scratch + from.start + o * from.outer;
    int64_t i = 0;
    if (from.inner == 1 && to.inner == 1) {
      for (; i + kLanesOf<V> <= inner; i += kLanesOf<V>) save(row + i, floats_at<V>(a + i));
    }
    for (; i < inner; ++i) from_float(a[i * from.inner], row + i * to.inner);
  }
}

template <typename V>
INLINED V rsqrt(V x) {
  float y[kLanesOf<V>];
  save(y, x);
  for (float& one : y) one = 1.0f / std::sqrt(one);
  return floats_at<V>(y);
}

template <typename V, class Math>
INLINED void run_by(const Instruction* first, int64_t count, void* const* memories, int64_t token, float* scratch) {
  for (const Instruction* one = first; one < first + count; ++one) {
    switch (one->op) {
      case kLoadFloat: load_row<V, float>(*one, memories[one->memory], token, scratch); break;
      case kLoadBFloat16: load_row<V, BFloat16>(*one, memories[one->memory], token, scratch); break;
      case kStoreFloat: store_row<V, float>(*one, memories[one->memory], token, scratch); break;
      case kStoreBFloat16: store_row<V, BFloat16>(*one, memories[one->memory], token, scratch); break;
      case kFill: scratch[one->out.start] = static_cast<float>(one->value); break;
      case kAdd: binary<V>(*one, scratch, [](V a, V b) INLINE { return a + b; }); break;
      case kSubtract: binary<V>(*one, scratch, [](V a, V b) INLINE { return a - b; }); break;
      case kMultiply: binary<V>(*one, scratch, [](V a, V b) INLINE { return a * b; }); break;
      case kDivide: binary<V>(*one, scratch, [](V a, V b) INLINE { return a / b; }); break;
      case kNegate: unary<V>(*one, scratch, [](V a) INLINE { return -a; }); break;
      case kRsqrt: unary<V>(*one, scratch, [](V a) INLINE { return rsqrt(a); }); break;
      case kRelu: unary<V>(*one, scratch, [](V a) INLINE { return relu(a); }); break;
      case kTanh: unary<V>(*one, scratch, [](V a) INLINE { return tanh_of<Math>(a); }); break;
      case kSigmoid: unary<V>(*one, scratch, [](V a) INLINE { return sigmoid<Math>(a); }); break;
      case kSilu: unary<V>(*one, scratch, [](V a) INLINE { return silu<Math>(a); }); break;
      case kGelu: unary<V>(*one, scratch, [](V a) INLINE { return gelu<Math>(a); }); break;
      case kGeluTanh: unary<V>(*one, scratch, [](V a) INLINE { return gelu_tanh<Math>(a); }); break;
      case kMean: mean<V>(*one, scratch); break;
    }
  }
}

using Run = void(const Instruction*, int64_t, void* const*, int64_t, float*);

FOR_NARROW_CPUS void run_narrow(const Instruction* first, int64_t count, void* const* memories, int64_t token, float* scratch) {
  run_by<Vector, Portable>(first, count, memories, token, scratch);
}
#ifdef FOR_WIDE_CPUS
FOR_WIDE_CPUS void run_wide(const Instruction* first, int64_t count, void* const* memories, int64_t token, float* scratch) {
  run_by<Wide, Avx512>(first, count, memories, token, scratch);
}
#else
constexpr Run* run_wide = run_narrow;
#endif

}  // namespace
}  // namespace leapgen

// Whether layers take sixteen floats at a time; tests turn it off.
extern "C" {
__attribute__((visibility("default"))) int leapgen_layers_wide = leapgen::is_wide();
}

namespace leapgen {
namespace {

// Tokens 0 .. tokens - 1, each thread a run of them; what is the same for all tokens is computed by each thread once.
void rowwise(const int64_t* stage, void* const* memories, int64_t tokens, int threads) {
  const int64_t once = stage[0], each = stage[1], floats = stage[2];
  const auto* instructions = reinterpret_cast<const Instruction*>(stage + 3);
  const int64_t team = std::min<int64_t>(threads, tokens);
  Run* const run = leapgen_layers_wide ? run_wide : run_narrow;
#pragma omp parallel for num_threads(team) if (team > 1) schedule(static, 1)
  for (int64_t part = 0; part < team; ++part) {
    thread_local Scratch<float> room;
    if (static_cast<int64_t>(room.size()) < floats) room.resize(floats);
    run(instructions, once, memories, 0, room.data());
    for (int64_t token = part * tokens / team; token < (part + 1) * tokens / team; ++token) {
      run(instructions + once, each, memories, token, room.data());
    }
  }
}

float float_of(int64_t bits) {
  double value;
  std::memcpy(&value, &bits, sizeof value);
  return static_cast<float>(value);
}

using LinearKernel = void(const void*, const void* const*, const void* const*, void* const*, const int64_t*, int64_t, int64_t,
                          int64_t, int64_t, int);
using GatedKernel = void(const void*, const void* const*, const void* const*, void*, int64_t, int64_t, int64_t, int64_t, int64_t,
                         int64_t, int);
using AttendKernel = void(void*, const void*, const void*, const void*, const int64_t*, void*, int64_t, int64_t, int64_t,
                          int64_t, int64_t, const float*, int64_t, float, float, int);

// Runs a program over `tokens` rows. `inputs` are what the program numbers first; buffers of its own follow, rows of each
// one after the other in `workspace`. `item` is the bytes of a number in memory that the kernels work on. `gated`, null where
// there is none, does what would else be three stages.
void run_program(const int64_t* code, void* const* inputs, char* workspace, int64_t tokens, int64_t item,
                 LinearKernel* linear, GatedKernel* gated, AttendKernel* attend, int threads) {
  const int64_t num_inputs = *code++, num_buffers = *code++;
  thread_local std::vector<void*> memories, outputs;
  thread_local std::vector<const void*> weights, biases;
  memories.assign(inputs, inputs + num_inputs);
  for (int64_t i = 0; i < num_buffers; ++i) memories.push_back(workspace + *code++ * tokens);
  const auto at = [&](int64_t memory, int64_t offset) { return static_cast<char*>(memories[memory]) + offset * item; };
  while (true) {
    const int64_t kind = *code++, length = *code++;
    const int64_t* p = code;
    code += length;
    if (kind == kEnd) return;
    if (kind == kRowwise) {
      rowwise(p, memories.data(), tokens, threads);
    } else if (kind == kGated) {  // length of the stages it stands for; x, its offset, row stride, depth, activation, columns
                                  // between; matrix and bias of gate, of the other, of what follows; output and its columns
      if (!gated) continue;
      const auto bias = [&](int64_t memory) { return memory < 0 ? nullptr : memories[memory]; };
      const void *const w[] = {memories[p[7]], memories[p[9]], memories[p[11]]};
      const void *const biases[] = {bias(p[8]), bias(p[10]), bias(p[12])};
      gated(at(p[1], p[2]), w, biases, memories[p[13]], p[5], tokens, p[4], p[3], p[6], p[14], threads);
      code += p[0];
    } else if (kind == kLinear) {  // x, its offset, row stride, depth, weights; then matrix, bias, output of each; columns
      const int64_t count = p[4], *operands = p + 5;
      weights.clear(), biases.clear(), outputs.clear();
      for (int64_t i = 0; i < count; ++i, operands += 3) {
        weights.push_back(memories[operands[0]]);
        biases.push_back(operands[1] < 0 ? nullptr : memories[operands[1]]);
        outputs.push_back(memories[operands[2]]);
      }
      linear(at(p[0], p[1]), weights.data(), biases.data(), outputs.data(), operands, count, tokens, p[3], p[2], threads);
    } else {  // plan, output; memory and offset of query, key, value; six strides; heads, KV heads, dims; window, scaling, cap
      attend(memories[p[0]], at(p[2], p[3]), at(p[4], p[5]), at(p[6], p[7]), p + 8, memories[p[1]], tokens, p[14], p[15],
             p[16], p[17], nullptr, p[18], float_of(p[19]), float_of(p[20]), threads);
    }
  }
}

}  // namespace
}  // namespace leapgen

// Runs programs one after the other; `inputs` are those of all of them in a row.
extern "C" __attribute__((visibility("default"))) void leapgen_layers(
    const int64_t* const* codes, int64_t layers, void* const* inputs, char* workspace, int64_t tokens, int64_t item,
    leapgen::LinearKernel* linear, leapgen::GatedKernel* gated, leapgen::AttendKernel* attend, int threads) {
  for (int64_t i = 0; i < layers; inputs += codes[i++][0]) {
    leapgen::run_program(codes[i], inputs, workspace, tokens, item, linear, gated, attend, threads);
  }
}
