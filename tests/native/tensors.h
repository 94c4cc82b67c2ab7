// Tensors for the tests: every layout a kernel may meet, poison around and between the elements.
#pragma once

#include <cstdint>
#include <vector>

#include "dtype.h"

namespace convext_tests {

enum class Layout {
  kContiguous,          // NCHW
  kChannelsLast,        // NHWC
  kSliced,              // every second column of a larger NCHW tensor
  kChannelsLastSliced,  // some channels of a larger NHWC tensor
  kExpanded,            // one sample, stride 0 over the first dimension: for reading only
};
constexpr int kWritableLayouts = 4, kReadableLayouts = 5;

// Poison is 0xff bytes, a NaN of every floating type. A dense tensor fills its allocation to the
// last byte when a sanitizer watches the ends; without one it lies between guard zones.
class Tensor {
 public:
  Tensor() = default;
  Tensor(convext::DType dtype, const std::vector<std::int64_t>& size, Layout layout);
  Tensor(const Tensor&) = delete;
  Tensor(Tensor&&) = default;
  Tensor& operator=(Tensor&&) = default;

  const convext::TensorView& view() const { return view_; }
  std::int64_t numel() const;
  double get(std::int64_t i) const;        // i counts in NCHW order
  void set(std::int64_t i, double value);  // rounds to the dtype
  // Whether everything that is no element of the tensor still is poison.
  bool surroundings_are_intact() const;
  const std::vector<unsigned char>& bytes() const { return storage_; }

 private:
  std::int64_t offset(std::int64_t i) const;  // in elements, from view_.data

  convext::TensorView view_;
  std::vector<unsigned char> storage_;
  std::int64_t first_ = 0;  // element of the storage that view_.data points at
};

double rounded(convext::DType dtype, double value);

}  // namespace convext_tests
