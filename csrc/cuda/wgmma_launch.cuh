// How the wgmma rungs are started: what the hardware's copies are told, and whether they can do it;
// how work is cut; and their rows of the table.
#pragma once

#include <algorithm>

#include "encode_map.h"
#include "launching.cuh"
#include "tensor_map.h"
#include "wgmma_data.cuh"
#include "wgmma_weight.cuh"

namespace convext::cuda {
namespace {

// ---- what copies are told -----------------------------------------------------------------------

// A tensor of pixels with adjacent channels.
struct PixelTensor {
  const void* data;
  DType dtype;
  int images, channels, rows, columns;
  Strides strides;
  std::int64_t pixels() const { return static_cast<std::int64_t>(images) * rows * columns; }
};

// Whether the pixels that a class reads are all of the tensor's in order, evenly spaced: then a plain
// matrix describes them.
bool is_matrix(const PixelTensor& t, const TapClass& of) {
  const auto whole = [](const TapAxis& axis, int extent) {
    return axis.taps == 1 && axis.start == 0 && axis.step == 1 && axis.offset == 0 &&
           axis.count == extent;
  };
  return whole(of.rows, t.rows) && whole(of.columns, t.columns) &&
         pixel_pitch(t.strides, t.images, t.rows, t.columns) != 0;
}

MapSpec matrix_map(const PixelTensor& t, int channels, int pixels, int swizzle) {
  const std::int64_t element = bytes_of(t.dtype);
  MapSpec spec;
  spec.base = t.data;
  spec.dtype = t.dtype;
  spec.rank = 2;
  spec.size[0] = t.channels;
  spec.size[1] = t.pixels();
  // The one pixel of a tensor may have any stride.
  spec.stride[1] = t.pixels() > 1
                       ? pixel_pitch(t.strides, t.images, t.rows, t.columns) * element
                       : t.channels * element;
  spec.swizzle = swizzle;
  spec.box[0] = channels;
  spec.box[1] = pixels;
  return spec;
}

// `pixels` pixels of a class, in the order of the result's, and `channels` channels of each.
MapSpec pixel_map(const PixelTensor& t, const TapClass& of, int channels, int pixels) {
  const std::int64_t element = bytes_of(t.dtype);
  if (is_matrix(t, of)) {
    return matrix_map(t, channels, pixels, channels * static_cast<int>(element));
  }
  MapSpec spec;
  spec.base = t.data;
  spec.dtype = t.dtype;
  spec.rank = 4;
  spec.im2col = true;
  spec.size[0] = t.channels;
  spec.size[1] = t.columns;
  spec.size[2] = t.rows;
  spec.size[3] = t.images;
  const std::int64_t strides[4] = {1, t.strides.w, t.strides.h, t.strides.n};
  for (int i = 1; i < 4; ++i) {
    spec.stride[i] =
        spec.size[i] > 1
            ? strides[i] * element
            : std::max<std::int64_t>(spec.stride[i - 1] * spec.size[i - 1], t.channels * element);
  }
  const TapAxis* const axes[2] = {&of.columns, &of.rows};
  for (int i = 0; i < 2; ++i) {
    const TapAxis& axis = *axes[i];
    spec.lower[i] = axis.start;
    // The box ends with the last pixel's.
    spec.upper[i] =
        axis.start + (axis.count - 1) * axis.step - (static_cast<int>(spec.size[i + 1]) - 1);
    spec.step[i] = axis.step;
  }
  spec.channels = channels;
  spec.pixels = pixels;
  spec.swizzle = channels * static_cast<int>(element);
  return spec;
}

// [outputs][taps][channels of a group]
MapSpec weight_map(const ConvParams& v, DType dtype, const void* data, int channels, int outputs) {
  const std::int64_t element = bytes_of(dtype);
  MapSpec spec;
  spec.base = data;
  spec.dtype = dtype;
  spec.rank = 3;
  spec.size[0] = v.channels;
  spec.size[1] = static_cast<std::int64_t>(v.R) * v.S;
  spec.size[2] = v.K;
  spec.stride[1] = (v.S > 1 ? v.weight.w : v.R > 1 ? v.weight.h : v.channels) * element;
  spec.stride[2] = (v.K > 1 ? v.weight.n : v.channels * spec.size[1]) * element;
  spec.box[0] = channels;
  spec.box[2] = outputs;
  spec.swizzle = channels * static_cast<int>(element);
  return spec;
}

PixelTensor input_of(const ConvParams& v, DType dtype, const void* data) {
  return {data, dtype, v.N, v.C, v.H, v.W, v.input};
}
PixelTensor output_of(const ConvParams& v, DType dtype, const void* data) {
  return {data, dtype, v.N, v.K, v.P, v.Q, v.output};
}

TapClass fprop_class(const ConvParams& v) {
  TapClass all;
  all.rows = fprop_axis(v.P, v.R, v.stride_h, v.pad_top, v.dilation_h);
  all.columns = fprop_axis(v.Q, v.S, v.stride_w, v.pad_left, v.dilation_w);
  return all;
}

// Those of the most taps first, so that the last tiles are short.
std::vector<TapClass> dgrad_classes(const ConvParams& v) {
  std::vector<TapClass> classes;
  for (int h = 0; h < residues(v.stride_h, v.H); ++h) {
    for (int w = 0; w < residues(v.stride_w, v.W); ++w) {
      TapClass one;
      one.rows = dgrad_axis(
          axis_class(h, v.H, v.R, v.stride_h, v.pad_top, v.dilation_h, v.tap_step_h), v.tap_step_h,
          v.output_step_h, v.stride_h);
      one.columns = dgrad_axis(
          axis_class(w, v.W, v.S, v.stride_w, v.pad_left, v.dilation_w, v.tap_step_w), v.tap_step_w,
          v.output_step_w, v.stride_w);
      classes.push_back(one);
    }
  }
  std::stable_sort(classes.begin(), classes.end(),
                   [](const TapClass& a, const TapClass& b) { return a.taps() > b.taps(); });
  // Without taps, only zeros are read: from anywhere that the first class may read.
  for (TapClass& of : classes) {
    if (of.taps() > 0) continue;
    for (auto axis : {&TapClass::rows, &TapClass::columns}) {
      (of.*axis).taps = 0;
      (of.*axis).start = (classes[0].*axis).start;
      (of.*axis).step = (of.*axis).offset = 0;
    }
  }
  return classes;
}

// ---- whether they can ---------------------------------------------------------------------------

bool accepts(const MapSpec& spec, const TapClass& of, std::string* why) {
  if (const char* objection = map_objection(spec)) return refuse(why, objection);
  const auto offset = [](const TapAxis& axis) {
    return std::max(axis.offset, axis.offset + (axis.taps - 1) * axis.offset_step);
  };
  if (spec.im2col && std::max(offset(of.rows), offset(of.columns)) > kMostMapOffset) {
    return refuse(why, "needs taps within 255 of each other");
  }
  return true;
}

// What all passes need.
bool wgmma_basics(const ConvParams& v, std::string* why) {
  if (!channels_adjacent(v, why)) return false;
  if (v.padding_mode != PaddingMode::kZeros) return refuse(why, "needs padding of zeros");
  if (!v.aligned) return refuse(why, "needs tensors that begin at multiples of 16 bytes");
  if (v.channels % 8 != 0 || v.outputs % 8 != 0) {
    return refuse(why, "needs channels and outputs, of a group, in eights");
  }
  if (v.groups > 1 && (v.channels % 64 != 0 || v.outputs % 64 != 0)) {
    return refuse(why, "needs channels and outputs of a group in 64s");
  }
  // A channel alone has no stride to be adjacent by.
  if (v.S > 1 && v.R > 1 && v.weight.h != v.S * v.weight.w) {
    return refuse(why, "needs taps that are evenly spaced in memory");
  }
  const std::int64_t inputs = static_cast<std::int64_t>(v.N) * v.H * v.W;
  const std::int64_t outputs = static_cast<std::int64_t>(v.N) * v.P * v.Q;
  constexpr std::int64_t kMostPixels = std::int64_t{1} << 30;
  if (inputs > kMostPixels || outputs > kMostPixels) {
    return refuse(why, "needs at most 2**30 pixels");
  }
  return true;
}

ConvParams viewed(const ConvParams& v, Pass pass) { return folds(v, pass) ? folded(v) : v; }

bool can_fprop(const ConvParams& params, std::string* why) {
  if (!wgmma_basics(params, why)) return false;
  const ConvParams v = viewed(params, Pass::kFprop);
  const TapClass all = fprop_class(v);
  const int slice = slice_of(v.channels);
  return accepts(pixel_map(input_of(v, DType::kFloat16, nullptr), all, slice, 256), all, why) &&
         accepts(weight_map(v, DType::kFloat16, nullptr, slice, 64), all, why) &&
         accepts(matrix_map({nullptr, DType::kFloat16, 1, v.K, 1, 1, {}}, 64, 64, 128), all, why);
}

bool can_dgrad(const ConvParams& params, std::string* why) {
  if (!wgmma_basics(params, why)) return false;
  const ConvParams v = viewed(params, Pass::kDgrad);
  const std::vector<TapClass> classes = dgrad_classes(v);
  if (classes.size() > kMostClasses) return refuse(why, "needs a stride of at most 16 classes");
  if (classes[0].taps() == 0) return refuse(why, "needs a tap that reaches the image");
  const int slice = slice_of(v.outputs);
  for (const TapClass& of : classes) {
    if (of.taps() == 0) continue;
    if (!accepts(pixel_map(output_of(v, DType::kFloat16, nullptr), of, slice, 256), of, why)) {
      return false;
    }
  }
  return accepts(weight_map(v, DType::kFloat16, nullptr, 64, slice), {}, why);
}

bool can_wgrad(const ConvParams& params, std::string* why) {
  if (!wgmma_basics(params, why)) return false;
  const ConvParams v = viewed(params, Pass::kWgrad);
  const TapClass all = fprop_class(v);
  TapClass each;  // an output's own pixels
  each.rows = fprop_axis(v.P, 1, 1, 0, 1);
  each.columns = fprop_axis(v.Q, 1, 1, 0, 1);
  return accepts(
             pixel_map(input_of(v, DType::kFloat16, nullptr), all, slice_of(v.channels), 64), all,
             why) &&
         accepts(pixel_map(output_of(v, DType::kFloat16, nullptr), each, 64, 64), each, why);
}

// ---- what it costs ------------------------------------------------------------------------------

// Cycles of a step: wgmma's, at 2048 products each; or those in which copies bring its operands, at
// so many bytes (assumed: 6 TB/s over 132 multiprocessors at 1.75 GHz).
constexpr double kProducts = 2048, kCopyBytes = 26, kEpilogueCycles = 1500;

double step_cycles(int m, int n, double copied_rows) {
  return std::max(m * n * kStepDepth / kProducts, copied_rows * kStepDepth * 2 / kCopyBytes);
}

std::int64_t waves(std::int64_t tiles, std::int64_t at_once) { return ceil_div(tiles, at_once); }

// A cluster where there are more tiles than multiprocessors: two share the weights then.
int cluster_of(std::int64_t tiles, std::int64_t multiprocessors) {
  return tiles > multiprocessors ? 2 : 1;
}

struct DataWork {
  std::int64_t tiles = 0;
  double steps = 0;  // of a tile, on average
};

DataWork data_work(const ConvParams& params, Pass pass, int pixels, int lanes) {
  const ConvParams v = viewed(params, pass);
  const bool fprop = pass == Pass::kFprop;
  const int depth = fprop ? v.channels : v.outputs;
  const std::int64_t lane_tiles =
      block_count(fprop ? v.outputs : v.channels, lanes) * static_cast<std::int64_t>(v.groups);
  DataWork work;
  const auto classes = fprop ? std::vector<TapClass>{fprop_class(v)} : dgrad_classes(v);
  double steps = 0;
  for (const TapClass& of : classes) {
    const std::int64_t tiles = ceil_div(v.N * of.in_image(), pixels) * lane_tiles;
    work.tiles += tiles;
    steps += static_cast<double>(tiles) * steps_of(of.taps(), depth, slice_of(depth));
  }
  work.steps = steps / static_cast<double>(work.tiles);
  return work;
}

template <Pass Which, int Pixels, int Lanes>
double data_cost(const ConvParams& v, int multiprocessors) {
  const DataWork work = data_work(v, Which, Pixels, Lanes);
  const int ctas = cluster_of(work.tiles, multiprocessors);
  const double tile = work.steps * step_cycles(Pixels, Lanes, Pixels + Lanes / ctas) +
                      kEpilogueCycles * Pixels * Lanes / (128 * 128);
  return static_cast<double>(waves(work.tiles, multiprocessors)) * tile;
}

// ---- forward and input gradient -----------------------------------------------------------------

template <class T, Pass Which, class Tiling>
struct WgmmaData {
  static void run(const ConvParams& params, const Operands& o, void* stream) {
    const ConvParams v = viewed(params, Which);
    const DType dtype = Named<T>::dtype;
    constexpr bool kFprop = Which == Pass::kFprop;
    const auto classes = kFprop ? std::vector<TapClass>{fprop_class(v)} : dgrad_classes(v);
    const PixelTensor read =
        kFprop ? input_of(v, dtype, o.input) : output_of(v, dtype, o.output);
    const PixelTensor written =
        kFprop ? output_of(v, dtype, o.result) : input_of(v, dtype, o.result);

    DataParams p;
    p.class_count = static_cast<int>(classes.size());
    p.images = v.N;
    p.groups = v.groups;
    p.depth = kFprop ? v.channels : v.outputs;
    p.lanes = kFprop ? v.outputs : v.channels;
    p.slice = slice_of(p.depth);
    p.tap_width = v.S;
    const int processors = multiprocessors();
    p.ctas = cluster_of(data_work(params, Which, Tiling::kPixels, Tiling::kLanes).tiles, processors);
    const std::int64_t lane_tiles =
        static_cast<std::int64_t>(block_count(p.lanes, Tiling::kLanes)) * p.groups;
    p.items = 0;
    p.pixels_tiled = false;
    for (std::size_t i = 0; i < classes.size(); ++i) {
      TapClass& of = p.classes[i];
      of = classes[i];
      of.first_item = p.items;
      p.items += ceil_div(p.images * of.in_image(), Tiling::kPixels * p.ctas) * lane_tiles;
      const TapClass& reads = classes[of.taps() > 0 ? i : 0];
      p.pixels_tiled = is_matrix(read, reads);  // with a stride, no class is
      p.pixels[i] = encode_map(pixel_map(read, reads, p.slice, Tiling::kPixels));
    }
    p.weight = encode_map(kFprop ? weight_map(v, dtype, o.weight, p.slice, Tiling::kLanes / p.ctas)
                                 : weight_map(v, dtype, o.weight, 64, p.slice / p.ctas));
    p.result_strides = written.strides;
    p.result_tiled =
        classes.size() == 1 &&
        pixel_pitch(written.strides, written.images, written.rows, written.columns) != 0;
    if (p.result_tiled) p.result = encode_map(matrix_map(written, 64, 64, 128));

    const std::int64_t clusters = std::min<std::int64_t>(p.items, processors / p.ctas);
    launch_cluster<typename Tiling::Tile>(&wgmma_data<T, Tiling>, clusters * p.ctas, p.ctas, stream,
                                          p, static_cast<const T*>(kFprop ? o.bias : nullptr),
                                          static_cast<T*>(o.result));
  }
};

// ---- weight gradient ----------------------------------------------------------------------------

struct WeightWork {
  int chunk, chunks;
  std::int64_t tiles;  // of one share
  Shares shares;
};

// Shares of the pixels, by shape alone: as if for 132 multiprocessors, what the last wave leaves
// idle against what the sums of more shares cost to write and add.
WeightWork weight_work(const ConvParams& params, int m, int n) {
  const ConvParams v = viewed(params, Pass::kWgrad);
  WeightWork work;
  work.chunk = slice_of(v.channels);
  work.chunks = block_count(v.channels, work.chunk);
  const std::int64_t columns = static_cast<std::int64_t>(v.R) * v.S * work.chunks * work.chunk;
  work.tiles = ceil_div(columns, n) * block_count(v.outputs, m) * v.groups;
  const std::int64_t pixels = static_cast<std::int64_t>(v.N) * v.P * v.Q;
  const std::int64_t steps = ceil_div(pixels, kStepDepth);
  // Sums of more than 16384 products would err; fewer than 8 steps fill no pipeline.
  constexpr std::int64_t kMostSteps = 256, kFewestSteps = 8, kProcessors = 132;
  const std::int64_t fewest = ceil_div(steps, kMostSteps);
  const std::int64_t most = std::max(fewest, std::min(steps / kFewestSteps, 4 * kProcessors));
  // A sum is written and read, by all multiprocessors at 19 bytes a cycle each (4.3 TB/s).
  const double weights = static_cast<double>(v.K) * v.R * v.S * v.channels;
  const double cycles_of_share = weights * 8 / (kProcessors * 19.0);
  std::int64_t best = fewest;
  double least = 0;
  for (std::int64_t count = fewest; count <= most; ++count) {
    const auto length = static_cast<double>(ceil_div(steps, count));
    const double cost =
        static_cast<double>(waves(work.tiles * count, kProcessors)) *
            (length * step_cycles(m, n, m + n) + kEpilogueCycles) +
        static_cast<double>(count) * cycles_of_share;
    if (count == fewest || cost < least) {
      best = count;
      least = cost;
    }
  }
  const Shares cut_steps = cut(steps, best);
  work.shares = {cut_steps.count, cut_steps.size * kStepDepth};
  return work;
}

template <int M, int N>
double weight_cost(const ConvParams& v, int) {
  const WeightWork work = weight_work(v, M, N);
  return static_cast<double>(waves(work.tiles * work.shares.count, 132)) *
         (static_cast<double>(work.shares.size) / kStepDepth * step_cycles(M, N, M + N) +
          kEpilogueCycles);
}

template <class T, class Tile>
struct WgmmaWeight {
  static std::int64_t workspace(const ConvParams& v) {
    return static_cast<std::int64_t>(sizeof(float)) *
           weight_work(v, Tile::kM, Tile::kN).shares.count * v.K * v.R * v.S * v.channels;
  }

  static void run(const ConvParams& params, const Operands& o, void* stream) {
    const ConvParams v = viewed(params, Pass::kWgrad);
    const DType dtype = Named<T>::dtype;
    const WeightWork work = weight_work(params, Tile::kM, Tile::kN);
    const PixelTensor input = input_of(v, dtype, o.input);
    const PixelTensor grad = output_of(v, dtype, o.output);
    TapClass each;
    each.rows = fprop_axis(v.P, 1, 1, 0, 1);
    each.columns = fprop_axis(v.Q, 1, 1, 0, 1);

    WeightParams p;
    p.taps = fprop_class(v);
    p.pixels = grad.pixels();
    p.share = work.shares.size;
    p.items = work.tiles * work.shares.count;
    p.images = v.N;
    p.K = v.K;
    p.groups = v.groups;
    p.outputs = v.outputs;
    p.channels = v.channels;
    p.chunk = work.chunk;
    p.chunks = work.chunks;
    p.by_chunks = Divisor(work.chunks);
    p.grad_tiled = is_matrix(grad, each);
    p.grad = encode_map(pixel_map(grad, each, 64, kStepDepth));
    p.input_tiled = is_matrix(input, p.taps);
    p.input = encode_map(pixel_map(input, p.taps, p.chunk, kStepDepth));
    launch_tile<Tile>(&wgmma_weight<T, Tile>, std::min<std::int64_t>(p.items, multiprocessors()),
                      stream, p, static_cast<float*>(o.workspace));
    run_sum_splits(dtype, v, work.shares.count, o, stream);
  }
};

// ---- the table ----------------------------------------------------------------------------------

template <class T>
Rung wgmma_rung(Pass pass, int m, int n) {
  Rung rung;
  rung.name = std::string(pass_name(pass)) + "_wgmma_" + Named<T>::name + "_nhwc_" +
              std::to_string(m) + "x" + std::to_string(n);
  rung.pass = pass;
  rung.algorithm = "wgmma";
  rung.dtype = Named<T>::dtype;
  rung.tile_m = m;
  rung.tile_n = n;
  rung.tile_k = kStepDepth;
  rung.least_capability = rung.most_capability = 90;
  rung.channels_last = true;
  rung.only_forced = true;
  return rung;
}

template <class T, Pass Which, int Pixels, int Lanes, int ConsumersPixels, int ConsumersLanes,
          bool Swap = false>
void add_wgmma_data(std::vector<Rung>* rungs) {
  using Tiling = DataTiling<T, Pixels, Lanes, ConsumersPixels, ConsumersLanes,
                            Which == Pass::kFprop ? 0 : 1, Swap>;
  Rung rung = wgmma_rung<T>(Which, Pixels, Lanes);
  rung.can = Which == Pass::kFprop ? &can_fprop : &can_dgrad;
  rung.workspace_bytes = &no_workspace;
  rung.cost = &data_cost<Which, Pixels, Lanes>;
  rung.run = &WgmmaData<T, Which, Tiling>::run;
  rungs->push_back(rung);
}

template <class T, int M, int N, int ConsumersM, int ConsumersN>
void add_wgmma_weight(std::vector<Rung>* rungs) {
  using Tile = WgmmaTile<T, M, N, ConsumersM, ConsumersN, 1, 1, false>;
  Rung rung = wgmma_rung<T>(Pass::kWgrad, M, N);
  rung.can = &can_wgrad;
  rung.workspace_bytes = &WgmmaWeight<T, Tile>::workspace;
  rung.cost = &weight_cost<M, N>;
  rung.run = &WgmmaWeight<T, Tile>::run;
  rungs->push_back(rung);
}

template <class T, Pass Which>
void add_wgmma_data_tiles(std::vector<Rung>* rungs) {
  add_wgmma_data<T, Which, 128, 256, 2, 1>(rungs);
  add_wgmma_data<T, Which, 256, 128, 2, 1>(rungs);
  add_wgmma_data<T, Which, 128, 128, 2, 1>(rungs);
  add_wgmma_data<T, Which, 64, 128, 1, 2>(rungs);
  add_wgmma_data<T, Which, 256, 64, 2, 1, true>(rungs);
}

template <class T>
void add_wgmma_weight_tiles(std::vector<Rung>* rungs) {
  add_wgmma_weight<T, 128, 256, 2, 1>(rungs);
  add_wgmma_weight<T, 128, 128, 2, 1>(rungs);
  add_wgmma_weight<T, 256, 64, 2, 1>(rungs);
  add_wgmma_weight<T, 64, 384, 1, 2>(rungs);
}

}  // namespace
}  // namespace convext::cuda
