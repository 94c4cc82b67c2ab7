// What all rungs are started by, and asked.
#pragma once

#include "ladder.h"
#include "platform.cuh"

namespace convext::cuda {
namespace {

template <class T>
struct Named;
template <>
struct Named<float> {
  static constexpr DType dtype = DType::kFloat32;
  static constexpr const char* name = "f32";
};
template <>
struct Named<double> {
  static constexpr DType dtype = DType::kFloat64;
  static constexpr const char* name = "f64";
};
template <>
struct Named<__half> {
  static constexpr DType dtype = DType::kFloat16;
  static constexpr const char* name = "f16";
};
template <>
struct Named<__nv_bfloat16> {
  static constexpr DType dtype = DType::kBFloat16;
  static constexpr const char* name = "bf16";
};

bool refuse(std::string* why, const char* words) {
  if (why != nullptr) *why = words;
  return false;
}

bool channels_adjacent(const ConvParams& v, std::string* why) {
  const auto adjacent = [](const Strides& s, int channels) { return s.c == 1 || channels == 1; };
  if (adjacent(v.input, v.C) && adjacent(v.weight, v.channels) && adjacent(v.output, v.K)) {
    return true;
  }
  return refuse(why, "needs channels that are adjacent in memory");
}

template <class Tile, class... Parameters, class... Arguments>
void launch_tile(void (*kernel)(Parameters...), std::int64_t blocks, void* stream,
                 Arguments... arguments) {
  allow_shared(kernel, Tile::kSharedBytes);
  launch(kernel, blocks, Tile::kThreads, Tile::kSharedBytes, static_cast<cudaStream_t>(stream),
         arguments...);
}

// In clusters of `ctas`.
template <class Tile, class... Parameters, class... Arguments>
void launch_cluster(void (*kernel)(Parameters...), std::int64_t blocks, int ctas, void* stream,
                    Arguments... arguments) {
  allow_shared(kernel, Tile::kSharedBytes);
  launch_clusters(kernel, blocks, ctas, Tile::kThreads, Tile::kSharedBytes,
                  static_cast<cudaStream_t>(stream), arguments...);
}

const char* pass_name(Pass pass) {
  switch (pass) {
    case Pass::kFprop: return "fprop";
    case Pass::kDgrad: return "dgrad";
    case Pass::kWgrad: return "wgrad";
    case Pass::kBgrad: return "bgrad";
  }
  return "";
}

}  // namespace
}  // namespace convext::cuda
