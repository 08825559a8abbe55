// Vectors of eight and of sixteen floats, bfloat16, and how one becomes the other in memory.

#pragma once

#include <cstdint>
#include <cstring>

#include "isa/target.h"

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

// Eight floats. The compiler lowers them to the registers of each clone's target.
typedef float Vector __attribute__((vector_size(32)));
typedef int32_t IntVector __attribute__((vector_size(32)));
typedef uint16_t ShortVector __attribute__((vector_size(16)));
constexpr int64_t kLanes = 8;

// Sixteen floats, for code that runs on x86-64-v4 alone: elsewhere GCC takes a ?: of them lane by lane.
typedef float Wide __attribute__((vector_size(64)));
typedef int32_t WideInt __attribute__((vector_size(64)));
typedef uint32_t WideBits __attribute__((vector_size(64)));
typedef uint16_t WideShort __attribute__((vector_size(32)));

template <typename V>
constexpr int64_t kLanesOf = sizeof(V) / sizeof(float);

// The integer vectors with as many lanes.
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
INLINED To bit_cast(From v) {
  return load_as<To>(&v);
}
template <typename V>
INLINED void save_all(void* p, V v) {
  std::memcpy(p, &v, sizeof v);
}

template <typename V>
INLINED V load_floats(const float* p) {
  return load_as<V>(p);
}
template <typename V>
INLINED V load_floats(const BFloat16* p) {
  using Int = typename Parts<V>::Int;
  return bit_cast<V>(__builtin_convertvector(load_as<typename Parts<V>::Short>(p), Int) << 16);
}
INLINED Vector load(const float* p) { return load_floats<Vector>(p); }
INLINED Vector load(const BFloat16* p) { return load_floats<Vector>(p); }
template <typename V>
INLINED V broadcast(float x) {  // one instruction; GCC makes additions or insertions of the same in floats
  int32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bit_cast<V>(typename Parts<V>::Int{} + bits);
}
INLINED Vector splat(float x) { return broadcast<Vector>(x); }
INLINED void save(float* p, Vector v) { save_all(p, v); }
INLINED void save(float* p, Wide v) { save_all(p, v); }
INLINED bool any(IntVector mask) {
  typedef int64_t Longs __attribute__((vector_size(32)));
  const Longs wide = bit_cast<Longs>(mask);
  return (wide[0] | wide[1] | wide[2] | wide[3]) != 0;
}
INLINED Vector larger(Vector a, Vector b) { return a > b ? a : b; }

// Four floats: results as they are stored.
typedef float Quad __attribute__((vector_size(16)));
typedef int32_t IntQuad __attribute__((vector_size(16)));
typedef uint16_t ShortQuad __attribute__((vector_size(8)));

INLINED Quad load_quad(const float* p) {
  Quad v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
INLINED void save(float* p, Quad v) { std::memcpy(p, &v, sizeof v); }

// Bits whose upper halves are bfloat16: rounded to nearest, ties to even; NaN stays NaN.
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

// Transposes a square of eight rows.
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

// Sums of neighbouring lanes. The low half of the result has those of the low halves of a and b, the high half the others.
INLINED Vector neighbours(Vector a, Vector b) {
  return __builtin_shufflevector(a, b, 0, 2, 8, 10, 4, 6, 12, 14) + __builtin_shufflevector(a, b, 1, 3, 9, 11, 5, 7, 13, 15);
}

// The sum of each of four vectors, added in the order of sums_of.
INLINED Quad sums_of_four(const Vector v[4]) {
  const Vector halves = neighbours(neighbours(v[0], v[1]), neighbours(v[2], v[3]));
  return __builtin_shufflevector(halves, halves, 0, 1, 2, 3) + __builtin_shufflevector(halves, halves, 4, 5, 6, 7);
}

// The sum of each of eight vectors.
INLINED Vector sums_of(const Vector v[8]) {
  const Vector a = neighbours(neighbours(v[0], v[1]), neighbours(v[2], v[3]));
  const Vector b = neighbours(neighbours(v[4], v[5]), neighbours(v[6], v[7]));
  return __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11) + __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
}

}  // namespace leapgen
