// Scratch memory of kernels, aligned to cache lines: no load of a vector straddles two.

#pragma once

#include <cstddef>
#include <new>
#include <vector>

namespace leapgen {

template <typename T>
struct CacheAligned {
  using value_type = T;
  static constexpr std::align_val_t bytes{64};
  CacheAligned() = default;
  template <typename U>
  CacheAligned(const CacheAligned<U>&) {}
  T* allocate(size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), bytes)); }
  void deallocate(T* p, size_t) { ::operator delete(p, bytes); }
  template <typename U>
  bool operator==(const CacheAligned<U>&) const {
    return true;
  }
  template <typename U>
  bool operator!=(const CacheAligned<U>&) const {
    return false;
  }
};

template <typename T>
using Scratch = std::vector<T, CacheAligned<T>>;

}  // namespace leapgen
