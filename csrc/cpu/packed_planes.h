// Whole planes of some channels of one image as rows of pixels, with their padding in place.
//
// The counterpart of row_cache.h for NCHW images whose planes are small: short rows transpose badly
// one by one, a plane is one long row. What a part of the channels needs stays in the near caches.
#pragma once

#include <cstdint>
#include <vector>

#include "isa_kernels.h"
#include "scratch.h"
#include "views.h"

namespace convext {

// Planes of adjacent pixels.
inline bool planes_are_rows(const TensorView& view) {
  return (view.size[3] == 1 || view.stride[3] == 1) &&
         (view.size[2] == 1 || view.stride[2] == view.size[3]);
}

template <class T>
class PackedPlanes {
 public:
  // `columns`: the source column of each packed column, -1 for zeros; every column of the tensor is
  // among them, in one piece from `at` on. `pixel`: elements of a packed pixel.
  PackedPlanes(const ComputeKernels<T>& kernels, const TensorView& view,
               const std::vector<std::int64_t>& columns, std::int64_t at, std::int64_t pixel)
      : kernels_(kernels),
        view_(view),
        at_(at),
        pixel_(pixel),
        row_(static_cast<std::int64_t>(columns.size()) * pixel) {
    const std::int64_t elements = view.size[2] * row_;
    data_ = scratch<T>(Slot::kRows, elements);
    for (std::int64_t i = 0; i < elements; ++i) data_[i] = 0;
    for (std::int64_t i = 0; i < static_cast<std::int64_t>(columns.size()); ++i) {
      const bool original = i >= at && i < at + view.size[3];
      if (!original && columns[i] >= 0) copies_.push_back({i * pixel, (at + columns[i]) * pixel});
    }
  }

  // Channels [first, end) of image n.
  void pack(std::int64_t n, std::int64_t first, std::int64_t end) {
    const std::int64_t rows = view_.size[2], columns = view_.size[3];
    kernels_.pack_planes(element(view_, n, first, 0, 0), view_.dtype, view_.stride[1],
                         rows * columns, columns, end - first, data_ + at_ * pixel_, pixel_,
                         row_ - columns * pixel_);
    if (copies_.empty()) return;
    for (std::int64_t h = 0; h < rows; ++h) {
      T* row = data_ + h * row_;
      for (const Copy& copy : copies_) {
        for (std::int64_t c = 0; c < end - first; ++c) row[copy.to + c] = row[copy.from + c];
      }
    }
  }

  const T* row(std::int64_t h) const { return data_ + h * row_; }

 private:
  struct Copy {
    std::int64_t to, from;
  };

  const ComputeKernels<T>& kernels_;
  const TensorView& view_;
  std::int64_t at_, pixel_, row_;
  std::vector<Copy> copies_;  // padding that repeats columns, within a row
  T* data_;
};

}  // namespace convext
