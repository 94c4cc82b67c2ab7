// How planes are packed for grouped_planes.h: with their padding, one plane for each remainder
// of a stride, so that every tap is one distance in memory for all pixels.
#pragma once

#include <cstdint>
#include <vector>

#include "../axis_map.h"
#include "../int_math.h"
#include "isa_kernels.h"
#include "row_cache.h"
#include "views.h"

namespace convext {

// One axis. Positions are output indices in fprop and wgrad. In dgrad, position a stands for the
// destinations a * stride + remainder - pad, one for each remainder modulo the stride.
struct PlaneAxis {
  std::int64_t first = 0, positions = 0;
  std::int64_t reach = 0;                   // packed indices beyond the positions
  std::vector<std::int64_t> phase, offset;  // of each tap: which packed plane, how far into it
  std::vector<std::int64_t> remainder;      // dgrad: of the destinations that a tap serves
  std::vector<std::vector<std::int64_t>> source;  // [phase][packed index]: source index, or -1
};

inline PlaneAxis forward_axis(std::int64_t outputs, std::int64_t taps, std::int64_t stride,
                              std::int64_t dilation, std::int64_t pad, std::int64_t extent,
                              PaddingMode mode) {
  PlaneAxis axis;
  axis.positions = outputs;
  std::vector<std::int64_t> phases;
  for (std::int64_t t = 0; t < taps; ++t) {
    const std::int64_t phase = t * dilation % stride;
    std::size_t index = 0;
    while (index < phases.size() && phases[index] != phase) ++index;
    if (index == phases.size()) phases.push_back(phase);
    axis.phase.push_back(static_cast<std::int64_t>(index));
    axis.offset.push_back(t * dilation / stride);
    axis.remainder.push_back(0);
  }
  axis.reach = axis.offset.back();
  for (const std::int64_t phase : phases) {
    std::vector<std::int64_t> source(outputs + axis.reach, -1);
    for (std::int64_t i = 0; i < outputs + axis.reach; ++i) {
      // Not every remainder reaches as far as the last tap does.
      const std::int64_t v = i * stride + phase;
      if (v <= (outputs - 1) * stride + (taps - 1) * dilation) {
        source[i] = resolve_padding(v - pad, extent, mode);
      }
    }
    axis.source.push_back(std::move(source));
  }
  return axis;
}

inline PlaneAxis backward_axis(std::int64_t outputs, std::int64_t taps, std::int64_t stride,
                               std::int64_t dilation, std::int64_t pad, std::int64_t extent) {
  PlaneAxis axis;
  axis.first = pad / stride;
  axis.positions = (extent - 1 + pad) / stride - axis.first + 1;
  axis.reach = (taps - 1) * dilation / stride;
  for (std::int64_t t = 0; t < taps; ++t) {
    axis.phase.push_back(0);
    axis.offset.push_back(axis.reach - t * dilation / stride);
    axis.remainder.push_back(t * dilation % stride);
  }
  std::vector<std::int64_t> source(axis.positions + axis.reach, -1);
  for (std::int64_t i = 0; i < axis.positions + axis.reach; ++i) {
    const std::int64_t p = axis.first + i - axis.reach;
    if (p >= 0 && p < outputs) source[i] = p;
  }
  axis.source.push_back(std::move(source));
  return axis;
}

// Packed indices that repeat others, as padding does which copies pixels: these are packed once,
// and copied where they lie.
struct PackedCopies {
  struct Copy {
    std::int64_t at, from;
  };
  std::vector<ColumnRun> runs;  // of the others
  std::vector<Copy> copies;

  explicit PackedCopies(const std::vector<std::int64_t>& sources) {
    const ColumnRun longest = longest_ascent(sources);
    std::vector<std::int64_t> single = sources;
    for (std::size_t i = 0; i < sources.size(); ++i) {
      const std::int64_t at = static_cast<std::int64_t>(i);
      if (sources[i] < 0 || (at >= longest.at && at < longest.at + longest.count)) continue;
      const std::int64_t distance = sources[i] - longest.source;
      if (distance % longest.step != 0) continue;
      const std::int64_t index = distance / longest.step;
      if (index < 0 || index >= longest.count) continue;
      copies.push_back({at, longest.at + index});
      single[i] = kCopied;
    }
    for (std::size_t i = 0; i < single.size();) {
      std::size_t end = i;
      while (end < single.size() && (single[end] == kCopied) == (single[i] == kCopied)) ++end;
      if (single[i] != kCopied) {
        for (ColumnRun run : column_runs({single.begin() + i, single.begin() + end})) {
          run.at += static_cast<std::int64_t>(i);
          runs.push_back(run);
        }
      }
      i = end;
    }
  }

 private:
  static constexpr std::int64_t kCopied = -2;

  // The image itself: sources that follow each other upwards, in equal steps.
  static ColumnRun longest_ascent(const std::vector<std::int64_t>& sources) {
    const std::int64_t count = static_cast<std::int64_t>(sources.size());
    ColumnRun longest{0, -1, 1, 0};
    for (std::int64_t i = 0; i < count;) {
      if (sources[i] < 0) {
        ++i;
        continue;
      }
      ColumnRun run{i, sources[i], 1, 1};
      if (i + 1 < count && sources[i + 1] > sources[i]) run.step = sources[i + 1] - sources[i];
      while (i + run.count < count && sources[i + run.count] == run.source + run.count * run.step) {
        ++run.count;
      }
      if (run.count > longest.count) longest = run;
      i += run.count > 1 ? run.count - 1 : 1;
    }
    return longest;
  }
};

// Both axes, and strips of positions' rows that fit a budget.
class PlaneLayout {
 public:
  PlaneLayout(PlaneAxis rows, PlaneAxis columns, std::int64_t planes, std::int64_t budget)
      : rows_(std::move(rows)), columns_(std::move(columns)) {
    ld_ = columns_.positions + columns_.reach;
    const std::int64_t row_planes = static_cast<std::int64_t>(rows_.source.size());
    const std::int64_t column_planes = static_cast<std::int64_t>(columns_.source.size());
    phases_ = row_planes * column_planes;
    std::int64_t rows_a_strip = budget / (ld_ * (phases_ * planes + 1)) - rows_.reach;
    // A strip is at least as high as what it packs beyond its own rows.
    if (rows_a_strip < rows_.reach + 1) rows_a_strip = rows_.reach + 1;
    strips_ = ceil_div(rows_.positions, rows_a_strip);
    strip_rows_ = ceil_div(rows_.positions, strips_);
    plane_ = (strip_rows_ + rows_.reach) * ld_;
    for (const auto& source : columns_.source) columns_packed_.emplace_back(source);
    for (std::int64_t strip = 0; strip < strips_; ++strip) {
      for (const auto& source : rows_.source) {
        rows_packed_.emplace_back(std::vector<std::int64_t>(
            source.begin() + begin(strip), source.begin() + end(strip) + rows_.reach));
      }
    }
  }

  std::int64_t strips() const { return strips_; }
  std::int64_t begin(std::int64_t strip) const { return rows_.positions * strip / strips_; }
  std::int64_t end(std::int64_t strip) const { return rows_.positions * (strip + 1) / strips_; }
  std::int64_t strip_rows() const { return strip_rows_; }
  std::int64_t ld() const { return ld_; }
  std::int64_t channel_elements() const { return phases_ * plane_; }
  const PlaneAxis& rows() const { return rows_; }
  const PlaneAxis& columns() const { return columns_; }

  // From a position to what tap (r, s) reads there.
  std::int64_t distance(std::int64_t r, std::int64_t s) const {
    const std::int64_t column_planes = static_cast<std::int64_t>(columns_.source.size());
    return (rows_.phase[r] * column_planes + columns_.phase[s]) * plane_ + rows_.offset[r] * ld_ +
           columns_.offset[s];
  }

  // Positions of a strip, from its first to its last, with what lies between its rows.
  std::int64_t count(std::int64_t strip) const {
    return (end(strip) - begin(strip) - 1) * ld_ + columns_.positions;
  }

  // `zeros`: the padding too, which need not be written again for the same strip.
  template <class T>
  void pack(const ComputeKernels<T>& kernels, const TensorView& view, std::int64_t n,
            std::int64_t c, std::int64_t strip, bool zeros, T* destination) const {
    const std::size_t row_planes = rows_.source.size();
    for (std::size_t i = 0; i < row_planes; ++i) {
      const PackedCopies& strip_rows = rows_packed_[strip * row_planes + i];
      for (const PackedCopies& plane_columns : columns_packed_) {
        for (const ColumnRun& rows : strip_rows.runs) {
          for (const ColumnRun& columns : plane_columns.runs) {
            T* d = destination + rows.at * ld_ + columns.at;
            if (rows.source >= 0 && columns.source >= 0) {
              kernels.pack({element(view, n, c, rows.source, columns.source), view.dtype,
                            rows.step * view.stride[2], columns.step * view.stride[3]},
                           rows.count, columns.count, columns.count, d, ld_, 0);
            } else if (zeros) {
              for (std::int64_t h = 0; h < rows.count; ++h) {
                for (std::int64_t w = 0; w < columns.count; ++w) d[h * ld_ + w] = 0;
              }
            }
          }
          if (rows.source < 0) continue;
          T* row = destination + rows.at * ld_;
          for (std::int64_t h = 0; h < rows.count; ++h, row += ld_) {
            for (const auto& copy : plane_columns.copies) row[copy.at] = row[copy.from];
          }
        }
        for (const auto& copy : strip_rows.copies) {
          const T* const from = destination + copy.from * ld_;
          T* const to = destination + copy.at * ld_;
          for (std::int64_t w = 0; w < ld_; ++w) to[w] = from[w];
        }
        destination += plane_;
      }
    }
  }

 private:
  PlaneAxis rows_, columns_;
  std::int64_t ld_, phases_, strips_, strip_rows_, plane_;
  std::vector<PackedCopies> columns_packed_;  // [phase]
  std::vector<PackedCopies> rows_packed_;     // [strip][phase]
};

}  // namespace convext
