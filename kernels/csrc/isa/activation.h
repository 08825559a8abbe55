// Activation functions of vectors; Math is Portable or Avx512.

#pragma once

#include "isa/vector.h"

namespace leapgen {

template <class Math, typename V>
INLINED V sigmoid(V x) {
  return Math::reciprocal(1.0f + Math::exp(-x));
}

template <class Math, typename V>
INLINED V silu(V x) {
  return x * Math::reciprocal(1.0f + Math::exp(-x));
}

template <typename V>
INLINED V relu(V x) {
  return x < 0.0f ? broadcast<V>(0.0f) : x;
}

template <class Math, typename V>
INLINED V tanh_of(V x) {
  const V e = Math::exp(-2.0f * x);
  return (1.0f - e) * Math::reciprocal(1.0f + e);
}

// Abramowitz and Stegun 7.1.26: absolute error below 1.5e-7.
template <class Math, typename V>
INLINED V erf_of(V x) {
  const V size = x > 0.0f ? x : -x, t = Math::reciprocal(1.0f + 0.3275911f * size);
  V p = broadcast<V>(1.061405429f);
  p = p * t - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const V y = 1.0f - p * t * Math::exp(-size * size);
  return x > 0.0f ? y : -y;
}

template <class Math, typename V>
INLINED V gelu(V x) {
  return 0.5f * x * (1.0f + erf_of<Math>(x * 0.70710678f));
}

template <class Math, typename V>
INLINED V gelu_tanh(V x) {
  return 0.5f * x * (1.0f + tanh_of<Math>(0.79788456f * (x + 0.044715f * x * x * x)));
}

}  // namespace leapgen
