// A tensor's pixels in the order n, p, q, and how they lie in memory.
#pragma once

#include <cstdint>

#include "../dtype.h"
#include "views.h"

namespace convext {

// The view that has at (n, p, q) what `view` has at (n, p * stride_h, q * stride_w).
inline TensorView every_nth_pixel(TensorView view, std::int64_t P, std::int64_t Q,
                                  std::int64_t stride_h, std::int64_t stride_w) {
  view.size[2] = P;
  view.size[3] = Q;
  view.stride[2] *= stride_h;
  view.stride[3] *= stride_w;
  return view;
}

struct PixelRuns {
  TensorView view;
  std::int64_t step = 0;    // elements between neighbouring pixels of a run
  std::int64_t period = 0;  // pixels of the longest runs: a row, an image, or everything

  explicit PixelRuns(const TensorView& v) : view(v) {
    const std::int64_t N = v.size[0], P = v.size[2], Q = v.size[3];
    step = Q > 1 ? v.stride[3] : P > 1 ? v.stride[2] : v.stride[0];
    period = Q;
    if (P == 1 || v.stride[2] == Q * step) period = P * Q;
    if (period == P * Q && (N == 1 || v.stride[0] == P * Q * step)) period = N * P * Q;
  }

  bool images_are_runs() const { return period >= view.size[2] * view.size[3]; }
  bool one_run() const { return period == view.size[0] * view.size[2] * view.size[3]; }

  void* at(std::int64_t pixel, std::int64_t channel) const {
    const std::int64_t image = view.size[2] * view.size[3], in_image = pixel % image;
    return element(view, pixel / image, channel, in_image / view.size[3], in_image % view.size[3]);
  }

  // f(pixels before, pixels, first) for each run of pixels [first, first + count).
  template <class F>
  void for_each(std::int64_t first, std::int64_t count, F&& f) const {
    for (std::int64_t i = 0; i < count;) {
      const std::int64_t in_run = period - (first + i) % period;
      const std::int64_t run = in_run < count - i ? in_run : count - i;
      f(i, run, first + i);
      i += run;
    }
  }
};

}  // namespace convext
