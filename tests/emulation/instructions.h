// The tests of single instructions, and what they share.
#pragma once

#include <cstdio>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "cuda/matrix_descriptor.h"
#include "cuda/platform.cuh"
#include "cuda/ptx.cuh"

namespace convext_tests {

using convext::DType;
using convext::cuda::MapSpec;

inline std::mt19937 random_bits(1);
inline int pick(int low, int high) {
  return std::uniform_int_distribution<int>(low, high)(random_bits);
}

// Runs it in the four orders that the kernels are tested in.
template <class F>
void in_orders(F&& f) {
  for (const auto order : {emu::Order::forward, emu::Order::reverse, emu::Order::random}) {
    for (int seed = 1; seed <= (order == emu::Order::random ? 2 : 1); ++seed) {
      emu::config.order = order;
      emu::config.seed = static_cast<std::uint64_t>(seed);
      f();
    }
  }
}

// Throws emu::Error unless `f` does so in each order, in words that hold `words` or the other ones.
template <class F>
void expect_error(const char* words, F&& f, const char* or_words = nullptr) {
  in_orders([&] {
    try {
      f();
    } catch (const emu::Error& error) {
      if (std::strstr(error.what(), words) != nullptr) return;
      if (or_words != nullptr && std::strstr(error.what(), or_words) != nullptr) return;
      throw emu::Error(std::string("wanted '") + words + "', it said: " + error.what());
    }
    throw emu::Error(std::string("misuse went unnoticed: ") + words);
  });
}

inline void expect(bool is_so, const char* what) {
  if (!is_so) throw emu::Error(what);
}

// A map of boxes, all elements adjacent.
inline MapSpec dense_map(const void* base, DType dtype, std::vector<int> size, std::vector<int> box,
                         int swizzle) {
  MapSpec spec;
  spec.base = base, spec.dtype = dtype, spec.rank = static_cast<int>(size.size());
  spec.swizzle = swizzle;
  std::int64_t stride = convext::bytes_of(dtype);
  for (std::size_t i = 0; i < size.size(); ++i) {
    spec.size[i] = size[i], spec.stride[i] = stride, spec.box[i] = box[i];
    stride *= size[i];
  }
  return spec;
}

struct Test {
  const char* name;
  void (*run)();
};
std::vector<Test> copy_tests();     // instructions_copies.cpp
std::vector<Test> product_tests();  // instructions_products.cpp
std::vector<Test> misuse_tests();   // instructions_misuse.cpp

}  // namespace convext_tests
