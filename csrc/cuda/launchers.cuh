// How the rungs are started: grids, alignment, workspace; and the rows that each algorithm adds to
// the table. Those of groups are in group_launchers.cuh, Hopper's in wgmma_launch.cuh.
#pragma once

#include "bgrad.cuh"
#include "first_layer.cuh"
#include "implicit_gemm.cuh"
#include "ladder.h"
#include "launching.cuh"
#include "mma_tile.cuh"
#include "naive.cuh"
#include "simt_tile.cuh"

namespace convext::cuda {
namespace {

std::int64_t no_workspace(const ConvParams&) { return 0; }
bool anything(const ConvParams&, std::string*) { return true; }

// ---- naive --------------------------------------------------------------------------------------

template <class T>
void run_fprop_naive(const ConvParams& v, const Operands& o, void* stream) {
  const std::int64_t outputs = static_cast<std::int64_t>(v.N) * v.P * v.Q * v.K;
  launch(&fprop_naive<T>, ceil_div(outputs, kNaiveThreads), kNaiveThreads, 0,
         static_cast<cudaStream_t>(stream), v, static_cast<const T*>(o.input),
         static_cast<const T*>(o.weight), static_cast<const T*>(o.bias), static_cast<T*>(o.result));
}

template <class T>
void start_dgrad_naive(const ConvParams& v, const Part& part, const Operands& o, void* stream) {
  const std::int64_t inputs =
      static_cast<std::int64_t>(v.N) * part.rows.by_count.d * part.columns.by_count.d * v.C;
  launch(&dgrad_naive<T>, ceil_div(inputs, kNaiveThreads), kNaiveThreads, 0,
         static_cast<cudaStream_t>(stream), v, part, static_cast<const T*>(o.output),
         static_cast<const T*>(o.weight), static_cast<T*>(o.result));
}

Lines all_lines(int extent) { return {0, extent, 0, Divisor(extent)}; }

template <class T>
void run_dgrad_naive(const ConvParams& v, const Operands& o, void* stream) {
  start_dgrad_naive<T>(v, {all_lines(v.H), all_lines(v.W)}, o, stream);
}

// The border again where padding copies it: the kernels above know zeros alone in this pass. First
// the rows along the top and the bottom, then what is left of the columns along the sides.
template <class T>
void run_dgrad_border(const ConvParams& v, const Operands& o, void* stream) {
  if (v.padding_mode == PaddingMode::kZeros) return;
  // A reflection reaches one further than the padding is thick.
  const auto thickness = [](int before, int after, int extent) {
    const int most = before > after ? before : after;
    return most == 0 ? 0 : most + 1 < extent ? most + 1 : extent;
  };
  const int top = thickness(v.pad_top, v.pad_bottom, v.H);
  const int bottom = top < v.H - top ? top : v.H - top;
  const int left = thickness(v.pad_left, v.pad_right, v.W);
  const int right = left < v.W - left ? left : v.W - left;
  const auto ends = [](int first, int last, int extent) {
    return Lines{0, first, extent - first - last, Divisor(first + last)};
  };
  if (top > 0) {
    start_dgrad_naive<T>(v, {ends(top, bottom, v.H), all_lines(v.W)}, o, stream);
  }
  const int middle = v.H - top - bottom;
  if (left > 0 && middle > 0) {
    start_dgrad_naive<T>(v, {{top, middle, 0, Divisor(middle)}, ends(left, right, v.W)}, o, stream);
  }
}

template <class T>
void run_wgrad_naive(const ConvParams& v, const Operands& o, void* stream) {
  const std::int64_t weights = static_cast<std::int64_t>(v.K) * v.R * v.S * v.channels;
  launch(&wgrad_naive<T>, ceil_div(weights, kNaiveThreads), kNaiveThreads, 0,
         static_cast<cudaStream_t>(stream), v, static_cast<const T*>(o.output),
         static_cast<const T*>(o.input), static_cast<T*>(o.result));
}

template <class T>
void run_bgrad_naive(const ConvParams& v, const Operands& o, void* stream) {
  launch(&bgrad_naive<T>, ceil_div(v.K, kNaiveThreads), kNaiveThreads, 0,
         static_cast<cudaStream_t>(stream), v, static_cast<const T*>(o.output),
         static_cast<T*>(o.result));
}

// ---- implicit GEMM ------------------------------------------------------------------------------

// Whether a tensor's channels, of one group, come in whole aligned vectors.
bool is_aligned(const Strides& s, int channels, const void* data, int vector, std::size_t bytes) {
  return channels % vector == 0 && s.n % vector == 0 && s.h % vector == 0 && s.w % vector == 0 &&
         reinterpret_cast<std::uintptr_t>(data) % (static_cast<std::size_t>(vector) * bytes) == 0;
}

// The splits' sums in the workspace to the gradient of the weight.
template <class T>
void start_sum_splits(const ConvParams& v, int splits, const Operands& o, void* stream) {
  const std::int64_t weights = static_cast<std::int64_t>(v.K) * v.R * v.S * v.channels;
  launch(&sum_splits<T>, ceil_div(weights, 256), 256, 0, static_cast<cudaStream_t>(stream), v,
         splits, static_cast<const Compute<T>*>(o.workspace), static_cast<T*>(o.result));
}

// Tile is a template of whether chunks may be ragged.
template <class T, template <bool> class Tile>
struct Gemm {
  using Any = Tile<true>;

  template <class Chosen>
  static void start_fprop(const ConvParams& v, const Operands& o, void* stream) {
    const std::int64_t pixels = static_cast<std::int64_t>(v.N) * v.P * v.Q;
    launch_tile<Chosen>(&fprop_gemm<T, Chosen, FpropOperands<T, Chosen>>,
                        ceil_div(v.outputs, Any::kN) * v.groups * ceil_div(pixels, Any::kM), stream,
                        v, static_cast<const T*>(o.input), static_cast<const T*>(o.weight),
                        static_cast<const T*>(o.bias), static_cast<T*>(o.result));
  }
  static void run_fprop(const ConvParams& v, const Operands& o, void* stream) {
    const bool aligned = is_aligned(v.input, v.channels, o.input, Any::kVector, sizeof(T)) &&
                         is_aligned(v.weight, v.channels, o.weight, Any::kVector, sizeof(T)) &&
                         is_aligned(v.output, v.outputs, o.result, Any::kVector, sizeof(T));
    aligned ? start_fprop<Tile<false>>(v, o, stream) : start_fprop<Tile<true>>(v, o, stream);
  }

  template <class Chosen>
  static void start_dgrad(const ConvParams& v, const Operands& o, void* stream) {
    launch_tile<Chosen>(&dgrad_gemm<T, Chosen>,
                        ceil_div(v.channels, Any::kN) * v.groups * dgrad_pixel_blocks(v, Any::kM) *
                            residues(v.stride_h, v.H) * residues(v.stride_w, v.W),
                        stream, v, static_cast<const T*>(o.output), static_cast<const T*>(o.weight),
                        static_cast<T*>(o.result));
  }
  static void run_dgrad(const ConvParams& v, const Operands& o, void* stream) {
    const bool aligned = is_aligned(v.output, v.outputs, o.output, Any::kVector, sizeof(T)) &&
                         is_aligned(v.weight, v.channels, o.weight, Any::kVector, sizeof(T)) &&
                         is_aligned(v.input, v.channels, o.result, Any::kVector, sizeof(T));
    aligned ? start_dgrad<Tile<false>>(v, o, stream) : start_dgrad<Tile<true>>(v, o, stream);
    run_dgrad_border<T>(v, o, stream);
  }

  static std::int64_t wgrad_tiles(const ConvParams& v) {
    return ceil_div(v.channels, Any::kN) * v.R * v.S * ceil_div(v.outputs, Any::kM) * v.groups;
  }
  static std::int64_t wgrad_workspace(const ConvParams& v) {
    return static_cast<std::int64_t>(sizeof(Compute<T>)) * split_pixels(v, wgrad_tiles(v)).count *
           v.K * v.R * v.S * v.channels;
  }
  template <class Chosen>
  static void start_wgrad(const ConvParams& v, const Shares& splits, const Operands& o,
                          void* stream) {
    launch_tile<Chosen>(&wgrad_gemm<T, Chosen, WgradOperands<T, Chosen>>,
                        wgrad_tiles(v) * splits.count, stream, v, splits.size,
                        static_cast<const T*>(o.output), static_cast<const T*>(o.input),
                        static_cast<Compute<T>*>(o.workspace));
  }
  static void run_wgrad(const ConvParams& v, const Operands& o, void* stream) {
    const bool aligned = is_aligned(v.output, v.outputs, o.output, Any::kVector, sizeof(T)) &&
                         is_aligned(v.input, v.channels, o.input, Any::kVector, sizeof(T));
    const Shares splits = split_pixels(v, wgrad_tiles(v));
    aligned ? start_wgrad<Tile<false>>(v, splits, o, stream)
            : start_wgrad<Tile<true>>(v, splits, o, stream);
    start_sum_splits<T>(v, splits.count, o, stream);
  }
};

// ---- first layers -------------------------------------------------------------------------------

bool first_layer(const ConvParams& v, std::string* why) {
  if (v.weight.c != 1 && v.channels > 1) return refuse(why, "needs channels that are adjacent");
  if (v.output.c != 1 && v.K > 1) return refuse(why, "needs channels that are adjacent");
  if (v.C <= kMostFirstChannels && v.S > kMostFirstRow / kMostFirstChannels) {
    return refuse(why, "needs a narrower kernel");
  }
  if (v.groups == 1 && v.C <= kMostFirstChannels) return true;
  return refuse(why, "needs at most 4 input channels in one group");
}

template <class T, template <bool> class Tile>
struct FirstLayer {
  using Any = Tile<true>;

  template <class Chosen>
  static void start_fprop(const ConvParams& v, const Operands& o, void* stream) {
    const std::int64_t pixels = static_cast<std::int64_t>(v.N) * v.P * v.Q;
    launch_tile<Chosen>(&fprop_gemm<T, Chosen, FirstFpropOperands<T, Chosen>>,
                        ceil_div(v.K, Any::kN) * ceil_div(pixels, Any::kM), stream, v,
                        static_cast<const T*>(o.input), static_cast<const T*>(o.weight),
                        static_cast<const T*>(o.bias), static_cast<T*>(o.result));
  }
  static void run_fprop(const ConvParams& v, const Operands& o, void* stream) {
    is_aligned(v.output, v.K, o.result, Any::kVector, sizeof(T))
        ? start_fprop<Tile<false>>(v, o, stream)
        : start_fprop<Tile<true>>(v, o, stream);
  }

  static std::int64_t wgrad_tiles(const ConvParams& v) {
    return ceil_div(static_cast<std::int64_t>(v.S) * v.C, Any::kN) * v.R * ceil_div(v.K, Any::kM);
  }
  static std::int64_t wgrad_workspace(const ConvParams& v) {
    return static_cast<std::int64_t>(sizeof(Compute<T>)) * split_pixels(v, wgrad_tiles(v)).count *
           v.K * v.R * v.S * v.C;
  }
  template <class Chosen>
  static void start_wgrad(const ConvParams& v, const Shares& splits, const Operands& o,
                          void* stream) {
    launch_tile<Chosen>(&wgrad_gemm<T, Chosen, FirstWgradOperands<T, Chosen>>,
                        wgrad_tiles(v) * splits.count, stream, v, splits.size,
                        static_cast<const T*>(o.output), static_cast<const T*>(o.input),
                        static_cast<Compute<T>*>(o.workspace));
  }
  static void run_wgrad(const ConvParams& v, const Operands& o, void* stream) {
    const Shares splits = split_pixels(v, wgrad_tiles(v));
    is_aligned(v.output, v.K, o.output, Any::kVector, sizeof(T))
        ? start_wgrad<Tile<false>>(v, splits, o, stream)
        : start_wgrad<Tile<true>>(v, splits, o, stream);
    start_sum_splits<T>(v, splits.count, o, stream);
  }
};

// ---- the bias -----------------------------------------------------------------------------------

Shares bgrad_splits(const ConvParams& v) { return split_pixels(v, ceil_div(v.K, kBgradChannels)); }

template <class T>
std::int64_t bgrad_workspace(const ConvParams& v) {
  return static_cast<std::int64_t>(sizeof(Compute<T>)) * bgrad_splits(v).count * v.K;
}

template <class T>
void run_bgrad(const ConvParams& v, const Operands& o, void* stream) {
  const Shares splits = bgrad_splits(v);
  const bool planes = v.output.w == 1 && v.output.c != 1;
  const std::int64_t blocks = splits.count * (planes ? v.K : ceil_div(v.K, kBgradChannels));
  const auto on = static_cast<cudaStream_t>(stream);
  auto* sums = static_cast<Compute<T>*>(o.workspace);
  launch(planes ? &bgrad_planes<T> : &bgrad_channels<T>, blocks, kBgradThreads, 0, on, v,
         splits.size, static_cast<const T*>(o.output), sums);
  launch(&sum_chunks<T>, ceil_div(v.K, 256), 256, 0, on, static_cast<std::int64_t>(v.K),
         splits.count, static_cast<const Compute<T>*>(sums), std::int64_t{1},
         static_cast<T*>(o.result));
}

template <bool Ragged>
using SimtF32 = SimtTile<float, 8, 8, 8, Ragged>;
template <bool Ragged>
using SimtF32Small = SimtTile<float, 4, 4, 16, Ragged>;
template <bool Ragged>
using SimtF64 = SimtTile<double, 4, 4, 8, Ragged>;
template <bool Ragged>
using SimtBf16 = SimtTile<__nv_bfloat16, 4, 4, 16, Ragged>;
template <bool Ragged>
using MmaF16 = MmaTile<__half, 4, 2, 2, 8, 3, Ragged>;
template <bool Ragged>
using MmaBf16 = MmaTile<__nv_bfloat16, 4, 2, 2, 8, 3, Ragged>;
template <bool Ragged>
using MmaTf32 = MmaTile<float, 4, 2, 2, 8, 3, Ragged>;
template <bool Ragged>
using MmaF64 = MmaTile<double, 2, 2, 2, 4, 4, Ragged>;
template <bool Ragged>
using MmaF16Small = MmaTile<__half, 2, 2, 2, 4, 4, Ragged>;
template <bool Ragged>
using MmaBf16Small = MmaTile<__nv_bfloat16, 2, 2, 2, 4, 4, Ragged>;

// ---- the table ----------------------------------------------------------------------------------

template <class T>
void add_naive(std::vector<Rung>* rungs) {
  rungs->push_back({std::string("bgrad_rowsum_") + Named<T>::name + "_any", Pass::kBgrad, "rowsum",
                    Named<T>::dtype, 0, 0, 0, 75, false, false, true, &anything,
                    &bgrad_workspace<T>, &run_bgrad<T>});
  const auto add = [&](Pass pass, auto run) {
    rungs->push_back({std::string(pass_name(pass)) + "_naive_" + Named<T>::name + "_any", pass,
                      "naive", Named<T>::dtype, 0, 0, 0, 75, false, false, true, &anything,
                      &no_workspace, run});
  };
  add(Pass::kFprop, &run_fprop_naive<T>);
  add(Pass::kDgrad, &run_dgrad_naive<T>);
  add(Pass::kWgrad, &run_wgrad_naive<T>);
  add(Pass::kBgrad, &run_bgrad_naive<T>);
}

template <class T, template <bool> class Tile>
void add_gemm(const char* algorithm, int least_capability, bool rounds_to_tf32,
              std::vector<Rung>* rungs) {
  using Any = Tile<true>;
  const auto add = [&](Pass pass, auto workspace, auto run) {
    rungs->push_back({std::string(pass_name(pass)) + "_" + algorithm + "_" + Named<T>::name +
                          "_nhwc_" + std::to_string(Any::kM) + "x" + std::to_string(Any::kN),
                      pass, algorithm, Named<T>::dtype, Any::kM, Any::kN, Any::kK, least_capability,
                      rounds_to_tf32, true, false, &channels_adjacent, workspace, run});
  };
  add(Pass::kFprop, &no_workspace, &Gemm<T, Tile>::run_fprop);
  add(Pass::kDgrad, &no_workspace, &Gemm<T, Tile>::run_dgrad);
  add(Pass::kWgrad, &Gemm<T, Tile>::wgrad_workspace, &Gemm<T, Tile>::run_wgrad);
}

template <class T, template <bool> class Tile>
void add_first_layer(const char* algorithm, int least_capability, bool rounds_to_tf32,
                     std::vector<Rung>* rungs) {
  using Any = Tile<true>;
  const auto add = [&](Pass pass, auto workspace, auto run) {
    rungs->push_back({std::string(pass_name(pass)) + "_" + algorithm + "_" + Named<T>::name +
                          "_nhwc_" + std::to_string(Any::kM) + "x" + std::to_string(Any::kN),
                      pass, algorithm, Named<T>::dtype, Any::kM, Any::kN, Any::kK, least_capability,
                      rounds_to_tf32, true, true, &first_layer, workspace, run});
  };
  add(Pass::kFprop, &no_workspace, &FirstLayer<T, Tile>::run_fprop);
  add(Pass::kWgrad, &FirstLayer<T, Tile>::wgrad_workspace, &FirstLayer<T, Tile>::run_wgrad);
}

}  // namespace

void run_sum_splits(DType dtype, const ConvParams& params, int splits, const Operands& operands,
                    void* stream) {
  switch (dtype) {
    case DType::kFloat16: return start_sum_splits<__half>(params, splits, operands, stream);
    case DType::kBFloat16: return start_sum_splits<__nv_bfloat16>(params, splits, operands, stream);
    default: return start_sum_splits<float>(params, splits, operands, stream);
  }
}

}  // namespace convext::cuda
