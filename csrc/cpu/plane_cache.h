// Rows of a tensor as planes: [channel][phase][column] of compute type, padding in place.
//
// Every layout and type is packed, when a work item first needs a row, into a ring of half a
// megabyte or of what one item needs. A packed row's columns are taken apart by their remainder
// modulo `step` (the forward stride): the sources of neighbouring destination columns are
// neighbours.
#pragma once

#include <cstdint>
#include <vector>

#include "../int_math.h"
#include "isa_kernels.h"
#include "row_cache.h"
#include "scratch.h"
#include "views.h"

namespace convext {

template <class T>
class PlaneCache {
 public:
  // `slack`: elements that may be read beyond the last packed column.
  PlaneCache(const ComputeKernels<T>& kernels, const TensorView& view, std::int64_t channels,
             std::int64_t most_rows, const std::vector<std::int64_t>& columns, std::int64_t step,
             std::int64_t slack)
      : kernels_(kernels),
        view_(view),
        channels_(channels),
        step_(step),
        columns_(static_cast<std::int64_t>(columns.size())),
        runs_(column_runs(columns)) {
    constexpr std::int64_t kLine = 64 / static_cast<std::int64_t>(sizeof(T));
    // An odd number of lines: channels of one column spread over the cache's sets.
    std::int64_t lines = ceil_div(ceil_div(columns_, step) + slack, kLine);
    if (lines % 2 == 0) ++lines;
    phase_stride_ = lines * kLine;
    plane_stride_ = phase_stride_ * step;
    row_elements_ = plane_stride_ * channels;
    const std::int64_t rows = view.size[2];
    slots_ = kBudgetBytes / (row_elements_ * static_cast<std::int64_t>(sizeof(T)) + 1);
    if (slots_ < most_rows) slots_ = most_rows;
    if (slots_ > rows) slots_ = rows;
    data_ = scratch<T>(Slot::kRows, slots_ * row_elements_);
    if (slack > 0) {  // what is read there reaches no result, but nothing unset is read
      for (std::int64_t i = 0; i < slots_ * row_elements_; ++i) data_[i] = 0;
    }
    straight_ = step > 1 && view.dtype == compute_dtype<T>() && view.stride[3] == 1;
    for (const ColumnRun& run : runs_) straight_ = straight_ && (run.source < 0 || run.step == 1);
    if (step > 1 && !straight_) staged_ = scratch<T>(Slot::kGrad, channels * columns_);
    slot_of_row_.assign(rows, -1);
    row_in_slot_.assign(slots_, -1);
    used_by_item_.assign(slots_, -1);
  }

  std::int64_t phase_stride() const { return phase_stride_; }
  std::int64_t plane_stride() const { return plane_stride_; }

  // Rows asked for from here on stay valid until the next call.
  void begin_item(std::int64_t n) {
    ++item_;
    if (n != image_) {
      slot_of_row_.assign(slot_of_row_.size(), -1);
      row_in_slot_.assign(row_in_slot_.size(), -1);
    }
    image_ = n;
  }

  const T* row(std::int64_t h) {
    std::int64_t slot = slot_of_row_[h];
    if (slot < 0) {
      while (used_by_item_[next_] == item_) next_ = next_ + 1 == slots_ ? 0 : next_ + 1;
      slot = next_;
      if (row_in_slot_[slot] >= 0) slot_of_row_[row_in_slot_[slot]] = -1;
      row_in_slot_[slot] = h;
      slot_of_row_[h] = slot;
      pack(h, data_ + slot * row_elements_);
    }
    used_by_item_[slot] = item_;
    return data_ + slot * row_elements_;
  }

 private:
  static constexpr std::int64_t kBudgetBytes = 512 * 1024;

  // Takes the tensor's rows apart as they lie.
  void pack_straight(std::int64_t h, T* to) {
    for (std::int64_t c = 0; c < channels_; ++c, to += plane_stride_) {
      const T* row = static_cast<const T*>(element(view_, image_, c, h, 0));
      for (const ColumnRun& run : runs_) {
        const T* from = row + run.source;
        std::int64_t at = run.at, left = run.count;
        // Up to where phase 0 begins, and all zeros: one by one.
        while (left > 0 && (run.source < 0 || at % step_ != 0)) {
          to[at % step_ * phase_stride_ + at / step_] = run.source < 0 ? T{} : *from++;
          ++at;
          --left;
        }
        kernels_.split_phases(from, left, step_, to + at / step_, phase_stride_);
      }
    }
  }

  void pack(std::int64_t h, T* to) {
    if (straight_) return pack_straight(h, to);
    T* packed = step_ == 1 ? to : staged_;
    const std::int64_t ld = step_ == 1 ? plane_stride_ : columns_;
    for (const ColumnRun& run : runs_) {
      if (run.source < 0) {
        for (std::int64_t c = 0; c < channels_; ++c) {
          for (std::int64_t i = 0; i < run.count; ++i) packed[c * ld + run.at + i] = 0;
        }
        continue;
      }
      kernels_.pack({element(view_, image_, 0, h, run.source), view_.dtype, view_.stride[1],
                     run.step * view_.stride[3]},
                    channels_, run.count, run.count, packed + run.at, ld, 0);
    }
    if (step_ == 1) return;
    for (std::int64_t c = 0; c < channels_; ++c) {
      kernels_.split_phases(staged_ + c * columns_, columns_, step_, to + c * plane_stride_,
                            phase_stride_);
    }
  }

  const ComputeKernels<T>& kernels_;
  TensorView view_;
  std::int64_t channels_, step_, columns_;
  std::vector<ColumnRun> runs_;
  std::int64_t phase_stride_ = 0, plane_stride_ = 0, row_elements_ = 0, slots_ = 0, next_ = 0;
  std::int64_t item_ = 0, image_ = -1;
  T* data_ = nullptr;
  bool straight_ = false;  // no copy before the phases are taken apart
  T* staged_ = nullptr;    // [channel][column]: a row before its phases are taken apart
  std::vector<std::int64_t> slot_of_row_, row_in_slot_, used_by_item_;
};

}  // namespace convext
