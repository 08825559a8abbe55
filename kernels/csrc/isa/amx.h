// Matrix tiles (AMX): the instructions, and a model of them in software for other machines.
//
// A tile product sums pairs of bfloat16 into float32: C[i][j] += A[i][2p] B[p][2j] + A[i][2p + 1] B[p][2j + 1]. Each element
// is summed in one fixed order, whichever of its factors is in A.

#pragma once

#include "interface.h"
#include "isa/math.h"

#if defined(FOR_WIDE_CPUS) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#define TILES_IN_HARDWARE 1
#endif

namespace leapgen {

constexpr int64_t kSide = 16;  // rows of a tile, and columns of C
constexpr int64_t kTileBytes = kSide * 64;
static_assert(kTileDepth == 2 * kSide, "a row of A holds kTileDepth bfloat16");

// Registers 4, 5 and 6 have as many rows as begin() sets, and take less time for fewer; the others have kSide.
INLINED constexpr bool narrow(int t) { return t >= 4 && t <= 6; }

// The eight tile registers in software.
struct ModelTiles {
  using Math = Portable;
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
  template <int T> void load_once(const void* from, int64_t stride) { load<T>(from, stride); }
  template <int T> void store(void* to, int64_t stride) {
    for (int64_t i = 0; i < rows_of(T); ++i) {
      std::memcpy(static_cast<char*>(to) + i * stride, registers[T] + 64 * i, 64);
    }
  }
  // Sixteen pairs, each of one lane of `low` and of `high`, rounded to bfloat16.
  static INLINED WideBits pairs(Wide low, Wide high) {
    return bit_cast<WideBits>(rounded<WideInt>(low)) >> 16 | (bit_cast<WideBits>(rounded<WideInt>(high)) & 0xffff0000);
  }
  template <int C, int A, int B> void multiply() {
    auto* c = reinterpret_cast<float (*)[kSide]>(registers[C]);
    const auto* a = reinterpret_cast<const BFloat16(*)[kTileDepth]>(registers[A]);
    const auto* b = reinterpret_cast<const BFloat16(*)[kTileDepth]>(registers[B]);
    for (int64_t i = 0; i < rows_of(C); ++i) {
      for (int64_t p = 0; p < kSide; ++p) {
        for (int64_t j = 0; j < kSide; ++j) {
          c[i][j] += to_float(a[i][2 * p]) * to_float(b[p][2 * j]) + to_float(a[i][2 * p + 1]) * to_float(b[p][2 * j + 1]);
        }
      }
    }
  }
};

// Writes the transpose of a tile of pairs.
INLINED void transpose_pairs(WideBits v[kSide], uint32_t* to) {
  WideBits w[kSide];
#pragma GCC unroll 8
  for (int i = 0; i < kSide; i += 2) {
    w[i] = __builtin_shufflevector(v[i], v[i + 1], 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
    w[i + 1] = __builtin_shufflevector(v[i], v[i + 1], 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
  }
#pragma GCC unroll 4
  for (int i = 0; i < kSide; i += 4) {
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      const WideBits a = w[i + j], b = w[i + j + 2];
      v[i + 2 * j] = __builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
      v[i + 2 * j + 1] = __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
    }
  }
  const auto even = [](WideBits a, WideBits b) INLINE {
    return __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
  };
  const auto odd = [](WideBits a, WideBits b) INLINE {
    return __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
  };
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    const WideBits a = even(v[k], v[k + 4]), b = even(v[k + 8], v[k + 12]);
    const WideBits c = odd(v[k], v[k + 4]), d = odd(v[k + 8], v[k + 12]);
    save_all(to + k * kSide, even(a, b));
    save_all(to + (k + 4) * kSide, even(c, d));
    save_all(to + (k + 8) * kSide, odd(a, b));
    save_all(to + (k + 12) * kSide, odd(c, d));
  }
}

#ifdef TILES_IN_HARDWARE
// The instructions, on machines that also have x86-64-v4 and AVX512-BF16. Every statement clobbers memory, so that the
// compiler moves no load or store across it.
struct HardwareTiles {
  using Math = Avx512;
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
  // Streaming: what is read once leaves the rest in the first-level cache.
  template <int T> INLINED void load_once(const void* from, int64_t stride) {
    asm volatile("tileloaddt1 (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(T) : "memory");
  }
  template <int T> INLINED void store(void* to, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(T) : "memory");
  }
  static INLINED WideBits pairs(Wide low, Wide high) {
    typedef uint16_t Shorts __attribute__((vector_size(64)));
    Shorts both;
    asm("vcvtne2ps2bf16 %1, %2, %0" : "=v"(both) : "v"(low), "v"(high));
    return bit_cast<WideBits>(__builtin_shufflevector(both, both, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23, 8,
                                                      24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31));
  }
  template <int C, int A, int B> INLINED void multiply() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(C), "i"(A), "i"(B) : "memory");
  }
};

// Whether the machine has what HardwareTiles needs; asks the operating system's permission to use tiles, once a process.
inline bool hardware_tiles() {
  static const bool granted = [] {
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 22 & 1) || !(d >> 24 & 1)) return false;  // AMX-BF16, AMX-TILE
    if (!is_wide() || !__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a >> 5 & 1)) return false;       // AVX512-BF16
    constexpr long kRequestPermission = 0x1023, kTileData = 18;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return granted;
}
#else
using HardwareTiles = ModelTiles;
inline bool hardware_tiles() { return false; }
#endif

// Runs job.run<Tiles>() compiled for the machines that have the tiles.
template <typename Job>
FOR_EVERY_CPU void run(ModelTiles&, const Job& job) {
  job.template run<ModelTiles>();
}
#ifdef TILES_IN_HARDWARE
template <typename Job>
FOR_WIDE_CPUS void run(HardwareTiles&, const Job& job) {
  job.template run<HardwareTiles>();
}
#endif

}  // namespace leapgen
