// How a row of results is cut into strips for depthwise_strip.h and grouped_strip.h.
#pragma once

#include <cstdint>
#include <vector>

#include "../axis_map.h"
#include "../int_math.h"

namespace convext {

// Neighbouring tiles that have the same width and read the same copy of a row.
struct StripRun {
  std::int64_t first, tiles;  // column of the class, tiles from there on
  int mr;
  bool packed;
  std::int64_t column;  // source column of the first tap, or its place among packed columns
};

// Destination columns first, first + step, ... read source columns base + j * source_step + i *
// tap_step through kernel columns tap, tap + next_tap, ...
struct ColumnClass {
  std::int64_t first, step, count;
  std::int64_t base, source_step, tap_step;
  std::int64_t taps, tap, next_tap;
  std::vector<StripRun> runs;

  std::int64_t first_source(std::int64_t j) const { return base + j * source_step; }
  std::int64_t last_source(std::int64_t j) const {
    return first_source(j) + (taps > 0 ? (taps - 1) * tap_step : 0);
  }
};

struct StripColumns {
  std::vector<ColumnClass> classes;
  bool packs = false;                        // whether there are any
  std::vector<std::int64_t> packed_columns;  // their sources, -1 for zeros

  StripColumns() = default;

  // Of `columns` columns of results, from rows of `extent`. `in_place`: tiles whose taps all lie in
  // the row need no packed columns; otherwise packed columns are one piece. `fold`: dgrad's results
  // are a padded row.
  StripColumns(const ConvProblem& p, bool forward, bool fold, std::int64_t columns,
               std::int64_t extent, std::int64_t mr, bool in_place) {
    if (forward) {
      classes.push_back({0, 1, columns, -p.pad_left, p.stride_w, p.dilation_w, p.S, 0, 1, {}});
    } else {
      make_classes(p, fold ? 0 : p.pad_left, columns);
    }
    place_tiles(p, forward, extent, mr, in_place);
  }

  static std::int64_t source_column(const ConvProblem& p, bool forward, std::int64_t u) {
    if (forward) return resolve_padding(u, p.W, p.padding_mode);
    return u >= 0 && u < p.Q ? u : -1;
  }

  // The first source column that is packed, if they are one piece.
  std::int64_t first_packed() const { return first_packed_; }

 private:
  void make_classes(const ConvProblem& p, std::int64_t shift, std::int64_t columns) {
    // In the padded row, column v meets tap s at output column (v - s * dilation) / stride: v and
    // s * dilation have equal remainders. The last tap reads the first source.
    const std::int64_t stride = p.stride_w;
    for (std::int64_t remainder = 0; remainder < stride; ++remainder) {
      ColumnClass c{0, stride, 0, 0, 1, 1, 0, 0, 0, {}};
      const std::int64_t v = shift + (remainder - shift % stride + stride) % stride;
      c.first = v - shift;
      if (c.first >= columns) continue;
      c.count = ceil_div(columns - c.first, stride);
      for (std::int64_t s = p.S - 1; s >= 0; --s) {
        if (s * p.dilation_w % stride != remainder) continue;
        const std::int64_t source = (v - s * p.dilation_w) / stride;
        if (c.taps == 0) {
          c.tap = s;
          c.base = source;
        } else if (c.taps == 1) {
          c.next_tap = s - c.tap;
          c.tap_step = source - c.base;
        }
        ++c.taps;
      }
      classes.push_back(c);
    }
  }

  // Cuts every class into tiles, and finds those that need packed columns, and which columns.
  void place_tiles(const ConvProblem& p, bool forward, std::int64_t extent, std::int64_t mr,
                   bool in_place) {
    // Virtual columns [low, left_end) and [right, high) are packed.
    std::int64_t low = extent, left_end = 0, right = extent, high = 0;
    bool left = false, some_right = false;
    for (ColumnClass& c : classes) {
      const std::int64_t tiles = ceil_div(c.count, mr);
      for (std::int64_t t = 0; t < tiles; ++t) {
        const std::int64_t j = c.count * t / tiles, end = c.count * (t + 1) / tiles;
        const std::int64_t from = c.first_source(j), to = c.last_source(end - 1) + 1;
        const bool packed = c.taps > 0 && (!in_place || from < 0 || to > extent);
        c.runs.push_back({j, 1, static_cast<int>(end - j), packed, from});
        if (!packed) continue;
        packs = true;
        if (from < low) low = from;
        if (to > high) high = to;
        if (from < 0) {
          left = true;
          if (to > left_end) left_end = to;
        } else {
          some_right = true;
          if (from < right) right = from;
        }
      }
    }
    if (packs) {
      if (!left) low = right;
      if (!some_right) high = left_end;
      if (!in_place || !left || !some_right || right < left_end) {
        left_end = high;
        right = high;
      }
      for (std::int64_t u = low; u < left_end; ++u) {
        packed_columns.push_back(source_column(p, forward, u));
      }
      for (std::int64_t u = right; u < high; ++u) {
        packed_columns.push_back(source_column(p, forward, u));
      }
      first_packed_ = low;
    }
    for (ColumnClass& c : classes) {
      std::vector<StripRun> runs;
      for (StripRun run : c.runs) {
        if (run.packed) {
          const std::int64_t u = run.column;
          run.column = u < left_end ? u - low : left_end - low + u - right;
        }
        if (!runs.empty()) {
          StripRun& last = runs.back();
          if (last.mr == run.mr && last.packed == run.packed &&
              last.column + last.tiles * run.mr * c.source_step == run.column) {
            ++last.tiles;
            continue;
          }
        }
        runs.push_back(run);
      }
      c.runs = std::move(runs);
    }
  }

  std::int64_t first_packed_ = 0;
};

}  // namespace convext
