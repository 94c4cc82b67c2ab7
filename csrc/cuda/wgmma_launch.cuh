// How the wgmma rungs are started: whether the hardware's copies can bring what they read, how work is
// cut, and their rows of the table.
#pragma once

#include "launching.cuh"
#include "wgmma_data.cuh"
#include "wgmma_maps.h"
#include "wgmma_weight.cuh"

namespace convext::cuda {
namespace {

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

// What all passes need. T: the element.
template <class T>
bool wgmma_basics(const ConvParams& v, std::string* why) {
  if (!channels_adjacent(v, why)) return false;
  if (v.padding_mode != PaddingMode::kZeros) return refuse(why, "needs padding of zeros");
  if (!v.aligned) return refuse(why, "needs tensors that begin at multiples of 16 bytes");
  constexpr int kVector = 16 / sizeof(T);
  if (v.channels % kVector != 0 || v.outputs % kVector != 0) {
    return refuse(why, kVector == 8 ? "needs channels and outputs, of a group, in eights"
                                    : "needs channels and outputs, of a group, in fours");
  }
  if (v.groups > 1 && (v.channels % 64 != 0 || v.outputs % 64 != 0)) {
    return refuse(why, "needs channels and outputs of a group in 64s");
  }
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

// Whether a result's pixels begin at whole vectors, by which they are stored.
template <class T>
bool stores(const Strides& s, std::string* why) {
  constexpr int kVector = 16 / sizeof(T);
  return (s.n % kVector == 0 && s.h % kVector == 0 && s.w % kVector == 0) ||
         refuse(why, "needs a result whose pixels begin at multiples of 16 bytes");
}

// The largest box of pixels and of weights that any tile has: the hardware's limits know no other.
constexpr int kMostTilePixels = 256, kMostTileLanes = 256;

template <class T>
bool can_fprop(const ConvParams& params, std::string* why) {
  if (!wgmma_basics<T>(params, why)) return false;
  const ConvParams v = viewed(params, Pass::kFprop);
  constexpr DType kType = Named<T>::dtype;
  const TapClass all = fprop_class(v);
  const int slice = slice_of(v.channels, sizeof(T));
  return stores<T>(v.output, why) &&
         accepts(pixel_map(input_of(v, kType, nullptr), all, slice, kMostTilePixels), all, why) &&
         accepts(weight_map(weight_of(v, kType, nullptr), slice, kMostTileLanes), all, why);
}

template <class T>
bool can_dgrad(const ConvParams& params, std::string* why) {
  if (!wgmma_basics<T>(params, why)) return false;
  const ConvParams v = viewed(params, Pass::kDgrad);
  constexpr DType kType = Named<T>::dtype;
  const std::vector<TapClass> classes = dgrad_classes(v);
  if (classes.size() > kMostClasses) return refuse(why, "needs a stride of at most 16 classes");
  if (classes[0].taps() == 0) return refuse(why, "needs a tap that reaches the image");
  if (!stores<T>(v.input, why)) return false;
  const int slice = slice_of(v.outputs, sizeof(T));
  for (const TapClass& of : classes) {
    if (of.taps() == 0) continue;
    if (!accepts(pixel_map(output_of(v, kType, nullptr), of, slice, kMostTilePixels), of, why)) {
      return false;
    }
  }
  if constexpr (sizeof(T) == 4) {
    return v.groups == 1 || refuse(why, "needs one group");
  } else {
    return accepts(weight_map(weight_of(v, kType, nullptr), 64, slice), {}, why);
  }
}

bool can_wgrad(const ConvParams& params, std::string* why) {
  if (!wgmma_basics<__half>(params, why)) return false;
  const ConvParams v = viewed(params, Pass::kWgrad);
  constexpr DType kType = DType::kFloat16;
  const TapClass all = fprop_class(v), each = output_pixels(v);
  const int chunk = slice_of(v.channels, 2);
  return accepts(pixel_map(input_of(v, kType, nullptr), all, chunk, kStepPixels), all, why) &&
         accepts(pixel_map(output_of(v, kType, nullptr), each, 64, kStepPixels), each, why);
}

// ---- what it costs ------------------------------------------------------------------------------

// Cycles of a step: wgmma's, at 4096 bytes of depth each (2048 products of 16-bit elements, half as
// many of TF32); or those in which copies bring its operands, at so many bytes (assumed: 6 TB/s over
// 132 multiprocessors at 1.75 GHz).
constexpr double kProductBytes = 4096, kCopyBytes = 26, kEpilogueCycles = 1500;

double step_cycles(int m, int n, double copied_rows) {
  return std::max(m * n * kStepBytes / kProductBytes, copied_rows * kStepBytes / kCopyBytes);
}

std::int64_t waves(std::int64_t tiles, std::int64_t at_once) { return ceil_div(tiles, at_once); }

struct DataWork {
  int ctas = 1;  // of a cluster
  double cycles = 0;
};

// Of a tile of pixels x lanes, with clusters of one CTA or of two, which share the weights but may
// have a tile in vain.
DataWork data_work(const ConvParams& params, Pass pass, int pixels, int lanes, int element,
                   int multiprocessors) {
  const ConvParams v = viewed(params, pass);
  const bool fprop = pass == Pass::kFprop;
  const int depth = fprop ? v.channels : v.outputs;
  const std::int64_t lane_tiles =
      block_count(fprop ? v.outputs : v.channels, lanes) * static_cast<std::int64_t>(v.groups);
  const auto classes = classes_of(v, pass);
  DataWork best;
  for (int ctas = 1; ctas <= 2; ++ctas) {
    std::int64_t tiles = 0;
    double steps = 0;
    for (const TapClass& of : classes) {
      const std::int64_t of_class =
          ceil_div(v.N * of.in_image(), pixels * ctas) * ctas * lane_tiles;
      tiles += of_class;
      steps += static_cast<double>(of_class) *
               steps_of(of.taps(), depth, slice_of(depth, element), kStepBytes / element);
    }
    const double tile =
        steps / static_cast<double>(tiles) * step_cycles(pixels, lanes, pixels + lanes / ctas) +
        kEpilogueCycles * pixels * lanes / (128 * 128);
    const double cycles = static_cast<double>(waves(tiles, multiprocessors)) * tile;
    if (ctas == 1 || cycles <= best.cycles) best = {ctas, cycles};
  }
  return best;
}

template <class T, Pass Which, int Pixels, int Lanes>
double data_cost(const ConvParams& v, int multiprocessors) {
  return data_work(v, Which, Pixels, Lanes, sizeof(T), multiprocessors).cycles;
}

// ---- forward and input gradient -----------------------------------------------------------------

void run_transpose_weight(const ConvParams& v, const WeightTensor& from, void* to, void* stream) {
  run_copy_layout(bytes_of(from.dtype), {from.taps, v.channels, 1, v.K}, from.data,
                  {from.tap_stride, 1, v.K * from.row_stride, from.row_stride}, to,
                  {v.K, from.taps * v.K, v.K, 1}, stream);
}

template <class T, Pass Which, class Tiling>
struct WgmmaData {
  static constexpr bool kFprop = Which == Pass::kFprop;
  static constexpr bool kTransposes = !kFprop && sizeof(T) == 4;
  static constexpr DType kType = Named<T>::dtype;

  static std::int64_t workspace(const ConvParams& v) {
    return kTransposes ? std::int64_t{sizeof(T)} * v.K * v.R * v.S * v.channels : 0;
  }

  static void run(const ConvParams& params, const Operands& o, void* stream) {
    bind_device();
    const ConvParams v = viewed(params, Which);
    const auto classes = classes_of(v, Which);
    const PixelTensor read = kFprop ? input_of(v, kType, o.input) : output_of(v, kType, o.output);
    const PixelTensor written =
        kFprop ? output_of(v, kType, o.result) : input_of(v, kType, o.result);

    DataParams p;
    p.class_count = static_cast<int>(classes.size());
    p.images = v.N;
    p.groups = v.groups;
    p.depth = kFprop ? v.channels : v.outputs;
    p.lanes = kFprop ? v.outputs : v.channels;
    p.slice = slice_of(p.depth, sizeof(T));
    p.tap_width = v.S;
    const int processors = multiprocessors();
    p.ctas = data_work(params, Which, Tiling::kPixels, Tiling::kLanes, sizeof(T), processors).ctas;
    const int lane_tiles = block_count(p.lanes, Tiling::kLanes);
    p.by_lane_tiles = Divisor(lane_tiles);
    p.by_groups = Divisor(p.groups);
    p.items = 0;
    for (std::size_t i = 0; i < classes.size(); ++i) {
      TapClass& of = p.classes[i];
      of = classes[i];
      of.first_item = p.items;
      p.items +=
          ceil_div(p.images * of.in_image(), Tiling::kPixels * p.ctas) * lane_tiles * p.groups;
      const TapClass& reads = classes[of.taps() > 0 ? i : 0];
      of.matrix = is_matrix(read, reads);
      p.pixels[i] = encode_map(pixel_map(read, reads, p.slice, Tiling::kPixels));
    }
    p.weight = encode_map(weight_box(v, o, p, stream));
    p.result_strides = written.strides;
    p.result_tiled = classes.size() == 1 && pixel_pitch(written.strides, written.images,
                                                        written.rows, written.columns) != 0;
    if (p.result_tiled) {
      p.result = encode_map(matrix_map(written, 128 / Tiling::kElement, 64, 128));
    }

    const std::int64_t clusters = std::min<std::int64_t>(p.items, processors / p.ctas);
    launch_cluster<typename Tiling::Tile>(&wgmma_data<T, Tiling>, clusters * p.ctas, p.ctas, stream,
                                          p, static_cast<const T*>(kFprop ? o.bias : nullptr),
                                          static_cast<T*>(o.result));
  }

 private:
  // Of which each CTA of a cluster copies its part.
  static MapSpec weight_box(const ConvParams& v, const Operands& o, const DataParams& p,
                            void* stream) {
    const WeightTensor weight = weight_of(v, kType, o.weight);
    if constexpr (kTransposes) {
      run_transpose_weight(v, weight, o.workspace, stream);
      return weight_map(transposed_weight(v, kType, o.workspace), p.slice, Tiling::kLanes / p.ctas);
    }
    return kFprop ? weight_map(weight, p.slice, Tiling::kLanes / p.ctas)
                  : weight_map(weight, 64, p.slice / p.ctas);
  }
};

// ---- weight gradient ----------------------------------------------------------------------------

struct WeightWork {
  int chunk, chunks;
  int chunk_tiles, row_tiles;
  std::int64_t tiles;  // of one share
  Shares shares;
  double cycles = 0;
};

// Shares of the pixels, by shape alone: as if for 132 multiprocessors, what the last wave leaves
// idle against what the sums of more shares cost to write and add.
WeightWork weight_work(const ConvParams& params, int m, int n) {
  const ConvParams v = viewed(params, Pass::kWgrad);
  WeightWork work;
  work.chunk = slice_of(v.channels, 2);
  work.chunks = block_count(v.channels, work.chunk);
  const std::int64_t columns = static_cast<std::int64_t>(v.R) * v.S * work.chunks * work.chunk;
  work.chunk_tiles = static_cast<int>(ceil_div(columns, n));
  work.row_tiles = block_count(v.outputs, m);
  work.tiles = static_cast<std::int64_t>(work.chunk_tiles) * work.row_tiles * v.groups;
  const std::int64_t pixels = static_cast<std::int64_t>(v.N) * v.P * v.Q;
  const std::int64_t steps = ceil_div(pixels, kStepPixels);
  // At most 65536 products a sum: 4096 additions, each of which may leave off 2**-23 of it, 2**-11 in
  // all, which is float16's rounding. Fewer than 8 steps fill no pipeline.
  constexpr std::int64_t kMostSteps = 1024, kFewestSteps = 8, kProcessors = 132;
  const std::int64_t elements = static_cast<std::int64_t>(v.K) * v.R * v.S * v.channels;
  // Gigabytes of sums cost more than long sums err.
  constexpr std::int64_t kMostSums = std::int64_t{1} << 29;
  const std::int64_t room = std::max<std::int64_t>(kMostSums / elements, 1);
  const std::int64_t fewest = std::min(ceil_div(steps, kMostSteps), room);
  const std::int64_t most = std::max(fewest, std::min(steps / kFewestSteps, room));
  // A sum is written and read, by all multiprocessors at 19 bytes a cycle each (4.3 TB/s).
  const double cycles_of_share = static_cast<double>(elements) * 8 / (kProcessors * 19.0);
  std::int64_t best = fewest;
  // The most shares that so many waves hold: fewer would be longer, for as many waves.
  constexpr std::int64_t kMostWaves = 32;
  for (std::int64_t wave = 0; wave <= kMostWaves; ++wave) {
    const std::int64_t count =
        wave == 0 ? fewest : std::clamp(wave * kProcessors / work.tiles, fewest, most);
    const auto length = static_cast<double>(ceil_div(steps, count));
    const double cost = static_cast<double>(waves(work.tiles * count, kProcessors)) *
                            (length * step_cycles(m, n, m + n) + kEpilogueCycles) +
                        static_cast<double>(count) * cycles_of_share;
    if (wave == 0 || cost < work.cycles) {
      best = count;
      work.cycles = cost;
    }
  }
  const Shares cut_steps = cut(steps, best);
  work.shares = {cut_steps.count, cut_steps.size * kStepPixels};
  return work;
}

template <int M, int N>
double weight_cost(const ConvParams& v, int) {
  return weight_work(v, M, N).cycles;
}

template <class T, class Tile>
struct WgmmaWeight {
  static std::int64_t workspace(const ConvParams& v) {
    return static_cast<std::int64_t>(sizeof(float)) *
           weight_work(v, Tile::kM, Tile::kN).shares.count * v.K * v.R * v.S * v.channels;
  }

  static void run(const ConvParams& params, const Operands& o, void* stream) {
    bind_device();
    const ConvParams v = viewed(params, Pass::kWgrad);
    const DType dtype = Named<T>::dtype;
    const WeightWork work = weight_work(params, Tile::kM, Tile::kN);
    const PixelTensor input = input_of(v, dtype, o.input);
    const PixelTensor grad = output_of(v, dtype, o.output);
    const TapClass each = output_pixels(v);

    WeightParams p;
    p.taps = fprop_class(v);
    p.pixels = grad.pixels();
    p.share = work.shares.size;
    p.items = work.tiles * work.shares.count;
    p.K = v.K;
    p.groups = v.groups;
    p.outputs = v.outputs;
    p.channels = v.channels;
    p.chunk = work.chunk;
    p.chunks = work.chunks;
    p.by_chunks = Divisor(work.chunks);
    p.by_chunk_tiles = Divisor(work.chunk_tiles);
    p.by_row_tiles = Divisor(work.row_tiles);
    p.by_groups = Divisor(v.groups);
    p.grad_tiled = is_matrix(grad, each);
    p.grad = encode_map(pixel_map(grad, each, 64, kStepPixels));
    p.taps.matrix = is_matrix(input, p.taps);
    p.input = encode_map(pixel_map(input, p.taps, p.chunk, kStepPixels));
    launch_tile<Tile>(&wgmma_weight<T, Tile>, std::min<std::int64_t>(p.items, multiprocessors()),
                      stream, p, static_cast<float*>(o.workspace));
    run_sum_splits(dtype, v, work.shares.count, o, stream);
  }
};

// ---- the table ----------------------------------------------------------------------------------

template <class T>
Rung wgmma_rung(Pass pass, int m, int n) {
  constexpr bool kTf32 = sizeof(T) == 4;
  Rung rung;
  rung.algorithm = kTf32 ? "wgmma_tf32" : "wgmma";
  rung.name = std::string(pass_name(pass)) + "_" + rung.algorithm + "_" + Named<T>::name +
              "_nhwc_" + std::to_string(m) + "x" + std::to_string(n);
  rung.pass = pass;
  rung.dtype = Named<T>::dtype;
  rung.tile_m = m;
  rung.tile_n = n;
  rung.tile_k = kStepDepth<T>;
  rung.least_capability = rung.most_capability = 90;
  rung.rounds_to_tf32 = kTf32;
  rung.channels_last = true;
  rung.any_input = false;
  rung.only_forced = true;
  return rung;
}

template <class T, Pass Which, int Pixels, int Lanes, int ConsumersPixels, int ConsumersLanes,
          bool Swap = false>
void add_wgmma_data(std::vector<Rung>* rungs) {
  constexpr int kWeightMajor = Which == Pass::kFprop || sizeof(T) == 4 ? 0 : 1;
  using Tiling = DataTiling<T, Pixels, Lanes, ConsumersPixels, ConsumersLanes, kWeightMajor, Swap>;
  using Run = WgmmaData<T, Which, Tiling>;
  Rung rung = wgmma_rung<T>(Which, Pixels, Lanes);
  rung.can = Which == Pass::kFprop ? &can_fprop<T> : &can_dgrad<T>;
  rung.workspace_bytes = &Run::workspace;
  rung.cost = &data_cost<T, Which, Pixels, Lanes>;
  rung.run = &Run::run;
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

// Pixels x lanes. Few lanes, as rows; few pixels, as of small batches.
template <class T, Pass Which>
void add_wgmma_data_tiles(std::vector<Rung>* rungs) {
  add_wgmma_data<T, Which, 128, 256, 2, 1>(rungs);
  add_wgmma_data<T, Which, 256, 128, 2, 1>(rungs);
  add_wgmma_data<T, Which, 128, 128, 2, 1>(rungs);
  add_wgmma_data<T, Which, 64, 128, 1, 2>(rungs);
  if constexpr (sizeof(T) == 2) add_wgmma_data<T, Which, 256, 64, 2, 1, true>(rungs);
}

// Outputs x taps' channels.
template <class T>
void add_wgmma_weight_tiles(std::vector<Rung>* rungs) {
  add_wgmma_weight<T, 128, 256, 2, 1>(rungs);
  add_wgmma_weight<T, 128, 128, 2, 1>(rungs);
  add_wgmma_weight<T, 256, 64, 2, 1>(rungs);
  add_wgmma_weight<T, 64, 384, 1, 2>(rungs);
}

}  // namespace
}  // namespace convext::cuda
