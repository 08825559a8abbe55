// Functions of vectors: exponentials, and the operations that activations are made of.

#pragma once

#include "isa/vector.h"

namespace leapgen {

// e^x of N vectors, interleaved to hide the latency of each operation: 2^n p(r) for x = n log 2 + r, with n an integer and p
// the polynomial of Cephes' expf. `least` is the smallest argument; at -88, n is -127, whose power of two has the bits of 0.
template <int N, typename V>
INLINED void exp_in_step(V* x, float least) {
  using Int = typename Parts<V>::Int;
  constexpr float rounds = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, which stands in the lowest bits
  V n[N], p[N];
  const auto each = [](auto f) INLINE {
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) f(i);
  };
  each([&](int i) INLINE { x[i] = x[i] < least ? broadcast<V>(least) : x[i]; });
  each([&](int i) INLINE { n[i] = x[i] * 1.44269504f + rounds; });
  each([&](int i) INLINE { p[i] = n[i] - rounds; });
  each([&](int i) INLINE { x[i] = x[i] - p[i] * 0.693359375f; });
  each([&](int i) INLINE { x[i] = x[i] + p[i] * 2.12194440e-4f; });
  each([&](int i) INLINE { p[i] = x[i] * 1.9875691500e-4f + 1.3981999507e-3f; });
  for (const float c : {8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f}) {
    each([&](int i) INLINE { p[i] = p[i] * x[i] + c; });
  }
  each([&](int i) INLINE { p[i] = p[i] * (x[i] * x[i]) + (x[i] + 1.0f); });
  each([&](int i) INLINE { x[i] = p[i] * bit_cast<V>((bit_cast<Int>(n[i]) << 23) + (127 << 23)); });
}

// e^x for x <= 0 with a relative error below 2e-7; 0 below about -87.7.
template <int N>
INLINED void exp_negative(Vector* x) {
  exp_in_step<N>(x, -88.0f);
}

// e^x with the same error; x is clamped to -87 .. 88.
template <typename V>
INLINED V exp_within(V x) {
  x = x > 88.0f ? broadcast<V>(88.0f) : x;
  exp_in_step<1>(&x, -87.0f);
  return x;
}

// The operations that activations are made of, for every machine.
struct Portable {
  // x is clamped to -87 .. 88.
  template <typename V>
  static INLINED V exp(V x) {
    return exp_within(x);
  }
  template <typename V>
  static INLINED V reciprocal(V x) {
    return 1.0f / x;
  }
  // 2^x for x <= 0 with a relative error below 3e-6; 0 below -126.
  static INLINED Wide power_of_two(Wide x) {
    constexpr float rounds = 12582912.0f;  // as in exp_in_step
    const Wide n = x + rounds, r = x - (n - rounds);
    Wide p = r * 9.58285e-3f + 5.590642e-2f;
    for (const float c : {2.4024099e-1f, 6.9312419e-1f, 1.0f}) p = p * r + c;
    const Wide power = bit_cast<Wide>(bit_cast<WideInt>(p) + (bit_cast<WideInt>(n) << 23));
    return x < -126.0f ? Wide{} : power;
  }
};

#ifdef FOR_WIDE_CPUS
// The same for x86-64-v4, of single instructions: 2^x = 2^r 2^n with n = floor(x), where VREDUCEPS gives r and VSCALEFPS
// multiplies by 2^n. The polynomials are minimax on 0 .. 1 (relative error) among those of their degree that are 1 at 0.
struct Avx512 {
  static INLINED Wide exp(Wide x) {  // relative error below 2e-7 + 9e-8 |x|; x is clamped to 83
    x = x * 1.44269504f;
    x = x > 120.0f ? broadcast<Wide>(120.0f) : x;
    const Wide r = fraction(x);
    Wide p = r * 1.86713017e-3f + 9.01702978e-3f;
    for (const float c : {5.57999127e-2f, 2.40164444e-1f, 6.93151295e-1f, 1.0f}) p = p * r + c;
    return scaled(p, x);
  }
  static INLINED Wide power_of_two(Wide x) {  // relative error below 3e-6
    const Wide r = fraction(x);
    Wide p = r * 1.34266848e-2f + 5.22424728e-2f;
    for (const float c : {2.41280198e-1f, 6.93044841e-1f, 1.0f}) p = p * r + c;
    return scaled(p, x);
  }
  static INLINED Wide reciprocal(Wide x) {  // of a finite x, relative error below 2e-7
    Wide y;
    asm("vrcp14ps %1, %0" : "=v"(y) : "v"(x));
    return y * (2.0f - x * y);
  }

 private:
  static INLINED Wide fraction(Wide x) {
    Wide r;
    asm("vreduceps $1, %1, %0" : "=v"(r) : "v"(x));
    return r;
  }
  static INLINED Wide scaled(Wide p, Wide x) {
    Wide y;
    asm("vscalefps %2, %1, %0" : "=v"(y) : "v"(p), "v"(x));
    return y;
  }
};
#endif

}  // namespace leapgen
