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

// Where a row of the product, which is a pixel, finds its source: kept in shared memory, for a
// thread's registers are its sums'.
struct TileRow {
  std::int64_t source;  // its image's first element in the group, or -1 beyond the last row
  int h, w;             // of its first tap
};

// To the next channels of the same tap; what is null stays so.
template <class T, int N>
CONVEXT_DEVICE void advance_chunks(const T* (&from)[N], std::int64_t by) {
#pragma unroll
  for (int i = 0; i < N; ++i) {
    if (from[i] != nullptr) from[i] += by;
  }
}

// ---- fprop: rows are output pixels, lanes output channels, the depth is taps x input channels ---

CONVEXT_DEVICE TileRow fprop_row(const ConvParams& v, const Pixel& at, int group) {
  return {offset_of(v.input, at.n, 0, 0, 0) + group * v.channels, at.p * v.stride_h - v.pad_top,
          at.q * v.stride_w - v.pad_left};
}

template <class T, class Tile>
struct FpropOperands {
  using A = typename Tile::template Share<Tile::kM, true>;
  using B = typename Tile::template Share<Tile::kN, true>;

  const ConvParams& v;
  const TileRow* rows;
  const T *input, *weight;  // weight: the group's first
  int lane0;
  TapWalk walk;
  A a;
  B b;
  // The chunks' at the tap and channels at hand, null where there are zeros.
  const T *a_from[A::kChunks], *b_from[B::kChunks];

  CONVEXT_DEVICE static int steps(const ConvParams& v) {
    return v.R * v.S * block_count(v.channels, Tile::kK);
  }

  CONVEXT_DEVICE FpropOperands(const ConvParams& params, const TileRow* tile_rows, const T* x,
                               const T* filters, int group, int first_lane)
      : v(params),
        rows(tile_rows),
        input(x),
        weight(filters + group * params.outputs * params.weight.n),
        lane0(first_lane),
        walk{params.S, params.channels, Tile::kK},
        a(x),
        b(filters) {}

  CONVEXT_DEVICE void next() {
    walk.next();
    advance_chunks(a_from, Tile::kK);
    advance_chunks(b_from, Tile::kK);
  }

  // At a tap's first channels.
  CONVEXT_DEVICE void begin_tap() {
#pragma unroll
    for (int i = 0; i < A::kChunks; ++i) {
      const TileRow row = rows[A::at(i)];
      const int h = source_index(v.padding_mode, row.h + walk.r * v.dilation_h, v.H);
      const int w = source_index(v.padding_mode, row.w + walk.s * v.dilation_w, v.W);
      const bool in = row.source >= 0 && h >= 0 && w >= 0;
      a_from[i] = in ? input + row.source + h * v.input.h + w * v.input.w + A::depth(i) : nullptr;
    }
    const T* tap = weight + walk.r * v.weight.h + walk.s * v.weight.w;
#pragma unroll
    for (int i = 0; i < B::kChunks; ++i) {
      const int k = lane0 + B::at(i);
      b_from[i] = k < v.outputs ? tap + k * v.weight.n + B::depth(i) : nullptr;
    }
  }

  CONVEXT_DEVICE void load() {
    if (walk.c == 0) begin_tap();
#pragma unroll
    for (int i = 0; i < A::kChunks; ++i) {
      const int left = v.channels - walk.c - A::depth(i);
      a.load(i, left > 0 ? a_from[i] : nullptr, left);
    }
#pragma unroll
    for (int i = 0; i < B::kChunks; ++i) {
      const int left = v.channels - walk.c - B::depth(i);
      b.load(i, left > 0 ? b_from[i] : nullptr, left);
    }
  }
};

// ---- dgrad: rows are the input pixels of one class of the stride, lanes input channels, the depth
// is the class' taps x output channels ------------------------------------------------------------

CONVEXT_DEVICE TileRow dgrad_row(const ConvParams& v, const ClassPixels& pixels, const Pixel& at,
                                 int group) {
  return {offset_of(v.output, at.n, 0, 0, 0) + group * v.outputs, at.p + pixels.rows.first_output,
          at.q + pixels.columns.first_output};
}

template <class T, class Tile>
struct DgradOperands {
  using A = typename Tile::template Share<Tile::kM, true>;
  using B = typename Tile::template Share<Tile::kN, false>;

  const ConvParams& v;
  const TileRow* rows;
  const T *grad_output, *weight;  // weight: the group's first, at the class' first tap
  int lane0;
  TapWalk walk;  // over numbers of the class' taps
  A a;
  B b;

  CONVEXT_DEVICE DgradOperands(const ConvParams& params, const ClassPixels& pixels,
                               const TileRow* tile_rows, const T* grad, const T* filters, int group,
                               int first_lane)
      : v(params),
        rows(tile_rows),
        grad_output(grad),
        weight(filters + group * params.outputs * params.weight.n +
               pixels.rows.first_tap * params.weight.h +
               pixels.columns.first_tap * params.weight.w),
        lane0(first_lane),
        walk{pixels.columns.taps, params.outputs, Tile::kK},
        a(grad),
        b(filters) {}

  CONVEXT_DEVICE void next() { walk.next(); }

  // Addresses are computed at each step: SIMT tiles leave no registers to keep them in.
  CONVEXT_DEVICE void load() {
#pragma unroll
    for (int i = 0; i < A::kChunks; ++i) {
      const TileRow row = rows[A::at(i)];
      const int k = walk.c + A::depth(i);
      const int p = row.h - walk.r * v.output_step_h, q = row.w - walk.s * v.output_step_w;
      const bool in = row.source >= 0 && k < v.outputs && p >= 0 && p < v.P && q >= 0 && q < v.Q;
      const T* from = in ? grad_output + row.source + p * v.output.h + q * v.output.w + k : nullptr;
      a.load(i, from, v.outputs - k);
    }
    const T* tap = weight + walk.r * v.tap_step_h * v.weight.h + walk.s * v.tap_step_w * v.weight.w;
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
  int left;  // pixels from the step at hand on; a split has thousands
  A a;
  B b;
  Pixel pixel[A::kChunks];  // the chunks' of the step at hand
  static_assert(Tile::kM == Tile::kN, "chunks of both operands have the same depths");

  CONVEXT_DEVICE static int taps(const ConvParams& v) { return v.R * v.S; }
  CONVEXT_DEVICE static int lanes(const ConvParams& v) { return v.channels; }

  CONVEXT_DEVICE WgradOperands(const ConvParams& params, const T* grad, const T* x, int group,
                               int tap, int first_row, int first_lane, std::int64_t pixel0,
                               int pixels)
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
    for (int i = 0; i < A::kChunks; ++i) {
      pixel[i] = pixel_at(pixel0 + A::depth(i), v.by_P, v.by_Q);
    }
  }

  CONVEXT_DEVICE void next() {
    left -= Tile::kK;
#pragma unroll
    for (int i = 0; i < A::kChunks; ++i) advance(&pixel[i], Tile::kK, v.P, v.Q);
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
      const Pixel at = pixel[i];
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
        const Pixel at = pixel[i];
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
