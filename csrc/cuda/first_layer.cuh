// fprop_gemm and wgrad_gemm of a first layer: at most 4 input channels
//
// computes  what implicit_gemm.cuh computes, with a kernel row's taps and channels as one run:
//           fprop  gemm_k = R x (S * C), in slices of a row; wgrad  gemm_n = S * C, for each of R
//                  rows.
// owns      as there.
// budget    the Tile's, and an element's place: a few registers.
// needs     one group; the input may lie anyhow, NCHW too: its elements are read one by one.
// bound by  the addresses of elements: C = 3 leaves no whole vectors to read.
// step      from implicit GEMM: a slice of a tile's depth holds 21 products of 7 x 7 and 3 channels
//           where a tap's own slice would hold 3, so that a seventh of the steps does.
#pragma once

#include "operands.cuh"

namespace convext::cuda {

// Of channels, and of elements in a kernel row, which few_quotient takes.
inline constexpr int kMostFirstChannels = 4, kMostFirstRow = 1 << 13;

// Element j of a kernel row that begins at virtual column w0 of row h; h < 0 is a row of zeros.
template <class T>
CONVEXT_DEVICE T row_element(const ConvParams& v, const T* image, int h, int w0, int j) {
  const int s = few_quotient(j, v.channels), c = j - s * v.channels;
  if (h < 0 || s >= v.S) return to_storage<T>(0);
  const int w = source_index(v.padding_mode, w0 + s * v.dilation_w, v.W);
  return w < 0 ? to_storage<T>(0) : image[h * v.input.h + w * v.input.w + c * v.input.c];
}

// N elements from j on of such a row.
template <int N, class T>
CONVEXT_DEVICE Pack<T, N> row_chunk(const ConvParams& v, const T* image, int h, int w0, int j) {
  Pack<T, N> chunk;
  // Mostly, channels_last, they follow each other in memory, and there are zeros beyond.
  const bool is_run = v.input.c == 1 && v.input.w == v.channels && v.dilation_w == 1 &&
                      v.padding_mode == PaddingMode::kZeros &&
                      v.W + v.pad_left + v.pad_right < 1 << 27;  // so that `at` fits
  if (is_run) {
    const T* row = image + h * v.input.h;
    const int at = w0 * v.channels + j, length = v.S * v.channels, end = v.W * v.channels;
#pragma unroll
    for (int e = 0; e < N; ++e) {
      const bool in = h >= 0 && j + e < length && at + e >= 0 && at + e < end;
      chunk.element[e] = in ? row[at + e] : to_storage<T>(0);
    }
  } else {
#pragma unroll
    for (int e = 0; e < N; ++e) chunk.element[e] = row_element(v, image, h, w0, j + e);
  }
  return chunk;
}

template <class T, class Tile>
struct FirstFpropOperands {
  using A = typename Tile::template Share<Tile::kM, true>;
  using B = typename Tile::template Share<Tile::kN, true>;

  const ConvParams& v;
  const TileRow* rows;
  const T *input, *weight;
  int lane0;
  int r = 0, j0 = 0;  // of the step at hand
  A a;
  B b;

  CONVEXT_DEVICE static int steps(const ConvParams& v) {
    return v.R * block_count(v.S * v.channels, Tile::kK);
  }

  CONVEXT_DEVICE FirstFpropOperands(const ConvParams& params, const TileRow* tile_rows, const T* x,
                                    const T* filters, int, int first_lane)
      : v(params),
        rows(tile_rows),
        input(x),
        weight(filters),
        lane0(first_lane),
        a(x),
        b(filters) {}

  CONVEXT_DEVICE void next() {
    j0 += Tile::kK;
    if (j0 < v.S * v.channels) return;
    j0 = 0;
    ++r;
  }

  CONVEXT_DEVICE void load() {
#pragma unroll
    for (int i = 0; i < A::kChunks; ++i) {
      const TileRow row = rows[A::at(i)];
      const int h =
          row.source < 0 ? -1 : source_index(v.padding_mode, row.h + r * v.dilation_h, v.H);
      a.set(i, row_chunk<Tile::kVector>(v, input + row.source, h, row.w, j0 + A::depth(i)));
    }
#pragma unroll
    for (int i = 0; i < B::kChunks; ++i) {
      const int k = lane0 + B::at(i);
      Pack<T, Tile::kVector> chunk;
#pragma unroll
      for (int e = 0; e < Tile::kVector; ++e) {
        const int j = j0 + B::depth(i) + e, s = few_quotient(j, v.channels);
        const bool in = k < v.K && s < v.S;
        const std::int64_t at = offset_of(v.weight, k, j - s * v.channels, r, s);
        chunk.element[e] = in ? weight[at] : to_storage<T>(0);
      }
      b.set(i, chunk);
    }
  }
};

// Taps are kernel rows.
template <class T, class Tile>
struct FirstWgradOperands : WgradOperands<T, Tile> {
  using Base = WgradOperands<T, Tile>;
  using typename Base::B;

  CONVEXT_DEVICE static int taps(const ConvParams& v) { return v.R; }
  CONVEXT_DEVICE static int lanes(const ConvParams& v) { return v.S * v.channels; }

  CONVEXT_DEVICE FirstWgradOperands(const ConvParams& params, const T* grad, const T* x, int group,
                                    int row, int first_row, int first_lane, std::int64_t pixel0,
                                    int pixels)
      : Base(params, grad, x, group, 0, first_row, first_lane, pixel0, pixels) {
    this->r = row;
  }

  CONVEXT_DEVICE void load() {
    this->load_a();
    const ConvParams& v = this->v;
#pragma unroll
    for (int i = 0; i < B::kChunks; ++i) {
      const Pixel at = this->pixel[i];
      const int h =
          B::depth(i) < this->left
              ? source_index(v.padding_mode,
                             virtual_index(at.p, this->r, v.stride_h, v.pad_top, v.dilation_h), v.H)
              : -1;
      const T* image = this->input + at.n * v.input.n;
      const int w0 = at.q * v.stride_w - v.pad_left;
      this->b.set(i, row_chunk<Tile::kVector>(v, image, h, w0, this->lane0 + B::at(i)));
    }
  }
};

}  // namespace convext::cuda
