// The instruction sets that code is compiled for, and the choice among them when the library is loaded.

#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EVERY_CPU __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
// Of code that is written twice, for vectors of eight floats and of sixteen.
#define FOR_NARROW_CPUS __attribute__((target_clones("arch=x86-64-v3", "default")))
#define FOR_WIDE_CPUS __attribute__((target("arch=x86-64-v4")))
#else
#define FOR_EVERY_CPU
#define FOR_NARROW_CPUS
#endif

// A helper that is not inlined is compiled for the baseline, whichever clone calls it.
#define INLINE __attribute__((always_inline))  // of lambdas, after their arguments
#define INLINED inline INLINE

namespace leapgen {

// Whether code FOR_WIDE_CPUS runs on this machine.
inline bool is_wide() {
#ifdef FOR_WIDE_CPUS
  static const bool wide = __builtin_cpu_supports("x86-64-v4");
  return wide;
#else
  return false;
#endif
}

}  // namespace leapgen
