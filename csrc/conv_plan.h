// What will run for one pass of one problem, and why. A plan is a pure function of the problem, the
// hardware and the options: making one allocates nothing and runs nothing.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "conv_problem.h"

namespace convext {

enum class Pass : std::uint8_t { kFprop, kDgrad, kWgrad, kBgrad };
inline constexpr int kPassCount = 4;
enum class Algorithm : std::uint8_t {
  kReference,
  kIndirect,
  kIm2col,
  kDirect,
  kDirectPlanes,
  kOuter,
  kDepthwise,
  kGrouped,
  kGroupedPlanes,
  kRowsum,
  kWinograd2,
  kWinograd4,
  kPolyphase2,
  kPolyphase4,
  kPointwise,
  kDot,
  kAxpy,
  kIndirectPairs,
};
// kAvx512Bf16: AVX-512's kernels, and some more for bfloat16.
enum class Isa : std::uint8_t { kGeneric, kAvx2, kAvx512, kAvx512Bf16 };
inline constexpr int kIsaCount = 4;

const char* to_string(Pass pass);
const char* to_string(Algorithm algorithm);
const char* to_string(Isa isa);

// One row of the kernel table (kernels.def), for one storage type and one instruction set.
struct KernelInfo {
  Pass pass;
  Algorithm algorithm;
  DType dtype;
  Isa isa;
  const char* layout = "any";  // of input and weight: any, nchw
  int mr = 1;       // rows of the register tile: pixels, or output channels in wgrad and im2col
  int nr = 1;       // columns of the register tile: channels, or pixels in im2col
  int vectors = 1;  // of which a row of the register tile consists; 1 in scalar code
  // 0: the error of each result is bounded by its own terms. Otherwise by the largest result's: a
  // transform mixes neighbours, and lets errors grow by this factor (winograd_transform.h).
  double error_growth = 0;
  bool exact_on_integers = true;  // small ones; not where a transform has irrational entries
  std::string name;               // pass_algorithm_dtype_layout_tile_arch
  int index = 0;                  // position in the table
};

inline constexpr std::int64_t kNoLimit = INT64_MAX;

struct PlanOptions {
  Isa isa = Isa::kGeneric;
  std::string force;             // "" or "[pass=]algorithm-or-kernel-name[,...]"
  bool batch_invariant = false;  // choose without looking at N
  std::int64_t workspace_limit = kNoLimit;
};

// Expected cycles of one core (plan/cost_model.h).
struct Cost {
  double multiply = 0;  // main loops, at the registers' full rate
  double move = 0;      // packing, transposing, transforms, pointer tables
  double memory = 0;    // tensors to and from memory
  double total() const { return multiply + move + memory; }
};

struct ConvPlan {
  Pass pass = Pass::kFprop;
  ConvProblem problem;
  const KernelInfo* kernel = nullptr;
  std::int64_t pixel_block = 0;  // fprop, dgrad: output pixels (winograd: tiles) of one work item
  std::int64_t row_block = 0;    // direct: destination rows of one work item
  std::int64_t tile_rows = 0;    // direct_planes: channels of the register tile
  // wgrad, bgrad: chunks of output rows (winograd: of tiles), summed in order.
  std::int64_t splits = 1;
  // Over before another thread would have begun. Changes no bits, so it is not part of a forced
  // plan.
  bool one_thread = false;
  // Few channels: one kernel row's taps and channels, adjacent in a packed row, are one run.
  bool merged_columns = false;
  // wgrad: input channels of one work item; winograd: source channels, those of whole groups;
  // depthwise and grouped: destination channels, output channels in wgrad, where an item has whole
  // planes, otherwise 0.
  std::int64_t channel_block = 0;
  // winograd: all tiles are one block, and each panel of weights is transformed where it is used.
  bool few_tiles = false;
  // pointwise: each thread packs the weights that it multiplies by, and all pixels pass them.
  bool by_panel = false;
  // The input's layout is that of each image; images may lie apart (batch invariance).
  bool images_apart = false;
  std::int64_t output_block = 0;  // wgrad outer: output channels (rows) of one work item
  bool swapped = false;  // wgrad outer, 1x1: lanes are output channels, rows input channels
  // wgrad outer: all pixels are one block, and rows of the result are stored when summed.
  bool one_block = false;
  bool read_in_place = false;  // wgrad outer: operands that lie as the kernel wants are not packed
  // dgrad of a padding mode that copies border pixels, by a kernel that knows zeros only: the
  // kernel that afterwards does what the copies bring, and the pixels of one work item of that
  // step.
  const KernelInfo* border = nullptr;
  std::int64_t border_block = 0;
  // At most. What a limit counts is their sum: a choice must not depend on the number of threads.
  std::int64_t workspace_bytes = 0;         // shared: packed weights or pixels, bias, sums
  std::int64_t thread_workspace_bytes = 0;  // of each thread: packed rows, tiles of results
  Cost cost;
  // Left empty unless the plan was made to be explained.
  std::string reason;
  std::vector<std::pair<std::string, std::string>> refused;  // kernel name, why
};

// Throws std::runtime_error when a forced kernel cannot run the problem.
ConvPlan make_plan(const ConvProblem& problem, Pass pass, const PlanOptions& options);
// The same plan, with the reasons for it.
ConvPlan explain_plan(const ConvProblem& problem, Pass pass, const PlanOptions& options);
// How the work is cut, in words: a line each.
std::vector<std::string> blocking_of(const ConvPlan& plan);
std::string to_string(const ConvPlan& plan);

// The process-wide options that ops use: CONVEXT_CPU_ISA, CONVEXT_PLAN and CONVEXT_WORKSPACE_LIMIT
// at start, then setters, which return the previous value.
PlanOptions current_options();
bool set_batch_invariant(bool on);
bool is_batch_invariant();                        // without a lock
std::string set_forced_plan(const std::string&);  // validates names
std::int64_t set_workspace_limit(std::int64_t bytes);
// Grows whenever an option changes.
std::uint64_t options_version();

// The plan under the current options. Valid until the thread's next call.
const ConvPlan& current_plan(const ConvProblem& problem, Pass pass);

}  // namespace convext
