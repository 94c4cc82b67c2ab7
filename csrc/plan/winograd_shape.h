// What of a tile a Winograd kernel's one-dimensional transform reads, multiplies and writes: see
// cpu/winograd_transform.h and cpu/winograd_polyphase.h. Plans and drivers read it here.
#pragma once

#include "../conv_plan.h"
#include "../int_math.h"

namespace convext {

struct WinogradShape {
  int inputs;   // of the source
  int points;   // multiplications
  int filters;  // transformed filters: point i has the i-th, but no further one than the last
  int outputs;  // of the destination
  int stride;   // of the convolution
};

inline constexpr int kMostWinogradSide = 9;  // of all of these

constexpr WinogradShape winograd_shape(Algorithm algorithm, Pass pass) {
  const bool four = algorithm == Algorithm::kWinograd4 || algorithm == Algorithm::kPolyphase4;
  const int m = four ? 4 : 2;
  if (algorithm == Algorithm::kWinograd2 || algorithm == Algorithm::kWinograd4) {
    return {m + 2, m + 2, m + 2, m, 1};
  }
  if (pass == Pass::kDgrad) return {m + 1, 2 * m + 1, m + 2, 2 * m, 2};
  return {2 * m + 1, 2 * m + 1, m + 2, m, 2};
}
inline WinogradShape winograd_shape(const ConvPlan& plan) {
  return winograd_shape(plan.kernel->algorithm, plan.pass);
}

// Tiles, at most, of `results` pixels of one class of a dilation. With stride 2 input grad's tiles
// begin before the image where its first pixel is not one that the middle tap makes.
inline std::int64_t winograd_axis_tiles(const ConvPlan& plan, std::int64_t results,
                                        std::int64_t dilation, std::int64_t pad) {
  const WinogradShape shape = winograd_shape(plan);
  const bool before = plan.pass == Pass::kDgrad && shape.stride == 2 && results > 0 &&
                      (dilation > 1 || pad % 2 == 0);
  return ceil_div(results + (before ? 1 : 0), shape.outputs);
}

}  // namespace convext
