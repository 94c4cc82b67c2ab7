// Rows of a tensor as kernels want them: channels contiguous, in compute type, or in bfloat16 for
// the kernels that multiply pairs of it.
//
// A channels_last tensor of that type is used where it lies. Any other (NCHW, sliced, 16-bit) is
// packed row by row, when a work item first needs a row, into a ring of half a megabyte, or of
// what one work item needs: at most one image for each thread, never a copy of the tensor. A row
// may also be packed with its horizontal padding in place.
#pragma once

#include <cstdint>
#include <vector>

#include "../axis_map.h"
#include "isa_kernels.h"
#include "scratch.h"
#include "views.h"

namespace convext {

// A row of packed columns, as pieces that are copied alike: `count` columns from `first` to
// destination `at`, taken from source column `source` in steps of `step`; source -1 means zeros.
struct ColumnRun {
  std::int64_t at, source, step, count;
};

inline std::vector<ColumnRun> column_runs(const std::vector<std::int64_t>& sources) {
  std::vector<ColumnRun> runs;
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(sources.size()); ++i) {
    const std::int64_t source = sources[i];
    if (!runs.empty()) {
      ColumnRun& last = runs.back();
      if (source < 0 && last.source < 0) {
        ++last.count;
        continue;
      }
      if (source >= 0 && last.source >= 0) {
        const std::int64_t step = source - sources[i - 1];
        if (last.count == 1) last.step = step;
        if (step == last.step) {
          ++last.count;
          continue;
        }
      }
    }
    runs.push_back({i, source, 1, 1});
  }
  return runs;
}

// Packs one row: destination[channel / tile * tile_stride + column * tile + channel % tile], with
// zeros in the last tile beyond `channels`.
template <class T>
void pack_row(const RowKernels<T>& kernels, const TensorView& view, std::int64_t n, std::int64_t h,
              std::int64_t first_channel, std::int64_t channels, std::int64_t tile,
              const std::vector<ColumnRun>& runs, T* destination, std::int64_t tile_stride) {
  for (const ColumnRun& run : runs) {
    T* d = destination + run.at * tile;
    if (run.source < 0) {
      for (std::int64_t c = 0; c < channels; c += tile, d += tile_stride) {
        for (std::int64_t i = 0; i < run.count * tile; ++i) d[i] = T{};
      }
      continue;
    }
    void* const from = element(view, n, first_channel, h, run.source);
    if (view.stride[1] == 1 && run.step * view.stride[3] == channels && tile == channels) {
      // Whole pixels next to each other: one long row, however few channels.
      const std::int64_t count = run.count * channels;
      kernels.pack({from, view.dtype, 0, 1}, 1, count, count, d, count, 0);
      continue;
    }
    kernels.pack({from, view.dtype, run.step * view.stride[3], view.stride[1]}, run.count, channels,
                 tile, d, tile, tile_stride);
  }
}

template <class T>
class RowCache {
 public:
  // `most_rows`: the most rows that one work item holds at once. `columns`: source column of each
  // packed column. `repeat`: how often each channel stands in a packed pixel. `fewest`: channels
  // that a packed pixel has at least, zeros where the tensor has fewer.
  RowCache(const RowKernels<T>& kernels, const TensorView& view, std::int64_t channels,
           bool in_place, std::int64_t most_rows, const std::vector<std::int64_t>& columns,
           std::int64_t repeat = 1, std::int64_t fewest = 1)
      : kernels_(kernels), view_(view), channels_(channels), repeat_(repeat), in_place_(in_place) {
    if (in_place_) {
      pixel_stride_ = view.stride[3];
      return;
    }
    pixel_stride_ = channels * repeat < fewest ? fewest : channels * repeat;
    runs_ = column_runs(columns);
    columns_ = static_cast<std::int64_t>(columns.size());
    row_elements_ = columns_ * pixel_stride_;
    const std::int64_t rows = view.size[2];
    // As many rows as fit half a megabyte, so that items which come back to a row find it.
    slots_ = kBudgetBytes / (row_elements_ * static_cast<std::int64_t>(sizeof(T)) + 1);
    if (slots_ < most_rows) slots_ = most_rows;
    if (slots_ > rows) slots_ = rows;
    const bool dense = view.stride[2] == view.size[3] * view.stride[3];
    const bool identity = runs_.size() == 1 && runs_[0].source == 0 && runs_[0].step == 1 &&
                          runs_[0].count == view.size[3];
    whole_plane_ = dense && identity && repeat == 1 && slots_ == rows && view.size[3] < kShortRow;
    data_ = scratch<T>(Slot::kRows, slots_ * row_elements_);
    slot_of_row_.assign(rows, -1);
    row_in_slot_.assign(slots_, -1);
    used_by_item_.assign(slots_, -1);
  }

  std::int64_t pixel_stride() const { return pixel_stride_; }

  // Rows asked for from here on stay valid until the next call.
  void begin_item(std::int64_t n) {
    ++item_;
    if (n != image_ && !in_place_) {
      slot_of_row_.assign(slot_of_row_.size(), -1);
      row_in_slot_.assign(row_in_slot_.size(), -1);
    }
    image_ = n;
  }

  const T* row(std::int64_t h) {
    if (in_place_) return static_cast<const T*>(element(view_, image_, 0, h, 0));
    std::int64_t slot = slot_of_row_[h];
    if (slot < 0 && whole_plane_) {
      // Short rows transpose badly one by one: take the plane as one long row.
      const std::int64_t rows = view_.size[2], columns = view_.size[3];
      kernels_.pack(
          {element(view_, image_, 0, 0, 0), view_.dtype, view_.stride[3], view_.stride[1]},
          rows * columns, channels_, pixel_stride_, data_, pixel_stride_, 0);
      for (std::int64_t i = 0; i < rows; ++i) slot_of_row_[i] = row_in_slot_[i] = i;
      slot = h;
    }
    if (slot < 0) {
      while (used_by_item_[next_] == item_) next_ = next_ + 1 == slots_ ? 0 : next_ + 1;
      slot = next_;
      if (row_in_slot_[slot] >= 0) slot_of_row_[row_in_slot_[slot]] = -1;
      row_in_slot_[slot] = h;
      slot_of_row_[h] = slot;
      T* row = data_ + slot * row_elements_;
      pack_row(kernels_, view_, image_, h, 0, channels_, repeat_ == 1 ? pixel_stride_ : channels_,
               runs_, row, 0);
      if (repeat_ > 1) repeat_channels(row);
    }
    used_by_item_[slot] = item_;
    return data_ + slot * row_elements_;
  }

 private:
  // In place: from the last pixel to the first.
  void repeat_channels(T* row) const {
    for (std::int64_t i = columns_ - 1; i >= 0; --i) {
      const T* from = row + i * channels_;
      T* to = row + i * pixel_stride_;
      for (std::int64_t c = channels_ * repeat_; c < pixel_stride_; ++c) to[c] = T{};
      for (std::int64_t c = channels_ - 1; c >= 0; --c) {
        const T value = from[c];
        for (std::int64_t j = repeat_ - 1; j >= 0; --j) to[c * repeat_ + j] = value;
      }
    }
  }

  static constexpr std::int64_t kBudgetBytes = 512 * 1024;
  static constexpr std::int64_t kShortRow = 32;

  const RowKernels<T>& kernels_;
  TensorView view_;
  std::int64_t channels_, repeat_, columns_ = 0;
  bool in_place_, whole_plane_ = false;
  std::int64_t pixel_stride_ = 0, row_elements_ = 0, slots_ = 0, next_ = 0;
  std::int64_t item_ = 0, image_ = -1;
  T* data_ = nullptr;
  std::vector<ColumnRun> runs_;
  std::vector<std::int64_t> slot_of_row_, row_in_slot_, used_by_item_;
};

}  // namespace convext
