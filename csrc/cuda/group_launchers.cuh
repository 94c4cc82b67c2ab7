// How the rungs of groups are started, and their rows of the table.
#pragma once

#include "depthwise.cuh"
#include "grouped.cuh"
#include "launchers.cuh"

namespace convext::cuda {
namespace {

// ---- depthwise ----------------------------------------------------------------------------------

// Staged taps may take this much of shared memory: an SM of every architecture has it.
constexpr std::int64_t kMostTapBytes = 64 << 10;

template <class T>
std::int64_t tap_bytes(const ConvParams& v, int vector) {
  return static_cast<std::int64_t>(DepthwiseTile::kVectors) * vector * v.R * v.S *
         static_cast<std::int64_t>(sizeof(Compute<T>));
}

bool one_input_channel(const ConvParams& v, std::string* why) {
  if (!channels_adjacent(v, why)) return false;
  return v.channels == 1 || refuse(why, "needs one input channel a group");
}

template <class T>
bool taps_fit(const ConvParams& v, std::string* why) {
  if (!one_input_channel(v, why)) return false;
  // Of the narrowest vectors, and of all outputs of a channel, as dgrad stages them.
  if (tap_bytes<T>(v, 1) * v.outputs <= kMostTapBytes) return true;
  return refuse(why, "needs a kernel whose taps fit 64 KiB of shared memory");
}

template <class T>
struct Depthwise {
  static constexpr int kWide = 16 / sizeof(T);
  using Tile = DepthwiseTile;

  // f(elements that are moved at once)
  template <class F>
  static void with_vector(bool wide, F&& f) {
    if (wide) {
      f(std::integral_constant<int, kWide>{});
    } else {
      f(std::integral_constant<int, 1>{});
    }
  }

  // f(columns of the kernel, stride across) if depthwise_window knows them; else false.
  template <bool Flip, class F>
  static bool with_window(const ConvParams& v, F&& f) {
    if (v.dilation_w != 1 || (Flip && (v.stride_h != 1 || v.stride_w != 1))) return false;
    const auto with_step = [&](auto columns) {
      if (v.stride_w == 1) return f(columns, std::integral_constant<int, 1>{}), true;
      if constexpr (!Flip) {
        if (v.stride_w == 2) return f(columns, std::integral_constant<int, 2>{}), true;
      }
      return false;
    };
    switch (v.S) {
      case 3: return with_step(std::integral_constant<int, 3>{});
      case 5: return with_step(std::integral_constant<int, 5>{});
      case 7: return with_step(std::integral_constant<int, 7>{});
      default: return false;
    }
  }

  template <bool Flip>
  static bool run_window(const ConvParams& v, const void* source, const Operands& o, void* stream) {
    return with_window<Flip>(v, [&](auto columns, auto step) {
      const int rows = Flip ? v.H : v.P, strips = block_count(Flip ? v.W : v.Q, Tile::kColumns);
      const std::int64_t channel_blocks = ceil_div(v.K, Tile::kVectors * kWide);
      const std::int64_t all =
          ceil_div(static_cast<std::int64_t>(v.N) * rows * strips, Tile::kStrips);
      constexpr std::int64_t kMostTurns = 16;
      const std::int64_t fit = channel_blocks * all / kManyBlocks;
      const std::int64_t turns = fit < 1 ? 1 : fit > kMostTurns ? kMostTurns : fit;
      start(&depthwise_window<T, kWide, columns(), step(), Flip>, tap_bytes<T>(v, kWide),
            channel_blocks * ceil_div(all, turns), stream, v, Divisor(rows), Divisor(strips),
            static_cast<int>(turns), static_cast<const T*>(source), static_cast<const T*>(o.weight),
            Flip ? nullptr : static_cast<const T*>(o.bias), static_cast<T*>(o.result));
    });
  }

  static void run_fprop(const ConvParams& v, const Operands& o, void* stream) {
    const bool wide = v.outputs == 1 && tap_bytes<T>(v, kWide) <= kMostTapBytes &&
                      is_aligned(v.input, v.C, o.input, kWide, sizeof(T)) &&
                      is_aligned(v.output, v.K, o.result, kWide, sizeof(T));
    if (wide && run_window<false>(v, o.input, o, stream)) return;
    with_vector(wide, [&](auto vector) {
      const std::int64_t strips =
          static_cast<std::int64_t>(v.N) * v.P * ceil_div(v.Q, Tile::kColumns);
      start(&fprop_depthwise<T, vector()>, tap_bytes<T>(v, vector()),
            ceil_div(v.K, Tile::kVectors * vector()) * ceil_div(strips, Tile::kStrips), stream, v,
            Divisor(block_count(v.Q, Tile::kColumns)), static_cast<const T*>(o.input),
            static_cast<const T*>(o.weight), static_cast<const T*>(o.bias),
            static_cast<T*>(o.result));
    });
  }

  static void run_dgrad(const ConvParams& v, const Operands& o, void* stream) {
    const bool wide = v.outputs == 1 && tap_bytes<T>(v, kWide) <= kMostTapBytes &&
                      is_aligned(v.output, v.K, o.output, kWide, sizeof(T)) &&
                      is_aligned(v.input, v.C, o.result, kWide, sizeof(T));
    if (wide && run_window<true>(v, o.output, o, stream)) return run_dgrad_border<T>(v, o, stream);
    with_vector(wide, [&](auto vector) {
      const std::int64_t strips =
          static_cast<std::int64_t>(v.N) * v.H * ceil_div(v.W, Tile::kColumns);
      start(&dgrad_depthwise<T, vector()>, tap_bytes<T>(v, vector()) * v.outputs,
            ceil_div(v.C, Tile::kVectors * vector()) * ceil_div(strips, Tile::kStrips), stream, v,
            Divisor(v.H), Divisor(block_count(v.W, Tile::kColumns)),
            static_cast<const T*>(o.output), static_cast<const T*>(o.weight),
            static_cast<T*>(o.result));
    });
    run_dgrad_border<T>(v, o, stream);
  }

  // Of the output's rows: by shape alone, as if vectors were wide.
  static Shares splits(const ConvParams& v) {
    const std::int64_t tiles =
        ceil_div(v.K, Tile::kVectors * kWide) * v.R * ceil_div(v.S, Tile::kTaps);
    return cut(static_cast<std::int64_t>(v.N) * v.P, split_pixels(v, tiles).count);
  }
  static std::int64_t wgrad_workspace(const ConvParams& v) {
    return static_cast<std::int64_t>(sizeof(Compute<T>)) * splits(v).count * v.K * v.R * v.S;
  }
  static void run_wgrad(const ConvParams& v, const Operands& o, void* stream) {
    const bool wide = v.outputs == 1 && is_aligned(v.output, v.K, o.output, kWide, sizeof(T)) &&
                      is_aligned(v.input, v.C, o.input, kWide, sizeof(T));
    const Shares rows = splits(v);
    with_vector(wide, [&](auto vector) {
      start(
          &wgrad_depthwise<T, vector()>, 0,
          ceil_div(v.K, Tile::kVectors * vector()) * v.R * ceil_div(v.S, Tile::kTaps) * rows.count,
          stream, v, rows.size, static_cast<const T*>(o.output), static_cast<const T*>(o.input),
          static_cast<Compute<T>*>(o.workspace));
    });
    start_sum_splits<T>(v, rows.count, o, stream);
  }

 private:
  template <class... Parameters, class... Arguments>
  static void start(void (*kernel)(Parameters...), std::int64_t shared_bytes, std::int64_t blocks,
                    void* stream, Arguments... arguments) {
    allow_shared(kernel, static_cast<std::size_t>(shared_bytes));
    launch(kernel, blocks, Tile::kThreads, static_cast<std::size_t>(shared_bytes),
           static_cast<cudaStream_t>(stream), arguments...);
  }
};

// ---- grouped ------------------------------------------------------------------------------------

template <class T>
std::int64_t group_weight_bytes(const ConvParams& v, int depth) {
  return static_cast<std::int64_t>(GroupedTile::kChannels) * depth * v.R * v.S *
         static_cast<std::int64_t>(sizeof(Compute<T>));
}

bool few_channels(const ConvParams& v, std::string* why) {
  if (!channels_adjacent(v, why)) return false;
  constexpr int kMost = 32;
  if (v.groups > 1 && v.channels <= kMost && v.outputs <= kMost) return true;
  return refuse(why, "needs groups of at most 32 channels");
}

template <class T>
bool group_weights_fit(const ConvParams& v, std::string* why) {
  if (!few_channels(v, why)) return false;
  const int depth = v.channels > v.outputs ? v.channels : v.outputs;
  if (group_weight_bytes<T>(v, depth) <= kMostTapBytes) return true;
  return refuse(why, "needs weights of 32 channels that fit 64 KiB of shared memory");
}

template <class T>
struct Grouped {
  static constexpr int kVector = sizeof(T) == 8 ? 2 : 4;
  using Tile = GroupedTile;

  // f(source channels that are read at once)
  template <class F>
  static void with_vector(bool wide, F&& f) {
    if (wide) {
      f(std::integral_constant<int, kVector>{});
    } else {
      f(std::integral_constant<int, 1>{});
    }
  }

  static void run_fprop(const ConvParams& v, const Operands& o, void* stream) {
    const bool wide = is_aligned(v.input, v.channels, o.input, kVector, sizeof(T));
    with_vector(wide, [&](auto vector) {
      const int strips = block_count(v.Q, Tile::kColumns);
      start(&fprop_grouped<T, vector()>, group_weight_bytes<T>(v, v.channels),
            ceil_div(v.K, Tile::kChannels) *
                ceil_div(static_cast<std::int64_t>(v.N) * v.P * strips, Tile::kStrips),
            stream, v, Divisor(strips), static_cast<const T*>(o.input),
            static_cast<const T*>(o.weight), static_cast<const T*>(o.bias),
            static_cast<T*>(o.result));
    });
  }

  static void run_dgrad(const ConvParams& v, const Operands& o, void* stream) {
    const bool wide = is_aligned(v.output, v.outputs, o.output, kVector, sizeof(T));
    with_vector(wide, [&](auto vector) {
      const int strips = block_count(v.W, Tile::kColumns);
      start(&dgrad_grouped<T, vector()>, group_weight_bytes<T>(v, v.outputs),
            ceil_div(v.C, Tile::kChannels) *
                ceil_div(static_cast<std::int64_t>(v.N) * v.H * strips, Tile::kStrips),
            stream, v, Divisor(v.H), Divisor(strips), static_cast<const T*>(o.output),
            static_cast<const T*>(o.weight), static_cast<T*>(o.result));
    });
    run_dgrad_border<T>(v, o, stream);
  }

  // Of the output's rows: by shape alone, as if vectors were wide.
  static Shares splits(const ConvParams& v) {
    const std::int64_t tiles = ceil_div(v.K, Tile::kChannels) * ceil_div(v.channels, kVector) *
                               v.R * ceil_div(v.S, Tile::kTaps);
    return cut(static_cast<std::int64_t>(v.N) * v.P, split_pixels(v, tiles).count);
  }
  static std::int64_t wgrad_workspace(const ConvParams& v) {
    return static_cast<std::int64_t>(sizeof(Compute<T>)) * splits(v).count * v.K * v.R * v.S *
           v.channels;
  }
  static void run_wgrad(const ConvParams& v, const Operands& o, void* stream) {
    const bool wide = is_aligned(v.input, v.channels, o.input, kVector, sizeof(T));
    const Shares rows = splits(v);
    with_vector(wide, [&](auto vector) {
      start(&wgrad_grouped<T, vector()>, 0,
            ceil_div(v.K, Tile::kChannels) * (v.channels / vector()) * v.R *
                ceil_div(v.S, Tile::kTaps) * rows.count,
            stream, v, rows.size, static_cast<const T*>(o.output), static_cast<const T*>(o.input),
            static_cast<Compute<T>*>(o.workspace));
    });
    start_sum_splits<T>(v, rows.count, o, stream);
  }

 private:
  template <class... Parameters, class... Arguments>
  static void start(void (*kernel)(Parameters...), std::int64_t shared_bytes, std::int64_t blocks,
                    void* stream, Arguments... arguments) {
    allow_shared(kernel, static_cast<std::size_t>(shared_bytes));
    launch(kernel, blocks, Tile::kThreads, static_cast<std::size_t>(shared_bytes),
           static_cast<cudaStream_t>(stream), arguments...);
  }
};

// ---- the table ----------------------------------------------------------------------------------

template <class T>
void add_depthwise(std::vector<Rung>* rungs) {
  const auto add = [&](Pass pass, auto can, auto workspace, auto run) {
    rungs->push_back({std::string(pass_name(pass)) + "_depthwise_" + Named<T>::name + "_nhwc", pass,
                      "depthwise", Named<T>::dtype, 0, 32, 0, 75, false, true, false, can,
                      workspace, run});
  };
  add(Pass::kFprop, &taps_fit<T>, &no_workspace, &Depthwise<T>::run_fprop);
  add(Pass::kDgrad, &taps_fit<T>, &no_workspace, &Depthwise<T>::run_dgrad);
  add(Pass::kWgrad, &one_input_channel, &Depthwise<T>::wgrad_workspace, &Depthwise<T>::run_wgrad);
}

template <class T>
void add_grouped(std::vector<Rung>* rungs) {
  const auto add = [&](Pass pass, auto can, auto workspace, auto run) {
    rungs->push_back({std::string(pass_name(pass)) + "_grouped_" + Named<T>::name + "_nhwc", pass,
                      "grouped", Named<T>::dtype, 0, 32, 0, 75, false, true, false, can, workspace,
                      run});
  };
  add(Pass::kFprop, &group_weights_fit<T>, &no_workspace, &Grouped<T>::run_fprop);
  add(Pass::kDgrad, &group_weights_fit<T>, &no_workspace, &Grouped<T>::run_dgrad);
  add(Pass::kWgrad, &few_channels, &Grouped<T>::wgrad_workspace, &Grouped<T>::run_wgrad);
}

}  // namespace
}  // namespace convext::cuda
