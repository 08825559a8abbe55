// The instructions of a program's rowwise stages: operations on one token's numbers, floats in scratch memory.

#pragma once

#include <cmath>

#include "interface.h"
#include "isa/activation.h"
#include "isa/math.h"

namespace leapgen {
namespace {

static_assert(sizeof(Instruction) == 15 * sizeof(int64_t), "fields without padding");

// Applies f to whole vectors, then to each number that is left, broadcast to one. f treats all lanes alike: the bits agree.
template <typename V, typename F>
INLINED void unary(const Instruction& one, float* scratch, F f) {
  const Access to = one.out, from = one.a;  // copies: a store might alias the instruction
  const int64_t outer = one.outer, inner = one.inner;
  for (int64_t o = 0; o < outer; ++o) {
    float* out = scratch + to.start + o * to.outer;
    const float* a = scratch + from.start + o * from.outer;
    int64_t i = 0;
    if (to.inner == 1 && from.inner == 1) {
      for (; i + kLanesOf<V> <= inner; i += kLanesOf<V>) save(out + i, f(load_floats<V>(a + i)));
    }
    for (; i < inner; ++i) out[i * to.inner] = f(broadcast<V>(a[i * from.inner]))[0];
  }
}

template <typename V, typename F>
INLINED void binary(const Instruction& one, float* scratch, F f) {
  const Access to = one.out, left = one.a, right = one.b;
  const int64_t outer = one.outer, inner = one.inner;
  for (int64_t o = 0; o < outer; ++o) {
    float* out = scratch + to.start + o * to.outer;
    const float* a = scratch + left.start + o * left.outer;
    const float* b = scratch + right.start + o * right.outer;
    int64_t i = 0;
    if (to.inner == 1 && left.inner == 1 && right.inner == 1) {
      for (; i + kLanesOf<V> <= inner; i += kLanesOf<V>) save(out + i, f(load_floats<V>(a + i), load_floats<V>(b + i)));
    } else if (to.inner == 1 && left.inner == 1 && right.inner == 0) {
      const V same = broadcast<V>(*b);
      for (; i + kLanesOf<V> <= inner; i += kLanesOf<V>) save(out + i, f(load_floats<V>(a + i), same));
    }
    for (; i < inner; ++i) out[i * to.inner] = f(broadcast<V>(a[i * left.inner]), broadcast<V>(b[i * right.inner]))[0];
  }
}

template <typename V>
INLINED void mean(const Instruction& one, float* scratch) {
  const Access to = one.out, from = one.a;
  const int64_t outer = one.outer, inner = one.inner;
  for (int64_t o = 0; o < outer; ++o) {
    const float* a = scratch + from.start + o * from.outer;
    V sums[4] = {};
    int64_t i = 0;
    for (; from.inner == 1 && i + 4 * kLanesOf<V> <= inner; i += 4 * kLanesOf<V>) {
#pragma GCC unroll 4
      for (int64_t part = 0; part < 4; ++part) sums[part] += load_floats<V>(a + i + part * kLanesOf<V>);
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
  for (; i + kLanesOf<V> <= inner; i += kLanesOf<V>) save(out + i, load_floats<V>(row + i));
  for (; i < inner; ++i) out[i] = to_float(row[i]);
}

template <typename V, typename T>
INLINED void store_row(const Instruction& one, void* memory, int64_t token, const float* scratch) {
  const Access to = one.out, from = one.a;
  const int64_t outer = one.outer, inner = one.inner;
  for (int64_t o = 0; o < outer; ++o) {
    T* row = static_cast<T*>(memory) + token * one.row_stride + to.start + o * to.outer;
    const float* a = scratch + from.start + o * from.outer;
    int64_t i = 0;
    if (from.inner == 1 && to.inner == 1) {
      for (; i + kLanesOf<V> <= inner; i += kLanesOf<V>) save(row + i, load_floats<V>(a + i));
    }
    for (; i < inner; ++i) from_float(a[i * from.inner], row + i * to.inner);
  }
}

template <typename V>
INLINED V rsqrt(V x) {
  float y[kLanesOf<V>];
  save(y, x);
  for (float& one : y) one = 1.0f / std::sqrt(one);
  return load_floats<V>(y);
}

template <typename V, class Math>
INLINED void run_instructions(const Instruction* first, int64_t count, void* const* memories, int64_t token,
                              float* scratch) {
  for (const Instruction* one = first; one < first + count; ++one) {
    switch (static_cast<Operation>(one->operation)) {
      case Operation::kLoadFloat32: load_row<V, float>(*one, memories[one->memory], token, scratch); break;
      case Operation::kLoadBfloat16: load_row<V, BFloat16>(*one, memories[one->memory], token, scratch); break;
      case Operation::kStoreFloat32: store_row<V, float>(*one, memories[one->memory], token, scratch); break;
      case Operation::kStoreBfloat16: store_row<V, BFloat16>(*one, memories[one->memory], token, scratch); break;
      case Operation::kFill: scratch[one->out.start] = static_cast<float>(one->value); break;
      case Operation::kAdd: binary<V>(*one, scratch, [](V a, V b) INLINE { return a + b; }); break;
      case Operation::kSubtract: binary<V>(*one, scratch, [](V a, V b) INLINE { return a - b; }); break;
      case Operation::kMultiply: binary<V>(*one, scratch, [](V a, V b) INLINE { return a * b; }); break;
      case Operation::kDivide: binary<V>(*one, scratch, [](V a, V b) INLINE { return a / b; }); break;
      case Operation::kNegate: unary<V>(*one, scratch, [](V a) INLINE { return -a; }); break;
      case Operation::kRsqrt: unary<V>(*one, scratch, [](V a) INLINE { return rsqrt(a); }); break;
      case Operation::kRelu: unary<V>(*one, scratch, [](V a) INLINE { return relu(a); }); break;
      case Operation::kTanh: unary<V>(*one, scratch, [](V a) INLINE { return tanh_of<Math>(a); }); break;
      case Operation::kSigmoid: unary<V>(*one, scratch, [](V a) INLINE { return sigmoid<Math>(a); }); break;
      case Operation::kSilu: unary<V>(*one, scratch, [](V a) INLINE { return silu<Math>(a); }); break;
      case Operation::kGelu: unary<V>(*one, scratch, [](V a) INLINE { return gelu<Math>(a); }); break;
      case Operation::kGeluTanh: unary<V>(*one, scratch, [](V a) INLINE { return gelu_tanh<Math>(a); }); break;
      case Operation::kMean: mean<V>(*one, scratch); break;
    }
  }
}

}  // namespace
}  // namespace leapgen
