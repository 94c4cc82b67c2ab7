// The kernels of one instruction set, as the drivers see them: plain functions over raw pointers.
// T is the compute type, float32 or float64; 16-bit storage is converted while packing.
#pragma once

#include <cstdint>

#include "../dtype.h"

namespace convext {

// No tile has more rows than this.
inline constexpr int kMostMr = 16;
// Nor a strip more vectors of lanes.
inline constexpr int kMostStripVectors = 12;
// Terms that are summed in one chain, or nearly twice as many. See chains.h.
inline constexpr std::int64_t kChainTerms = 256;

// fprop_indirect, dgrad_indirect, fprop_im2col: one register tile. See gemm_indirect.h;
// gemm_pairs.h where X, what rows and weights are stored in, is bfloat16.
template <class T, class X = T>
struct GemmTile {
  const X* const* x;        // [entries][mr]: where each tap finds each row's values
  const std::int32_t* tap;  // [entries]: which tap's weights an entry uses
  std::int64_t entries;
  std::int64_t x_offset;  // added to every pointer in x: the group's first channel
  std::int64_t depth;     // channels summed over
  // Entries whose tap / chain_taps is the same are summed in one chain, if depth is not longer than
  // that already.
  std::int32_t chain_taps;
  const X* panel;  // [taps][depth][nr] packed weights; of pairs [taps][depth / 2][nr][2]
  const T* bias;   // [nr], or [mr] if bias_by_row; zeros where there is none
  bool bias_by_row;
  T* const* y;            // [mr]: where each row's results go
  std::int64_t y_offset;  // added to every pointer in y
};

// fprop_direct, dgrad_direct: one register tile. See direct_channels.h.
template <class T>
struct DirectTile {
  const T* const* x;           // [entries]: the first pixel of the row
  const std::int64_t* weight;  // [entries]: where its weights begin in the panel
  std::int64_t entries;
  std::int64_t x_offset;    // added to every pointer in x: the tile's first pixel, the group
  std::int64_t pixel_step;  // between neighbouring pixels' sources
  std::int64_t run;         // elements summed over in one entry
  const T* panel;           // [..][nr] packed weights
  const T* bias;            // [nr]; zeros where there is none
  T* y;                     // the first pixel's results
  std::int64_t y_step;
};

// fprop_direct_planes, dgrad_direct_planes: one register tile. See direct_planes.h.
inline constexpr int kMostPlaneVectors = 4;  // of columns
template <class T>
struct DirectPlaneTile {
  const T* const* x;           // [entries]: the first column of the row
  const std::int64_t* weight;  // [entries]: where its weights begin in the panel
  std::int64_t entries;
  std::int64_t x_offset;  // added to every pointer in x: the tile's first column, the group
  std::int64_t depth;     // planes summed over in one entry
  std::int64_t plane_stride;
  std::int64_t weight_step;  // between the weights of neighbouring planes
  const T* panel;            // [..][weight_step] packed weights
  const T* bias;             // [mr]
  T* y;                      // the first channel's results
  std::int64_t y_step;
};

// fprop_pointwise, dgrad_pointwise, dgrad_axpy: some rows of a product of matrices, `lanes` columns
// of it. See gemm_strip.h.
template <class T>
struct MatrixStrip {
  const T* a;  // [rows][depth], each element on its own
  std::int64_t a_row, a_depth;
  const T* b;  // [depth][lanes], in vectors
  std::int64_t b_depth;
  T* copy;  // null, or where to leave b's part in whole vectors, [depth][lanes rounded up]
  T* y;     // [rows][lanes]
  std::int64_t y_row;
  std::int64_t rows, depth, lanes;
  const T* bias;  // [lanes], or [rows] if bias_by_row; null where there is none
  bool bias_by_row;
  bool add;  // to what y holds
  // What comes after, which memory is asked for in advance: a strip's lanes each step of depth,
  // or null; and, as distances in elements, more of a's rows and y's.
  const T* ahead;
  std::int64_t ahead_step, ahead_of_a, ahead_row, ahead_of_y;
};

// fprop_dot: products of rows with rows. See gemm_dot.h.
template <class T>
struct DotTile {
  const T* x;  // [pixels][depth]
  std::int64_t x_pixel;
  const void* weight;  // [outputs][depth], of any storage type
  DType weight_dtype;
  std::int64_t weight_output;  // stride, in elements
  std::int64_t pixels, outputs, depth;
  const T* bias;  // [outputs], or null
  T* y;
  std::int64_t y_pixel, y_output;
};

// fprop_grouped, dgrad_grouped: one or two vectors of output channels. See grouped_strip.h.
struct GroupBlock {
  std::int64_t destination, source;  // first channels
  std::int64_t panel;                // of a tap's weights: [depth][vectors][lanes]
  int vectors;
};

// Lines of memory that a later call will be the first to read: asked for in the order of their
// addresses while calls compute, so many with each block of a tile.
struct LinesAhead {
  static constexpr std::int64_t kLine = 64;  // bytes

  const char* next = nullptr;
  const char* end = nullptr;
  std::int64_t a_block = 0;  // bytes
  std::int64_t a_tap = 0;    // lines, of a block's
};

// fprop_depthwise, dgrad_depthwise, fprop_grouped, dgrad_grouped: tiles of mr neighbouring columns
// of one destination row. See depthwise_strip.h and grouped_strip.h.
template <class T>
struct DepthwiseStrip {
  const T* const* x;       // [rows]: source rows
  const T* const* weight;  // [rows]: the weights of their kernel rows, [taps][channels]
  std::int64_t rows, taps;
  std::int64_t x_offset;          // in every source row, of the first column's first tap
  std::int64_t weight_offset;     // of the first tap
  std::int64_t tap_step, x_step;  // in x, of taps and of columns
  std::int64_t weight_step;       // of taps
  std::int64_t first, last;       // channels, or blocks
  const T* bias;                  // [channels]; zeros where there is none
  T* y;                           // the first column, channel 0
  std::int64_t y_step;            // of columns
  std::int64_t tiles;             // of mr columns each
  // Grouped: blocks, input channels of a group, vectors of the largest block; if a vector holds
  // several groups, the channels of one, else 0.
  const GroupBlock* blocks;
  std::int64_t depth;
  int vectors, spread;
  LinesAhead* ahead;  // of the next destination row
  bool stream;        // results go past the caches; whole lines of them, which y begins
};

// wgrad_outer: one register tile of grad_weight over runs of pixels. See wgrad_outer.h.
template <class T>
struct PixelRun {
  const T* grad;  // first pixel
  const T* x;     // first pixel, first lane of the tile
  std::int64_t pixels;
};
template <class T>
struct OuterTile {
  const PixelRun<T>* runs;
  std::int64_t run_count;
  std::int64_t grad_offset;  // added to every `grad`: the tile's first output channel
  std::int64_t x_offset;     // added to every `x`: the tile's first lane
  std::int64_t grad_stride;  // from pixel to pixel or, for `outer_planes`, from channel to channel
  std::int64_t x_pixel_stride;
  T* sum;  // [mr][sum_stride]
  std::int64_t sum_stride;
  bool add;  // to what `sum` holds; otherwise it is overwritten
  // What a later call will read: brought nearer while this one multiplies, a step each pixel.
  const char* prefetch;
  std::int64_t prefetch_step;
};

// wgrad_depthwise, wgrad_grouped: taps of up to three kernel rows. See wgrad_depthwise.h and
// wgrad_grouped.h.
template <class T>
struct DepthwiseRun {
  const T* grad;  // the first pixel's, channel 0
  const T* x[3];  // the first pixel's first tap, for each kernel row
  std::int64_t pixels;
};
template <class T>
struct DepthwiseOuterTile {
  const DepthwiseRun<T>* runs;
  std::int64_t run_count;
  std::int64_t grad_step, x_step, tap_step;  // of pixels, of pixels and of taps
  std::int64_t first, last;                  // places in `sum`, whole vectors
  std::int64_t channels;                     // of x and grad; a last vector ends with the last
  T* sum;                                    // [row][tap][output][place], added to
  std::int64_t sum_row_stride, sum_tap_stride, sum_output_stride;
};

// fprop_grouped_planes, dgrad_grouped_planes, wgrad_grouped_planes: channels that are planes. See
// grouped_planes.h.
template <class T>
struct PlaneTile {
  const T* x;
  const std::int64_t* offset;  // [taps]: from a position to its source in x
  std::int64_t taps;           // over all source channels
  const T* weight;             // [taps][channels]
  const T* bias;               // [channels]
  T* y;                        // [channels][y_stride]
  std::int64_t y_stride;
  std::int64_t count;  // positions; y is written up to a whole vector
};
inline constexpr int kMostPlaneTaps = 9;  // of one call of planes_outer with one channel
template <class T>
struct PlaneOuterTile {
  const T* grad;  // [channels][grad_stride]: zeros between the rows
  std::int64_t grad_stride;
  const T* x;
  const std::int64_t* offset;  // [taps]
  std::int64_t count;          // positions, in whole vectors
  T* sum;                      // [channels][sum_stride], of which [taps][lanes] is added to
  std::int64_t sum_stride;
};

// Winograd's transforms: of tiles with (m+2)^2 inputs and points and m x m results, and with stride
// 2 as winograd_polyphase.h has them. See winograd_tiles.h.
template <class T>
struct WinogradInput {
  const T* const* x;  // [inputs], row by row: each pixel's channels
  std::int64_t channels;
  T* v;  // [points][point_stride]
  std::int64_t point_stride;
};
template <class T>
struct WinogradFilters {
  const T* taps;  // [9][tap_stride]
  std::int64_t tap_stride;
  std::int64_t count;  // a multiple of the vector length
  T* u;                // [filters][point_stride]
  std::int64_t point_stride;
};
// The sums of one point: y[tile][lane] = sum over d of x[tile][d] * panel[d][lane].
template <class T>
struct WinogradSums {
  const T* x;  // [tiles][x_stride]
  std::int64_t x_stride;
  std::int64_t tiles, depth;
  const T* panel;  // [depth][nr]
  const T* next;   // the panel that is wanted next
  T* y;            // [tiles][y_stride]
  std::int64_t y_stride;
};
template <class T>
struct WinogradOutput {
  const T* m;  // [points][point_stride], padded to whole vectors
  std::int64_t point_stride;
  std::int64_t channels;
  const T* bias;  // as long as m; zeros where there is none
  T* y;
  std::int64_t row_stride, column_stride;
  int rows, columns;            // of the tile's results those before here exist
  int first_row, first_column;  // and those from here on; the first one that exists is stored to y
};
template <class T>
struct WinogradGradFilters {
  const T* d;  // [filters][point_stride]
  std::int64_t point_stride;
  std::int64_t count;  // a multiple of the vector length
  T* taps;             // [9][tap_stride]
  std::int64_t tap_stride;
};
template <class T>
struct WinogradKernels {
  void (*input)(const WinogradInput<T>& tile);
  void (*filter)(const WinogradFilters<T>& filters);
  void (*output)(const WinogradOutput<T>& tile);
  // Weight grad: the gradient's tiles of m x m pixels, and the sums. See winograd_wgrad.h.
  void (*grad)(const WinogradInput<T>& tile);
  void (*grad_filter)(const WinogradGradFilters<T>& filters);
};

// pack.h: a block of `rows` x `columns` elements at any strides, to or from compute type.
struct StridedBlock {
  void* data;
  DType dtype;
  std::int64_t row_stride, column_stride;  // elements
};

template <class T>
struct ComputeKernels {
  int lanes;  // of one vector
  void (*gemm)(const GemmTile<T>& tile, int mr, int vectors);
  void (*direct)(const DirectTile<T>& tile, int mr, int vectors);
  void (*direct_planes)(const DirectPlaneTile<T>& tile, int mr, int vectors);
  void (*depthwise)(const DepthwiseStrip<T>& strip, int mr);
  void (*strip)(const MatrixStrip<T>& strip);
  void (*dot)(const DotTile<T>& tile);
  void (*outer_planes)(const OuterTile<T>& tile, int mr, int vectors);  // pixels adjacent in grad
  void (*outer_pixels)(const OuterTile<T>& tile, int mr, int vectors);  // channels adjacent
  // Rows of channels to tiles of the outer kernels' mr channels; see wgrad_outer.h.
  void (*pack_outer_rows)(const StridedBlock& source, std::int64_t pixels, std::int64_t channels,
                          T* destination, std::int64_t tile_stride);
  void (*grouped)(const DepthwiseStrip<T>& strip, int mr);
  void (*depthwise_outer)(const DepthwiseOuterTile<T>& tile, int rows, int taps);
  void (*grouped_outer)(const DepthwiseOuterTile<T>& tile, int group, int rows, int taps);
  void (*planes)(const PlaneTile<T>& tile, int channels);
  void (*planes_outer)(const PlaneOuterTile<T>& tile, int channels, int taps);
  // Columns are cut into tiles; each tile's rows follow each other:
  // destination[column / tile * tile_stride + row * ld + column % tile] = source, with zeros in the
  // last tile beyond `columns`.
  void (*pack)(const StridedBlock& source, std::int64_t rows, std::int64_t columns,
               std::int64_t tile, T* destination, std::int64_t ld, std::int64_t tile_stride);
  // Planes of adjacent pixels to rows of pixels: destination[pixel * ld + pixel / width * gap +
  // plane] = source[plane * plane_stride + pixel].
  void (*pack_planes)(const void* source, DType dtype, std::int64_t plane_stride,
                      std::int64_t pixels, std::int64_t width, std::int64_t planes, T* destination,
                      std::int64_t ld, std::int64_t gap);
  // destination = source[row * ld + column].
  void (*unpack)(const T* source, std::int64_t ld, std::int64_t rows, std::int64_t columns,
                 const StridedBlock& destination);
  // destination = source, past the caches.
  void (*stream_copy)(const T* source, std::int64_t count, T* destination);
  // A row's columns to its phases modulo `step`, `pitch` elements apart, and back
  // (direct_planes.h).
  void (*split_phases)(const T* from, std::int64_t count, std::int64_t step, T* to,
                       std::int64_t pitch);
  void (*join_phases)(const T* from, std::int64_t pitch, std::int64_t step, std::int64_t count,
                      T* to);
  // sum[column] += the sum of the rows, for columns that are a multiple of the vector length.
  void (*add_rows)(const T* rows, std::int64_t count, std::int64_t columns, std::int64_t ld,
                   double* sum);
  void (*winograd_sums)(const WinogradSums<T>& sums, int vectors);
  WinogradKernels<T> winograd2, winograd4, polyphase2, polyphase4;
  WinogradKernels<T> polyphase2_grad, polyphase4_grad;  // of input grad
};

// Products of pairs of bfloat16, summed in float32. See gemm_pairs.h and pack_pairs.h.
struct PairKernels {
  void (*gemm)(const GemmTile<float, BFloat16>& tile, int mr, int vectors);
  // As ComputeKernels::pack, of bfloat16 and to it.
  void (*pack)(const StridedBlock& source, std::int64_t rows, std::int64_t columns,
               std::int64_t tile, BFloat16* destination, std::int64_t ld, std::int64_t tile_stride);
  // destination[row / 2][column][row % 2] = source, in rows of `width` columns, a multiple of the
  // vector length; with zeros for columns beyond `columns` and for what the last row lacks to a
  // pair.
  void (*pack_pairs)(const StridedBlock& source, std::int64_t rows, std::int64_t columns,
                     std::int64_t width, BFloat16* destination);
};

// What packs rows of T.
template <class T>
struct RowKernelsOf {
  using Type = ComputeKernels<T>;
};
template <>
struct RowKernelsOf<BFloat16> {
  using Type = PairKernels;
};
template <class T>
using RowKernels = typename RowKernelsOf<T>::Type;

// Vectors that fma_peak keeps in flight.
inline constexpr int kPeakSums = 12;

struct IsaKernels {
  ComputeKernels<float> f32;
  ComputeKernels<double> f64;
  // rounds * kPeakSums FMAs of a vector each. See fma_peak.h.
  double (*fma_peak_f32)(std::int64_t rounds);
  double (*fma_peak_f64)(std::int64_t rounds);
};

extern const IsaKernels kKernelsGeneric;
extern const IsaKernels kKernelsAvx2;
extern const IsaKernels kKernelsAvx512;
extern const PairKernels kPairKernelsAvx512Bf16;

}  // namespace convext
