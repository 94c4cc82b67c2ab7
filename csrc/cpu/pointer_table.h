// The pointer table of the indirect kernels: for each tile of mr destination pixels, the taps that
// reach a source pixel of at least one of them, and where each pixel finds it.
#pragma once

#include <cstdint>
#include <vector>

#include "../axis_map.h"
#include "row_cache.h"
#include "scratch.h"

namespace convext {

template <class T>
class PointerTable {
 public:
  // merged_step: 0, or the distance of neighbouring pixels' columns in rows that are packed with
  // their padding, where all taps of a kernel row make one entry. zeros: elements that a pointer to
  // padding must be able to read.
  PointerTable(const AxisMap& rows, const AxisMap& columns, std::int64_t mr,
               std::int64_t merged_step, std::int64_t pixel_stride, std::int64_t zeros)
      : rows_(rows),
        columns_(columns),
        R_(rows.taps),
        S_(columns.taps),
        mr_(mr),
        merged_step_(merged_step),
        pixel_stride_(pixel_stride) {
    T* buffer = scratch<T>(Slot::kZeros, zeros);
    for (std::int64_t i = 0; i < zeros; ++i) buffer[i] = T{};
    zeros_ = buffer;
    if (columns.longest > 1 || merged_step > 0) return;
    column_offset_.resize(columns.destinations * S_);
    for (std::int64_t w = 0; w < columns.destinations; ++w) {
      for (std::int64_t s = 0; s < S_; ++s) {
        const std::int64_t source = columns.source(w, s);
        column_offset_[w * S_ + s] = source < 0 ? -1 : source * pixel_stride;
      }
    }
  }

  // Pixels i < pixels at row h[i] and column w[i], read from the cache's current image. What a tile
  // skips depends on its pixels' positions alone.
  void build(RowCache<T>& cache, const std::vector<std::int64_t>& h,
             const std::vector<std::int64_t>& w, std::int64_t pixels) {
    cache_ = &cache;
    h_ = &h;
    w_ = &w;
    pixels_ = pixels;
    pointers_.clear();
    taps_.clear();
    tile_start_.clear();
    for (std::int64_t first = 0; first < pixels_; first += mr_) {
      const std::int64_t left = pixels_ - first;
      const int m = static_cast<int>(left < mr_ ? left : mr_);
      tile_start_.push_back(
          {static_cast<std::int64_t>(pointers_.size()), static_cast<std::int64_t>(taps_.size())});
      if (merged_step_ > 0) {
        add_merged_entries(first, m);
      } else if (rows_.longest <= 1 && columns_.longest <= 1) {
        add_entries(first, m);
      } else {
        add_entries_of_copies(first, m);
      }
    }
    tile_start_.push_back(
        {static_cast<std::int64_t>(pointers_.size()), static_cast<std::int64_t>(taps_.size())});
  }

  // f(first pixel, pixels, pointers, taps, entries)
  template <class F>
  void for_each_tile(F&& f) {
    for (std::size_t t = 0; t + 1 < tile_start_.size(); ++t) {
      const std::int64_t first = static_cast<std::int64_t>(t) * mr_;
      const std::int64_t left = pixels_ - first;
      f(first, static_cast<int>(left < mr_ ? left : mr_), pointers_.data() + tile_start_[t].pointer,
        taps_.data() + tile_start_[t].tap, tile_start_[t + 1].tap - tile_start_[t].tap);
    }
  }

 private:
  void add_merged_entries(std::int64_t first, int m) {
    for (std::int64_t r = 0; r < R_; ++r) {
      const T* x[kMostMr];
      bool any = false;
      for (int i = 0; i < m; ++i) {
        const std::int64_t h = rows_.source((*h_)[first + i], r);
        x[i] = h < 0 ? zeros_ : cache_->row(h) + (*w_)[first + i] * merged_step_ * pixel_stride_;
        any = any || h >= 0;
      }
      if (!any) continue;
      pointers_.insert(pointers_.end(), x, x + m);
      taps_.push_back(static_cast<std::int32_t>(r));
    }
  }

  // Every (pixel, tap) has one source pixel or none.
  void add_entries(std::int64_t first, int m) {
    for (std::int64_t r = 0; r < R_; ++r) {
      const T* row[kMostMr];
      bool any_row = false;
      for (int i = 0; i < m; ++i) {
        const std::int64_t h = (*h_)[first + i];
        if (i > 0 && h == (*h_)[first + i - 1]) {
          row[i] = row[i - 1];
          continue;
        }
        const std::int64_t source = rows_.source(h, r);
        row[i] = source < 0 ? nullptr : cache_->row(source);
        any_row = any_row || source >= 0;
      }
      if (!any_row) continue;
      std::size_t at = pointers_.size();
      pointers_.resize(at + S_ * m);
      for (std::int64_t s = 0; s < S_; ++s) {
        const T** x = pointers_.data() + at;
        bool any = false;
        for (int i = 0; i < m; ++i) {
          const std::int64_t offset = column_offset_[(*w_)[first + i] * S_ + s];
          const bool there = row[i] != nullptr && offset >= 0;
          x[i] = there ? row[i] + offset : zeros_;
          any = any || there;
        }
        if (!any) continue;
        taps_.push_back(static_cast<std::int32_t>(r * S_ + s));
        at += m;
      }
      pointers_.resize(at);
    }
  }

  // Input grad of a mode that copies border pixels: a (pixel, tap) may have several sources, and
  // its tap as many entries.
  void add_entries_of_copies(std::int64_t first, int m) {
    for (std::int64_t r = 0; r < R_; ++r) {
      std::int64_t row_count = 0;
      for (int i = 0; i < m; ++i) {
        const std::int64_t count = rows_.count((*h_)[first + i], r);
        if (count > row_count) row_count = count;
      }
      for (std::int64_t a = 0; a < row_count; ++a) {
        const T* row[kMostMr];
        for (int i = 0; i < m; ++i) {
          const std::int64_t h = (*h_)[first + i];
          row[i] = a >= rows_.count(h, r)               ? nullptr
                   : i > 0 && h == (*h_)[first + i - 1] ? row[i - 1]
                                                        : cache_->row(rows_.list(h, r)[a]);
        }
        for (std::int64_t s = 0; s < S_; ++s) {
          for (std::int64_t b = 0;; ++b) {
            const std::size_t at = pointers_.size();
            pointers_.resize(at + m);
            bool any = false, more = false;
            for (int i = 0; i < m; ++i) {
              const std::int64_t w = (*w_)[first + i], count = columns_.count(w, s);
              const bool there = row[i] != nullptr && b < count;
              pointers_[at + i] = there ? row[i] + columns_.list(w, s)[b] * pixel_stride_ : zeros_;
              any = any || there;
              more = more || b + 1 < count;
            }
            if (any) {
              taps_.push_back(static_cast<std::int32_t>(r * S_ + s));
            } else {
              pointers_.resize(at);
            }
            if (!more) break;
          }
        }
      }
    }
  }

  struct TileStart {
    std::int64_t pointer, tap;
  };

  const AxisMap& rows_;
  const AxisMap& columns_;
  std::int64_t R_, S_, mr_, merged_step_, pixel_stride_;
  const T* zeros_;
  std::vector<std::int64_t> column_offset_;  // [column][s]: of its source in a row, or -1
  RowCache<T>* cache_ = nullptr;
  const std::vector<std::int64_t>* h_ = nullptr;
  const std::vector<std::int64_t>* w_ = nullptr;
  std::int64_t pixels_ = 0;
  std::vector<const T*> pointers_;
  std::vector<std::int32_t> taps_;
  std::vector<TileStart> tile_start_;
};

}  // namespace convext
