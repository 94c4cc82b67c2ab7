// fprop_gemm, dgrad_gemm, wgrad_gemm: convolution as a product of matrices that are never built
//
// computes  fprop  output[pixel][k] = bias[k] + sum over taps and c of
//                      input[pixel at tap][c] * weight[k][tap][c]
//           dgrad  grad_input[pixel][c] = sum over taps and k of
//                      grad_output[pixel at tap][k] * weight[k][tap][c]
//                  for the pixels of one class of the stride, whose taps are the same
//           wgrad  sums[split][k][tap][c] = sum over the split's pixels of
//                      grad_output[pixel][k] * input[pixel at tap][c]
//           GEMM view: gemm_m = pixels (wgrad: output channels), gemm_n = channels of the result,
//           gemm_k = taps x channels (wgrad: output pixels).
// owns      CTA: kM x kN results, added up in the order of gemm_k; what a thread has of them is the
//           Tile's affair. wgrad's splits are cut by shape alone and added in order by sum_splits.
// budget    the Tile's: simt_tile.cuh, mma_tile.cuh.
// needs     what Operands need, which say where elements are (operands.cuh, first_layer.cuh):
//           channels adjacent in memory in every tensor. Anything beyond the problem is a zero, and
//           not stored. dgrad knows padding of zeros alone; dgrad_naive does the border after it.
// bound by  the Tile's multiplications: each element from global memory serves kN or kM of them.
// step      from naive: a CTA reads each operand once for a whole tile of results, and input grad
//           goes by classes of the stride, so that no tap multiplies zeros. The rungs from here on
//           differ in their Tile: how operands get to shared memory and who multiplies.
#pragma once

#include "operands.cuh"

namespace convext::cuda {

template <class T, class Tile, class Operands>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks)
    fprop_gemm(ConvParams v, const T* __restrict__ input, const T* __restrict__ weight,
               const T* __restrict__ bias, T* __restrict__ output) {
  unsigned rest = blockIdx.x;
  const int lane0 = take(&rest, block_count(v.outputs, Tile::kN)) * Tile::kN;
  const int group = take(&rest, v.groups);
  const std::int64_t pixel0 = static_cast<std::int64_t>(rest) * Tile::kM;

  // What the rows read, and where their results go, -1 beyond the last.
  SHARED_ARRAY(TileRow, rows, [Tile::kM]);
  SHARED_ARRAY(std::int64_t, row_offset, [Tile::kM]);
  for (int row = static_cast<int>(threadIdx.x); row < Tile::kM; row += Tile::kThreads) {
    const bool in = pixel0 + row < static_cast<std::int64_t>(v.N) * v.P * v.Q;
    const Pixel at = pixel_at(pixel0 + row, v.by_P, v.by_Q);
    rows[row] = in ? fprop_row(v, at, group) : TileRow{-1, 0, 0};
    row_offset[row] = in ? offset_of(v.output, at.n, group * v.outputs, at.p, at.q) : -1;
  }
  __syncthreads();  // the rows are there

  typename Tile::Sums sums;
  Operands operands(v, rows, input, weight, group, lane0);
  Tile::multiply(operands, Operands::steps(v), &sums);

  // Epilogue.
  sums.for_each([&](int row) { return row_offset[row] < 0 ? nullptr : output + row_offset[row]; },
                [&](T* row, int lane, auto values) {
                  lane += lane0;
                  if (bias != nullptr) {
#pragma unroll
                    for (int e = 0; e < values.kCount; ++e) {
                      if (lane + e >= v.outputs) break;
                      values.element[e] += to_compute(bias[group * v.outputs + lane + e]);
                    }
                  }
                  store_lanes<Tile::kRagged>(row + lane, values, v.outputs - lane);
                });
}

// CTAs of a class: those of class (0, 0), which has the most pixels; some have nothing to do.
CONVEXT_HOST_DEVICE std::int64_t dgrad_pixel_blocks(const ConvParams& v, int rows) {
  return ceil_div(static_cast<std::int64_t>(v.N) * v.class_rows[0].d * v.class_columns[0].d, rows);
}

template <class T, class Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks)
    dgrad_gemm(ConvParams v, const T* __restrict__ grad_output, const T* __restrict__ weight,
               T* __restrict__ grad_input) {
  unsigned rest = blockIdx.x;
  const int lane0 = take(&rest, block_count(v.channels, Tile::kN)) * Tile::kN;
  const int group = take(&rest, v.groups);
  const auto pixel_blocks = static_cast<int>(dgrad_pixel_blocks(v, Tile::kM));
  const std::int64_t pixel0 = static_cast<std::int64_t>(take(&rest, pixel_blocks)) * Tile::kM;
  const int residue_w = take(&rest, residues(v.stride_w, v.W)), residue_h = static_cast<int>(rest);
  const ClassPixels pixels{
      axis_class(residue_h, v.H, v.R, v.stride_h, v.pad_top, v.dilation_h, v.tap_step_h),
      axis_class(residue_w, v.W, v.S, v.stride_w, v.pad_left, v.dilation_w, v.tap_step_w)};
  if (pixel0 >= v.N * pixels.in_image()) return;

  // What the rows read, and where their results go, -1 beyond the last.
  SHARED_ARRAY(TileRow, rows, [Tile::kM]);
  SHARED_ARRAY(std::int64_t, row_offset, [Tile::kM]);
  for (int row = static_cast<int>(threadIdx.x); row < Tile::kM; row += Tile::kThreads) {
    const bool in = pixel0 + row < v.N * pixels.in_image();
    const Pixel at = pixels.at(v, pixel0 + row);
    rows[row] = in ? dgrad_row(v, pixels, at, group) : TileRow{-1, 0, 0};
    row_offset[row] =
        in ? offset_of(v.input, at.n, group * v.channels, pixels.rows.residue + at.p * v.stride_h,
                       pixels.columns.residue + at.q * v.stride_w)
           : -1;
  }
  __syncthreads();  // the rows are there

  typename Tile::Sums sums;
  DgradOperands<T, Tile> operands(v, pixels, rows, grad_output, weight, group, lane0);
  const int slices = block_count(v.outputs, Tile::kK);
  Tile::multiply(operands, pixels.rows.taps * pixels.columns.taps * slices, &sums);

  // Epilogue.
  sums.for_each(
      [&](int row) { return row_offset[row] < 0 ? nullptr : grad_input + row_offset[row]; },
      [&](T* row, int lane, auto values) {
        lane += lane0;
        store_lanes<Tile::kRagged>(row + lane, values, v.channels - lane);
      });
}

// Sums lie as [split][k][tap][c], taps and lanes as Operands has them.
template <class T, class Tile, class Operands>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks)
    wgrad_gemm(ConvParams v, std::int64_t share, const T* __restrict__ grad_output,
               const T* __restrict__ input, Compute<T>* __restrict__ sums_of_splits) {
  const int taps = Operands::taps(v), lanes = Operands::lanes(v);
  unsigned rest = blockIdx.x;
  const int lane0 = take(&rest, block_count(lanes, Tile::kN)) * Tile::kN;
  const int tap = take(&rest, taps);
  const int row0 = take(&rest, block_count(v.outputs, Tile::kM)) * Tile::kM;
  const int group = take(&rest, v.groups);
  const std::int64_t split = rest, pixel0 = split * share;
  const std::int64_t pixels = static_cast<std::int64_t>(v.N) * v.P * v.Q - pixel0;
  const auto count = static_cast<int>(pixels < share ? pixels : share);

  typename Tile::Sums sums;
  Operands operands(v, grad_output, input, group, tap, row0, lane0, pixel0, count);
  Tile::multiply(operands, block_count(count, Tile::kK), &sums);

  // Epilogue.
  using Value = Compute<T>;
  sums.for_each(
      [&](int row) -> Value* {
        const int k = row0 + row;
        if (k >= v.outputs) return nullptr;
        return sums_of_splits + ((split * v.K + group * v.outputs + k) * taps + tap) * lanes;
      },
      [&](Value* row, int lane, const auto& values) {
        lane += lane0;
        store_lanes<true>(row + lane, values, lanes - lane);
      });
}

// grad_weight = the splits' sums, added in order: one thread an element.
template <class T>
__global__ void __launch_bounds__(256, 4)
    sum_splits(ConvParams v, int splits, const Compute<T>* __restrict__ sums,
               T* __restrict__ grad_weight) {
  std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const std::int64_t elements = static_cast<std::int64_t>(v.K) * v.R * v.S * v.channels;
  if (index >= elements) return;
  Compute<T> total = sums[index];
#pragma unroll 16  // loads that are under way together
  for (int split = 1; split < splits; ++split) total += sums[split * elements + index];
  const int c = v.by_channels.divide(&index), s = v.by_S.divide(&index), r = v.by_R.divide(&index);
  const int k = static_cast<int>(index);
  grad_weight[offset_of(v.weight, k, c, r, s)] = to_storage<T>(total);
}

}  // namespace convext::cuda
