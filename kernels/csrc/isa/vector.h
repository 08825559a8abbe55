// What the kernels share: eight or sixteen floats at a time, bfloat16, and the choice of instruction set when the library is
// loaded.

#pragma once

#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EVERY_CPU __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
// Of code that is written twice, for eight lanes and for sixteen.
#define FOR_NARROW_CPUS __attribute__((target_clones("arch=x86-64-v3", "default")))
#define FOR_WIDE_CPUS __attribute__((target("arch=x86-64-v4")))
#else
#define FOR_EVERY_CPU
#define FOR_NARROW_CPUS
#endif

// Helpers must become part of each clone, or they would run compiled for the baseline.
#define INLINE __attribute__((always_inline))  // of lambdas, after their arguments
#define INLINED inline INLINE

namespace leapgen {

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

// Sixteen, for code that runs on x86-64-v4 alone: elsewhere the compiler takes choices among them number by number.
typedef float Wide __attribute__((vector_size(64)));
typedef int32_t WideInt __attribute__((vector_size(64)));
typedef uint32_t WideBits __attribute__((vector_size(64)));
typedef uint16_t WideShort __attribute__((vector_size(32)));

template <typename V>
constexpr int64_t kLanesOf = sizeof(V) / sizeof(float);
template <typename V>
struct Parts;
template <>
struct Parts<Vector> {
  using Int = IntVector;
  using Short = ShortVector;
};
template <>
struct Parts<Wide> {
  using Int = WideInt;
  using Short = WideShort;
};

template <typename V>
INLINED V load_as(const void* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <typename To, typename From>
INLINED To bits_of(From v) {
  return load_as<To>(&v);
}
template <typename V>
INLINED void save_all(void* p, V v) {
  std::memcpy(p, &v, sizeof v);
}

// Scratch memory of kernels: no load of a vector straddles cache lines.
template <typename T>
struct Aligned {
  using value_type = T;
  static constexpr std::align_val_t bytes{64};
  Aligned() = default;
  template <typename U>
  Aligned(const Aligned<U>&) {}
  T* allocate(size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), bytes)); }
  void deallocate(T* p, size_t) { ::operator delete(p, bytes); }
  template <typename U>
  bool operator==(const Aligned<U>&) const { return true; }
  template <typename U>
  bool operator!=(const Aligned<U>&) const { return false; }
};
template <typename T>
using Scratch = std::vector<T, Aligned<T>>;

INLINED int64_t round_up(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }
template <typename V>
INLINED V floats_at(const float* p) {
  return load_as<V>(p);
}
template <typename V>
INLINED V floats_at(const BFloat16* p) {
  using Int = typename Parts<V>::Int;
  return bits_of<V>(__builtin_convertvector(load_as<typename Parts<V>::Short>(p), Int) << 16);
}
INLINED Vector load(const float* p) { return floats_at<Vector>(p); }
INLINED Vector load(const BFloat16* p) { return floats_at<Vector>(p); }
template <typename V>
INLINED V copies(float x) {  // one broadcast; of the same with floats GCC makes additions or insertions
  int32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits_of<V>(typename Parts<V>::Int{} + bits);
}
INLINED Vector splat(float x) { return copies<Vector>(x); }
INLINED void save(float* p, Vector v) { save_all(p, v); }
INLINED void save(float* p, Wide v) { save_all(p, v); }
INLINED bool any(IntVector mask) {
  typedef int64_t Longs __attribute__((vector_size(32)));
  const Longs wide = bits_of<Longs>(mask);
  return (wide[0] | wide[1] | wide[2] | wide[3]) != 0;
}
INLINED Vector larger(Vector a, Vector b) { return a > b ? a : b; }

// e^x of N vectors in step, so that one waits for another's results and not for its own: 2^n * p(r) for x = n log 2 + r,
// with n a whole number and the polynomial of Cephes' expf. `least` and less give n = -127, which counts as no power at all.
template <int N, typename V>
INLINED void exp_in_step(V* x, float least) {
  using Int = typename Parts<V>::Int;
  constexpr float rounds = 12582912.0f;  // 1.5 * 2^23: adding it leaves whole numbers, in the lowest bits
  V n[N], p[N];
  const auto each = [](auto f) INLINE {
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) f(i);
  };
  each([&](int i) INLINE { x[i] = x[i] < least ? copies<V>(least) : x[i]; });
  each([&](int i) INLINE { n[i] = x[i] * 1.44269504f + rounds; });
  each([&](int i) INLINE { p[i] = n[i] - rounds; });
  each([&](int i) INLINE { x[i] = x[i] - p[i] * 0.693359375f; });
  each([&](int i) INLINE { x[i] = x[i] + p[i] * 2.12194440e-4f; });
  each([&](int i) INLINE { p[i] = x[i] * 1.9875691500e-4f + 1.3981999507e-3f; });
  for (const float c : {8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f}) {
    each([&](int i) INLINE { p[i] = p[i] * x[i] + c; });
  }
  each([&](int i) INLINE { p[i] = p[i] * (x[i] * x[i]) + (x[i] + 1.0f); });
  each([&](int i) INLINE { x[i] = p[i] * bits_of<V>((bits_of<Int>(n[i]) << 23) + (127 << 23)); });
}

// e^x for x <= 0 with a relative error below 2e-7; 0 from about -87.7 on.
template <int N>
INLINED void exp_negative(Vector* x) {
  exp_in_step<N>(x, -88.0f);
}

// e^x with the same error, taken as if -87 <= x <= 88.
template <typename V>
INLINED V exp_within(V x) {
  x = x > 88.0f ? copies<V>(88.0f) : x;
  exp_in_step<1>(&x, -87.0f);
  return x;
}

// What functions are made of: operations that every machine has, or single instructions of x86-64-v4.
struct Portable {
  // Taken as if x <= 88; 2^-126 is the least.
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
    const Wide power = bits_of<Wide>(bits_of<WideInt>(p) + (bits_of<WideInt>(n) << 23));
    return x < -126.0f ? Wide{} : power;
  }
};

#ifdef FOR_WIDE_CPUS
// 2^x = 2^r 2^n with n the next whole number below x: VREDUCEPS gives r, VSCALEFPS multiplies by 2^n. The polynomials have
// the least greatest relative error on 0 .. 1 of those of their degree that are 1 at 0.
struct Avx512 {
  static INLINED Wide exp(Wide x) {  // relative error below 2e-7, and |x| times 9e-8; taken as if x <= 83
    x = x * 1.44269504f;
    x = x > 120.0f ? copies<Wide>(120.0f) : x;
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
  static INLINED Wide reciprocal(Wide x) {  // of a finite number, relative error below 2e-7
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

// Whether code FOR_WIDE_CPUS runs on this machine.
inline bool is_wide() {
#ifdef FOR_WIDE_CPUS
  static const bool wide = __builtin_cpu_supports("x86-64-v4");
  return wide;
#else
  return false;
#endif
}

// Four results as they are stored: as floats, or rounded to bfloat16.
typedef float Quad __attribute__((vector_size(16)));
typedef int32_t IntQuad __attribute__((vector_size(16)));
typedef uint16_t ShortQuad __attribute__((vector_size(8)));

INLINED Quad load_quad(const float* p) {
  Quad v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
INLINED void save(float* p, Quad v) { std::memcpy(p, &v, sizeof v); }

// To bfloat16 in the upper halves: to nearest, ties to even; what is no number stays none.
template <typename Bits, typename V>
INLINED Bits rounded(V v) {
  Bits bits;
  std::memcpy(&bits, &v, sizeof bits);
  return v == v ? bits + 0x7fff + (bits >> 16 & 1) : Bits{} + 0x7fc00000;
}
INLINED void save(BFloat16* p, Quad v) {
  const ShortQuad out = __builtin_convertvector(rounded<IntQuad>(v) >> 16, ShortQuad);
  std::memcpy(p, &out, sizeof out);
}
template <typename V>
INLINED void save_rounded(BFloat16* p, V v) {
  save_all(p, __builtin_convertvector(rounded<typename Parts<V>::Int>(v) >> 16, typename Parts<V>::Short));
}
INLINED void save(BFloat16* p, Vector v) { save_rounded(p, v); }
INLINED void save(BFloat16* p, Wide v) { save_rounded(p, v); }

// Eight vectors as the rows of a square: rows become columns.
INLINED void transpose(Vector v[8]) {
  Vector a[8], b[8];
  for (int i = 0; i < 8; i += 2) {
    a[i] = __builtin_shufflevector(v[i], v[i + 1], 0, 8, 2, 10, 4, 12, 6, 14);
    a[i + 1] = __builtin_shufflevector(v[i], v[i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
  }
  for (int i = 0; i < 8; i += 4) {
    for (int j = i; j < i + 2; ++j) {
      b[j] = __builtin_shufflevector(a[j], a[j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
      b[j + 2] = __builtin_shufflevector(a[j], a[j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    }
  }
  for (int j = 0; j < 4; ++j) {
    v[j] = __builtin_shufflevector(b[j], b[j + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    v[j + 4] = __builtin_shufflevector(b[j], b[j + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
}

// Sums of neighbours: the low and high halves of the result hold those of the arguments' low and high halves.
INLINED Vector neighbours(Vector a, Vector b) {
  return __builtin_shufflevector(a, b, 0, 2, 8, 10, 4, 6, 12, 14) + __builtin_shufflevector(a, b, 1, 3, 9, 11, 5, 7, 13, 15);
}

// The sums of four vectors, added up as sums_of does it.
INLINED Quad sums_of_four(const Vector v[4]) {
  const Vector halves = neighbours(neighbours(v[0], v[1]), neighbours(v[2], v[3]));
  return __builtin_shufflevector(halves, halves, 0, 1, 2, 3) + __builtin_shufflevector(halves, halves, 4, 5, 6, 7);
}

// The sums of eight vectors, as one vector.
INLINED Vector sums_of(const Vector v[8]) {
  const Vector a = neighbours(neighbours(v[0], v[1]), neighbours(v[2], v[3]));
  const Vector b = neighbours(neighbours(v[4], v[5]), neighbours(v[6], v[7]));
  return __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11) + __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
}

}  // namespace leapgen
