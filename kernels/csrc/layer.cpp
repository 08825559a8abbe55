// A decoder layer as a program: linear layers and attention by their kernels, everything else row by row.
//
// What lies between two kernels (norms, rotary embeddings, activations, residual sums) is a list of small instructions on
// a token's own numbers, held as floats in scratch memory that stays in the cache. One call runs the whole layer. Programs
// are written by leapgen_kernels.program; each instruction is kFields int64.

#include <algorithm>
#include <cmath>

#include "vector.h"

namespace leapgen {
namespace {

enum Stage : int64_t { kEnd, kRowwise, kLinear, kAttend };
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

INLINED Vector gather(const float* p, int64_t stride, int64_t count) {
  Vector v = splat(1.0f);  // lanes past the end: any number no operation chokes on
  for (int64_t i = 0; i < count; ++i) v[i] = p[i * stride];
  return v;
}

INLINED void scatter(float* p, int64_t stride, int64_t count, Vector v) {
  for (int64_t i = 0; i < count; ++i) p[i * stride] = v[i];
}

// f is given whole vectors, and says for each number the same wherever in a vector it stands.
template <typename F>
INLINED void unary(const Instruction& one, float* scratch, F f) {
  for (int64_t o = 0; o < one.outer; ++o) {
    float* out = scratch + one.out.start + o * one.out.outer;
    const float* a = scratch + one.a.start + o * one.a.outer;
    int64_t i = 0;
    if (one.out.inner == 1 && one.a.inner == 1) {
      for (; i + kLanes <= one.inner; i += kLanes) save(out + i, f(load(a + i)));
    }
    for (; i < one.inner; i += kLanes) {
      const int64_t count = std::min(kLanes, one.inner - i);
      scatter(out + i * one.out.inner, one.out.inner, count, f(gather(a + i * one.a.inner, one.a.inner, count)));
    }
  }
}

template <typename F>
INLINED void binary(const Instruction& one, float* scratch, F f) {
  for (int64_t o = 0; o < one.outer; ++o) {
    float* out = scratch + one.out.start + o * one.out.outer;
    const float* a = scratch + one.a.start + o * one.a.outer;
    const float* b = scratch + one.b.start + o * one.b.outer;
    int64_t i = 0;
    if (one.out.inner == 1 && one.a.inner == 1 && one.b.inner == 1) {
      for (; i + kLanes <= one.inner; i += kLanes) save(out + i, f(load(a + i), load(b + i)));
    } else if (one.out.inner == 1 && one.a.inner == 1 && one.b.inner == 0) {
      const Vector same = splat(*b);
      for (; i + kLanes <= one.inner; i += kLanes) save(out + i, f(load(a + i), same));
    }
    for (; i < one.inner; i += kLanes) {
      const int64_t count = std::min(kLanes, one.inner - i);
      scatter(out + i * one.out.inner, one.out.inner, count,
              f(gather(a + i * one.a.inner, one.a.inner, count), gather(b + i * one.b.inner, one.b.inner, count)));
    }
  }
}

INLINED Vector sigmoid(Vector x) { return 1.0f / (1.0f + exp_within(-x)); }

INLINED Vector tanh_of(Vector x) {
  const Vector e = exp_within(-2.0f * x);
  return (1.0f - e) / (1.0f + e);
}

// Abramowitz and Stegun 7.1.26: absolute error below 1.5e-7.
INLINED Vector erf_of(Vector x) {
  const Vector size = x > 0.0f ? x : -x, t = 1.0f / (1.0f + 0.3275911f * size);
  Vector p = splat(1.061405429f);
  p = p * t - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const Vector y = 1.0f - p * t * exp_within(-size * size);
  return x > 0.0f ? y : -y;
}

INLINED Vector rsqrt(Vector x) {
  Vector y;
  for (int64_t i = 0; i < kLanes; ++i) y[i] = 1.0f / std::sqrt(x[i]);
  return y;
}

INLINED void mean(const Instruction& one, float* scratch) {
  for (int64_t o = 0; o < one.outer; ++o) {
    const float* a = scratch + one.a.start + o * one.a.outer;
    Vector sums = splat(0.0f);
    int64_t i = 0;
    for (; i + kLanes <= one.inner; i += kLanes) {
      sums += one.a.inner == 1 ? load(a + i) : gather(a + i * one.a.inner, one.a.inner, kLanes);
    }
    float sum = 0.0f;
    for (int64_t lane = 0; lane < kLanes; ++lane) sum += sums[lane];
    for (; i < one.inner; ++i) sum += a[i * one.a.inner];
    scratch[one.out.start + o * one.out.outer] = sum / static_cast<float>(one.inner);
  }
}

template <typename T>
INLINED void load_row(const Instruction& one, const void* memory, int64_t token, float* scratch) {
  const T* row = static_cast<const T*>(memory) + token * one.row_stride + one.a.start;
  float* out = scratch + one.out.start;
  int64_t i = 0;
  for (; i + kLanes <= one.inner; i += kLanes) save(out + i, load(row + i));
  for (; i < one.inner; ++i) out[i] = to_float(row[i]);
}

template <typename T>
INLINED void store_row(const Instruction& one, void* memory, int64_t token, const float* scratch) {
  for (int64_t o = 0; o < one.outer; ++o) {
    T* row = static_cast<T*>(memory) + token * one.row_stride + one.out.start + o * one.out.outer;
    const float* a = scratch + one.a.start + o * one.a.outer;
    int64_t i = 0;
    if (one.a.inner == 1 && one.out.inner == 1) {
      for (; i + kLanes <= one.inner; i += kLanes) save(row + i, load(a + i));
    }
    for (; i < one.inner; ++i) from_float(a[i * one.a.inner], row + i * one.out.inner);
  }
}

FOR_EVERY_CPU void run(const Instruction* first, int64_t count, void* const* memories, int64_t token, float* scratch) {
  for (const Instruction* one = first; one < first + count; ++one) {
    switch (one->op) {
      case kLoadFloat: load_row<float>(*one, memories[one->memory], token, scratch); break;
      case kLoadBFloat16: load_row<BFloat16>(*one, memories[one->memory], token, scratch); break;
      case kStoreFloat: store_row<float>(*one, memories[one->memory], token, scratch); break;
      case kStoreBFloat16: store_row<BFloat16>(*one, memories[one->memory], token, scratch); break;
      case kFill: scratch[one->out.start] = static_cast<float>(one->value); break;
      case kAdd: binary(*one, scratch, [](Vector a, Vector b) INLINE { return a + b; }); break;
      case kSubtract: binary(*one, scratch, [](Vector a, Vector b) INLINE { return a - b; }); break;
      case kMultiply: binary(*one, scratch, [](Vector a, Vector b) INLINE { return a * b; }); break;
      case kDivide: binary(*one, scratch, [](Vector a, Vector b) INLINE { return a / b; }); break;
      case kNegate: unary(*one, scratch, [](Vector a) INLINE { return -a; }); break;
      case kRsqrt: unary(*one, scratch, [](Vector a) INLINE { return rsqrt(a); }); break;
      case kRelu: unary(*one, scratch, [](Vector a) INLINE { return a < 0.0f ? splat(0.0f) : a; }); break;
      case kTanh: unary(*one, scratch, [](Vector a) INLINE { return tanh_of(a); }); break;
      case kSigmoid: unary(*one, scratch, [](Vector a) INLINE { return sigmoid(a); }); break;
      case kSilu: unary(*one, scratch, [](Vector a) INLINE { return a / (1.0f + exp_within(-a)); }); break;
      case kGelu: unary(*one, scratch, [](Vector a) INLINE { return 0.5f * a * (1.0f + erf_of(a * 0.70710678f)); }); break;
      case kGeluTanh:
        unary(*one, scratch, [](Vector a) INLINE {
          return 0.5f * a * (1.0f + tanh_of(0.79788456f * (a + 0.044715f * a * a * a)));
        });
        break;
      case kMean: mean(*one, scratch); break;
    }
  }
}

// Tokens 0 .. tokens - 1, each thread a run of them; what is the same for all tokens is computed by each thread once.
void rowwise(const int64_t* stage, void* const* memories, int64_t tokens, int threads) {
  const int64_t once = stage[0], each = stage[1], floats = stage[2];
  const auto* instructions = reinterpret_cast<const Instruction*>(stage + 3);
  const int64_t team = std::min<int64_t>(threads, tokens);
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
using AttendKernel = void(void*, const void*, const void*, const void*, const int64_t*, void*, int64_t, int64_t, int64_t,
                          int64_t, int64_t, const float*, int64_t, float, float, int);

// Runs a program over `tokens` rows. `inputs` are what the program numbers first; buffers of its own follow, rows of each
// one after the other in `workspace`. `item` is the bytes of a number in memory that the kernels work on.
void run_program(const int64_t* code, void* const* inputs, char* workspace, int64_t tokens, int64_t item,
                 LinearKernel* linear, AttendKernel* attend, int threads) {
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
    leapgen::LinearKernel* linear, leapgen::AttendKernel* attend, int threads) {
  for (int64_t i = 0; i < layers; inputs += codes[i++][0]) {
    leapgen::run_program(codes[i], inputs, workspace, tokens, item, linear, attend, threads);
  }
}
