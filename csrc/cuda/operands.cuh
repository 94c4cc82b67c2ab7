// Where the implicit GEMMs find their operands: for each pass, which element of which tensor
// belongs to a row (or lane) and a depth of the product. The matrices are never built.
//
// A Tile names kM, kN, kK, the rows, lanes and depth of a CTA's tile, and Share<Extent,
// DepthAdjacent>, a thread's share of moving one operand: kChunks chunks of kVector elements that
// are adjacent in memory, along the depth (DepthAdjacent) or across it. Chunk i begins at (at(i),
// depth(i)), and load(i, from, count) moves it: `count` elements from `from`, zeros for the others;
// or set(i, chunk) gives it, where elements have been gathered.
#pragma once

#include "element.cuh"
#include "index_math.cuh"

namespace convext::cuda {

// ---- fprop: rows are output pixels, lanes output channels, the depth is taps x input channels ---

template <class T, class Tile>
struct FpropOperands {
  using A = typename Tile::template Share<Tile::kM, true>;
  using B = typename Tile::template Share<Tile::kN, true>;

  const ConvParams& v;
  TapWalk walk;
  A a;
  B b;
  const T* image[A::kChunks];  // of the chunk's pixel, null beyond the last one
  int h0[A::kChunks] = {}, w0[A::kChunks] = {};
  const T* filter[B::kChunks];  // of the chunk's lane, null beyond the last one

  CONVEXT_DEVICE static int steps(const ConvParams& v) {
    return v.R * v.S * block_count(v.channels, Tile::kK);
  }

  CONVEXT_DEVICE FpropOperands(const ConvParams& params, const T* input, const T* weight, int group,
                               std::int64_t pixel0, int lane0)
      : v(params), walk{params.S, params.channels, Tile::kK}, a(input), b(weight) {
    const std::int64_t pixels = static_cast<std::int64_t>(v.N) * v.P * v.Q;
#pragma unroll
    for (int i = 0; i < A::kChunks; ++i) {
      const std::int64_t index = pixel0 + A::at(i);
      image[i] = nullptr;
      if (index >= pixels) continue;
      const Pixel at = pixel_at(index, v.by_P, v.by_Q);
      image[i] = input + at.n * v.input.n + group * v.channels;
      h0[i] = at.p * v.stride_h - v.pad_top;
      w0[i] = at.q * v.stride_w - v.pad_left;
    }
#pragma unroll
    for (int i = 0; i < B::kChunks; ++i) {
      const int lane = lane0 + B::at(i);
      filter[i] = lane < v.outputs ? weight + (group * v.outputs + lane) * v.weight.n : nullptr;
    }
  }

  CONVEXT_DEVICE void next() { walk.next(); }

  CONVEXT_DEVICE void load() {
#pragma unroll
    for (int i = 0; i < A::kChunks; ++i) {
      const int c = walk.c + A::depth(i);
      const T* from = nullptr;
      if (image[i] != nullptr && c < v.channels) {
        const int h = source_index(v.padding_mode, h0[i] + walk.r * v.dilation_h, v.H);
        const int w = source_index(v.padding_mode, w0[i] + walk.s * v.dilation_w, v.W);
        if (h >= 0 && w >= 0) from = image[i] + h * v.input.h + w * v.input.w + c;
      }
      a.load(i, from, v.channels - c);
    }
#pragma unroll
    for (int i = 0; i < B::kChunks; ++i) {
      const int c = walk.c + B::depth(i);
      const bool in = filter[i] != nullptr && c < v.channels;
      const T* from = in ? filter[i] + walk.r * v.weight.h + walk.s * v.weight.w + c : nullptr;
      b.load(i, from, v.channels - c);
    }
  }
};

// ---- dgrad: rows are the input pixels of one class of the stride, lanes input channels, the depth
// is the class' taps x output channels ------------------------------------------------------------

template <class T, class Tile>
struct DgradOperands {
  using A = typename Tile::template Share<Tile::kM, true>;
  using B = typename Tile::template Share<Tile::kN, false>;

  const ConvParams& v;
  int lane0;
  TapWalk walk;  // over numbers of the class' taps
  A a;
  B b;
  const T* image[A::kChunks];  // of the chunk's pixel, null beyond the last one
  int p0[A::kChunks] = {}, q0[A::kChunks] = {};
  const T* filter;  // the group's first, at the class' first tap

  CONVEXT_DEVICE DgradOperands(const ConvParams& params, const ClassPixels& pixels,
                               const T* grad_output, const T* weight, int group,
                               std::int64_t pixel0, int first_lane)
      : v(params),
        lane0(first_lane),
        walk{pixels.columns.taps, params.outputs, Tile::kK},
        a(grad_output),
        b(weight),
        filter(weight + group * params.outputs * params.weight.n +
               pixels.rows.first_tap * params.weight.h +
               pixels.columns.first_tap * params.weight.w) {
#pragma unroll
    for (int i = 0; i < A::kChunks; ++i) {
      const std::int64_t index = pixel0 + A::at(i);
      image[i] = nullptr;
      if (index >= v.N * pixels.in_image()) continue;
      const Pixel at = pixels.at(v, index);
      image[i] = grad_output + at.n * v.output.n + group * v.outputs;
      p0[i] = at.p + pixels.rows.first_output;
      q0[i] = at.q + pixels.columns.first_output;
    }
  }

  CONVEXT_DEVICE void next() { walk.next(); }

  CONVEXT_DEVICE void load() {
#pragma unroll
    for (int i = 0; i < A::kChunks; ++i) {
      const int k = walk.c + A::depth(i);
      const int p = p0[i] - walk.r * v.output_step_h, q = q0[i] - walk.s * v.output_step_w;
      const bool in =
          image[i] != nullptr && k < v.outputs && p >= 0 && p < v.P && q >= 0 && q < v.Q;
      const T* from = in ? image[i] + p * v.output.h + q * v.output.w + k : nullptr;
      a.load(i, from, v.outputs - k);
    }
    const T* tap = filter + walk.r * v.tap_step_h * v.weight.h + walk.s * v.tap_step_w * v.weight.w;
#pragma unroll
    for (int i = 0; i < B::kChunks; ++i) {
      const int k = walk.c + B::depth(i), c = lane0 + B::at(i);
      const bool in = k < v.outputs && c < v.channels;
      b.load(i, in ? tap + k * v.weight.n + c : nullptr, v.channels - c);
    }
  }
};

// ---- wgrad: rows are output channels, lanes the input channels of one tap, the depth is pixels --

template <class T, class Tile>
struct WgradOperands {
  using A = typename Tile::template Share<Tile::kM, false>;
  using B = typename Tile::template Share<Tile::kN, false>;

  const ConvParams& v;
  const T *grad_output, *input;  // at the group's first channels
  int r, s, row0, lane0;
  std::int64_t left;  // pixels from the step at hand on
  A a;
  B b;
  Pixel a_pixel[A::kChunks], b_pixel[B::kChunks];  // those of the step at hand

  CONVEXT_DEVICE static int taps(const ConvParams& v) { return v.R * v.S; }
  CONVEXT_DEVICE static int lanes(const ConvParams& v) { return v.channels; }

  CONVEXT_DEVICE WgradOperands(const ConvParams& params, const T* grad, const T* x, int group,
                               int tap, int first_row, int first_lane, std::int64_t pixel0,
                               std::int64_t pixels)
      : v(params),
        grad_output(grad + group * params.outputs),
        input(x + group * params.channels),
        r(tap / params.S),
        s(tap % params.S),
        row0(first_row),
        lane0(first_lane),
        left(pixels),
        a(grad),
        b(x) {
#pragma unroll
    for (int i = 0; i < A::kChunks; ++i)
      a_pixel[i] = pixel_at(pixel0 + A::depth(i), v.by_P, v.by_Q);
#pragma unroll
    for (int i = 0; i < B::kChunks; ++i)
      b_pixel[i] = pixel_at(pixel0 + B::depth(i), v.by_P, v.by_Q);
  }

  CONVEXT_DEVICE void next() {
    left -= Tile::kK;
#pragma unroll
    for (int i = 0; i < A::kChunks; ++i) advance(&a_pixel[i], Tile::kK, v.P, v.Q);
#pragma unroll
    for (int i = 0; i < B::kChunks; ++i) advance(&b_pixel[i], Tile::kK, v.P, v.Q);
  }

  CONVEXT_DEVICE void load() {
    load_a();
    load_b();
  }

  CONVEXT_DEVICE void load_a() {
#pragma unroll
    for (int i = 0; i < A::kChunks; ++i) {
      const int k = row0 + A::at(i);
      const bool in = A::depth(i) < left && k < v.outputs;
      const Pixel at = a_pixel[i];
      const T* from = in ? grad_output + offset_of(v.output, at.n, 0, at.p, at.q) + k : nullptr;
      a.load(i, from, v.outputs - k);
    }
  }

  CONVEXT_DEVICE void load_b() {
#pragma unroll
    for (int i = 0; i < B::kChunks; ++i) {
      const int c = lane0 + B::at(i);
      const T* from = nullptr;
      if (B::depth(i) < left && c < v.channels) {
        const Pixel at = b_pixel[i];
        const int h = source_index(
            v.padding_mode, virtual_index(at.p, r, v.stride_h, v.pad_top, v.dilation_h), v.H);
        const int w = source_index(
            v.padding_mode, virtual_index(at.q, s, v.stride_w, v.pad_left, v.dilation_w), v.W);
        if (h >= 0 && w >= 0) from = input + offset_of(v.input, at.n, 0, h, w) + c;
      }
      b.load(i, from, v.channels - c);
    }
  }
};

}  // namespace convext::cuda
