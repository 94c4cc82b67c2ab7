// The ladder of CUDA kernels as one table: what each rung can run, what memory it takes, and how it
// is started. Host code; the same for the GPU and for the emulation of the tests.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "../conv_plan.h"
#include "conv_params.h"

namespace convext::cuda {

// On the device. `result` is the tensor that the pass writes, the others are those that it reads:
//   fprop: input, weight, bias (may be null)   dgrad: output (its gradient), weight
//   wgrad: output (its gradient), input   bgrad: output (its gradient)
struct Operands {
  const void* input = nullptr;
  const void* weight = nullptr;
  const void* bias = nullptr;
  const void* output = nullptr;
  void* result = nullptr;
  void* workspace = nullptr;
};

struct Rung {
  std::string name;  // pass_algorithm_dtype_layout_tile
  Pass pass;
  const char* algorithm;
  DType dtype;
  int tile_m, tile_n, tile_k;  // of a CTA; a naive kernel has none
  int least_capability;        // 10 * major + minor
  bool rounds_to_tf32;
  bool channels_last;  // operands and result need channels that are adjacent in memory,
  bool any_input;      // but for the input
  // Whether it can run the problem; if not, and `why` is not null, that is told the reason.
  bool (*can)(const ConvParams&, std::string* why);
  std::int64_t (*workspace_bytes)(const ConvParams&);
  // `stream` is a cudaStream_t.
  void (*run)(const ConvParams&, const Operands&, void* stream);
  int most_capability = 0;   // of what is compiled for one architecture; 0: any newer one
  bool only_forced = false;  // plans do not choose it by themselves
  // Cycles, to choose among an algorithm's tiles; null: as plans know it of any tile.
  double (*cost)(const ConvParams&, int multiprocessors) = nullptr;
};

// The rungs of Hopper alone (hopper.cu).
void add_hopper(std::vector<Rung>* rungs);

// By preference: of those that can run a problem, the first is the fastest, but for the size of its
// tiles.
const std::vector<Rung>& ladder();

// The splits' sums in the workspace, added in order, to the gradient of the weight; a sum is a
// float32 for 16-bit types.
void run_sum_splits(DType dtype, const ConvParams& params, int splits, const Operands& operands,
                    void* stream);

// to = from, a tensor whose dimensions lie in another order; elements have 2, 4, 8 or 16 bytes.
void run_copy_layout(std::int64_t element_bytes, const std::int64_t (&size)[4], const void* from,
                     const Strides& from_strides, void* to, const Strides& to_strides,
                     void* stream);

// Complex convolution as a real one (complex.cuh). `params` are the real problem's, but for the
// weight's strides, which are the complex one's; `dtype` is that of a part.
void run_expand_complex_weight(DType dtype, const ConvParams& params, const void* weight,
                               void* expanded, void* stream);
void run_fold_complex_gradient(DType dtype, const ConvParams& params, const void* expanded,
                               void* gradient, void* stream);

// Throws std::runtime_error for extents that do not fit 31 bits.
ConvParams make_params(const ConvProblem& problem, const std::int64_t (&input_strides)[4],
                       const std::int64_t (&weight_strides)[4],
                       const std::int64_t (&output_strides)[4]);

// Of dense tensors with adjacent channels, as plans suppose them.
ConvParams channels_last_params(const ConvProblem& problem);

// `count` shares of `size` each, but for the last, which may be smaller.
struct Shares {
  int count;
  std::int64_t size;
};

// About `parts` of them, none empty but of an empty whole; `parts` is positive.
Shares cut(std::int64_t whole, std::int64_t parts);

// Of an output's pixels, which wgrad sums apart so that a device has enough to do: by shape alone.
Shares split_pixels(const ConvParams& v, std::int64_t tiles);

}  // namespace convext::cuda
