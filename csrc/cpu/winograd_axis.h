// What the drivers of Winograd kernels share. Along one axis: which source and destination indices
// each tile has. Tiles lie on a grid, which a dilation splits into one grid for each class of equal
// remainders. In two dimensions: which points have a filter.
#pragma once

#include <vector>

#include "../axis_map.h"
#include "../int_math.h"
#include "../plan/winograd_shape.h"
#include "isa_kernels.h"

namespace convext {

struct AxisTile {
  std::int64_t first;                           // of the results that exist
  int begin, end;                               // where these are among the tile's results
  std::int64_t source[kMostWinogradSide];       // index of each input; -1: zero
  std::int64_t destination[kMostWinogradSide];  // index of each result; -1: does not exist

  int count() const { return end - begin; }
};

// `step` is the dilation, `pad` what lies before the image. Forward, result k reads with tap t
// input stride * k + t of a tile. Backward taps come reversed, and with stride 2 a grid starts at a
// result that the middle tap makes, which may lie before the image.
inline std::vector<AxisTile> axis_tiles(const AxisMap& map, const WinogradShape& shape,
                                        std::int64_t step, std::int64_t pad, bool backward) {
  std::vector<AxisTile> tiles;
  for (std::int64_t d0 = 0; d0 < step && d0 < map.destinations; ++d0) {
    const bool before = backward && shape.stride == 2 && (d0 + pad) % 2 == 0;
    for (std::int64_t first = before ? d0 - step : d0; first < map.destinations;
         first += shape.outputs * step) {
      AxisTile tile{};
      tile.begin = first < 0 ? 1 : 0;
      tile.first = first + tile.begin * step;
      const std::int64_t left = ceil_div(map.destinations - tile.first, step) + tile.begin;
      tile.end = static_cast<int>(left < shape.outputs ? left : shape.outputs);
      for (int a = 0; a < kMostWinogradSide; ++a) tile.source[a] = tile.destination[a] = -1;
      for (int k = tile.begin; k < tile.end; ++k) {
        tile.destination[k] = first + k * step;
        // Whichever (result, tap) reads an input, it is the same one.
        for (int t = 0; t < 3; ++t) {
          const int reach = backward ? k + 3 - shape.stride - t : shape.stride * k + t;
          if (backward && reach % shape.stride != 0) continue;
          tile.source[backward ? reach / shape.stride : reach] = map.source(tile.destination[k], t);
        }
      }
      tiles.push_back(tile);
    }
  }
  return tiles;
}

// The transforms of a plan's kernel.
template <class T>
const WinogradKernels<T>& transforms_of(const ComputeKernels<T>& kernels, const ConvPlan& plan) {
  const bool backward = plan.pass == Pass::kDgrad;
  switch (plan.kernel->algorithm) {
    case Algorithm::kPolyphase2: return backward ? kernels.polyphase2_grad : kernels.polyphase2;
    case Algorithm::kPolyphase4: return backward ? kernels.polyphase4_grad : kernels.polyphase4;
    case Algorithm::kWinograd4: return kernels.winograd4;
    default: return kernels.winograd2;
  }
}

// Calls body(point) for each of a tile's points, in two dimensions, that have this filter.
template <class Body>
void each_point(const WinogradShape& shape, std::int64_t filter, const Body& body) {
  const auto end = [&](std::int64_t f) { return f + 1 < shape.filters ? f + 1 : shape.points; };
  const std::int64_t row = filter / shape.filters, column = filter % shape.filters;
  for (std::int64_t i = row; i < end(row); ++i) {
    for (std::int64_t j = column; j < end(column); ++j) body(i * shape.points + j);
  }
}

}  // namespace convext
