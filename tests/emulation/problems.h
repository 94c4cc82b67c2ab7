// Random small problems for kernels, their data and what is right. Data are small integers, so that
// sums are exact in any order and results are compared to the bit.
#pragma once

#include <functional>
#include <random>
#include <vector>

#include "conv_problem.h"
#include "cuda/ladder.h"

namespace convext_tests {

using convext::ConvProblem;
using convext::DType;
using convext::Pass;

// Tensors in NCHW index order. `channels_last`: how they lie, all alike.
struct Case {
  ConvProblem problem;
  bool channels_last = true, with_bias = false;
  // How tensors lie: as parts of larger ones, with so many channels (or columns) more, and beginning
  // so many elements behind an aligned place.
  // Images may lie in wider ones, by so many columns.
  std::int64_t gap = 0, shift = 0, columns_apart = 0;
  std::vector<double> input, weight, bias, output;  // output: what fprop gives, or its gradient
  std::vector<double> expected;                     // of the pass
};

// Of a CTA; 0 where there is none.
struct Tile {
  int m = 0, n = 0, k = 0;
};

// Which groups a kernel takes.
enum class Groups { kAny, kOfOneChannel, kOfFewChannels, kOneOfFewChannels, kOfEights };

// Problems that a kernel can run.
struct Wanted {
  Tile tile;
  Groups groups = Groups::kAny;
  bool channels_last = false;                       // alone
  std::function<bool(const ConvProblem&)> accepts;  // if it is there, whether others are drawn
};

// `number` steers the sizes: small ones, or such that a dimension ends around a tile's.
Case make_case(std::mt19937* random, Pass pass, DType dtype, const Wanted& wanted, int number);

// Elements between neighbours, for sizes N C H W.
void strides_of(const std::vector<std::int64_t>& size, bool channels_last,
                std::int64_t (&strides)[4]);

std::vector<std::int64_t> input_size(const ConvProblem& p);
std::vector<std::int64_t> weight_size(const ConvProblem& p);
std::vector<std::int64_t> output_size(const ConvProblem& p);

// One element in a tensor's storage type.
void store(DType dtype, void* data, std::int64_t index, double value);
double fetch(DType dtype, const void* data, std::int64_t index);

}  // namespace convext_tests
