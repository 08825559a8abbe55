// Matrix tiles (AMX): the instructions, and a model of them in software for machines without.
//
// A tile product sums over pairs: C[i][j] += A[i][2p] B[p][2j] + A[i][2p + 1] B[p][2j + 1], over bfloat16 into float32. Each
// element is summed in one fixed order, whichever of its factors is in A.

#pragma once

#include "vector.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#define TILES_IN_HARDWARE 1
#endif

namespace leapgen {

constexpr int64_t kSide = 16;         // rows of a tile, and columns of C
constexpr int64_t kStep = 2 * kSide;  // elements along the sum in one tile product
constexpr int64_t kTileBytes = kSide * 64;

// Registers 0 to 3 and 7 have kSide rows; 4, 5 and 6 as many as begin() is told, which takes less time for fewer.
INLINED constexpr bool narrow(int t) { return t >= 4 && t <= 6; }

// The eight tile registers in software: what the instructions do.
struct ModelTiles {
  alignas(64) unsigned char registers[8][kTileBytes];
  int64_t narrow_rows = kSide;

  void begin(int64_t rows = kSide) { narrow_rows = rows; }
  void end() {}
  int64_t rows_of(int t) const { return narrow(t) ? narrow_rows : kSide; }
  template <int T> void zero() { std::memset(registers[T], 0, kTileBytes); }
  template <int T> void load(const void* from, int64_t stride) {
    for (int64_t i = 0; i < rows_of(T); ++i) {
      std::memcpy(registers[T] + 64 * i, static_cast<const char*>(from) + i * stride, 64);
    }
  }
  template <int T> void store(void* to, int64_t stride) {
    for (int64_t i = 0; i < rows_of(T); ++i) {
      std::memcpy(static_cast<char*>(to) + i * stride, registers[T] + 64 * i, 64);
    }
  }
  template <int C, int A, int B> void multiply() {
    auto* c = reinterpret_cast<float(*)[kSide]>(registers[C]);
    const auto* a = reinterpret_cast<const BFloat16(*)[kStep]>(registers[A]);
    const auto* b = reinterpret_cast<const BFloat16(*)[kStep]>(registers[B]);
    for (int64_t i = 0; i < rows_of(C); ++i) {
      for (int64_t p = 0; p < kSide; ++p) {
        for (int64_t j = 0; j < kSide; ++j) {
          c[i][j] += to_float(a[i][2 * p]) * to_float(b[p][2 * j]) + to_float(a[i][2 * p + 1]) * to_float(b[p][2 * j + 1]);
        }
      }
    }
  }
};

#ifdef TILES_IN_HARDWARE
// The instructions. Every statement names memory, so that the compiler moves no load or store across it.
struct HardwareTiles {
  struct alignas(64) Shape {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  };
  static_assert(sizeof(Shape) == 64, "what ldtilecfg reads");

  void begin(int64_t rows = kSide) {
    Shape shape;
    for (int t = 0; t < 8; ++t) {
      if (narrow(t)) shape.rows[t] = static_cast<uint8_t>(rows);
    }
    asm volatile("ldtilecfg %0" : : "m"(shape) : "memory");
  }
  void end() { asm volatile("tilerelease" : : : "memory"); }
  template <int T> INLINED void zero() { asm volatile("tilezero %%tmm%c0" : : "i"(T) : "memory"); }
  template <int T> INLINED void load(const void* from, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(T) : "memory");
  }
  template <int T> INLINED void store(void* to, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(T) : "memory");
  }
  template <int C, int A, int B> INLINED void multiply() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(C), "i"(A), "i"(B) : "memory");
  }
};

// Whether processor and kernel have them; the kernel wants to be asked once a process.
inline bool hardware_tiles() {
  static const bool granted = [] {
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 22 & 1) || !(d >> 24 & 1)) return false;  // AMX-BF16, AMX-TILE
    constexpr long kRequestPermission = 0x1023, kTileData = 18;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return granted;
}
#else
using HardwareTiles = ModelTiles;
inline bool hardware_tiles() { return false; }
#endif

}  // namespace leapgen
