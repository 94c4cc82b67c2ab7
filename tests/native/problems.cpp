// ConvProblem: what it computes, what it refuses, and that no arithmetic wraps.
#include <functional>
#include <stdexcept>

#include "check.h"
#include "conv_plan.h"
#include "conv_problem.h"

namespace convext_tests {
namespace {

using convext::ConvArguments;
using convext::ConvProblem;

constexpr std::int64_t kHuge = std::int64_t{1} << 62;

ConvArguments small() {
  ConvArguments a;
  a.input_size = {1, 1, 5, 5};
  a.weight_size = {1, 1, 3, 3};
  a.stride = {1, 1};
  a.padding = {0, 0};
  a.dilation = {1, 1};
  return a;
}

void sizes_by_hand() {
  struct Row {
    std::int64_t h, w, r, s, stride, dilation;
    std::vector<std::int64_t> padding;
    std::int64_t p, q;
  };
  const Row rows[] = {
      {5, 5, 3, 3, 2, 1, {1, 1}, 3, 3},  // a 7x7 padded image
      {7, 7, 3, 3, 2, 1, {1, 1}, 4, 4},        {7, 7, 5, 5, 1, 1, {2, 2}, 7, 7},
      {6, 6, 3, 3, 2, 1, {0, 0}, 2, 2},         // floored: a row and a column are left over
      {1, 1, 1, 1, 5, 1, {0, 0}, 1, 1},         // stride > input
      {9, 5, 3, 2, 1, 4, {0, 0}, 1, 1},         // the dilated kernel just fits
      {5, 6, 3, 2, 1, 1, {1, 2, 3, 4}, 10, 8},  // left, right, top, bottom
  };
  for (const Row& row : rows) {
    ConvArguments a = small();
    a.input_size = {1, 1, row.h, row.w};
    a.weight_size = {1, 1, row.r, row.s};
    a.stride = {row.stride, row.stride};
    a.dilation = {row.dilation, row.dilation};
    a.padding = row.padding;
    const ConvProblem p = convext::make_conv_problem(a);
    CHECK(p.P == row.p && p.Q == row.q, convext::to_string(p));
  }
  ConvArguments a = small();
  a.padding = {1, 2, 3, 4};
  const ConvProblem p = convext::make_conv_problem(a);
  CHECK(p.pad_left == 1 && p.pad_right == 2 && p.pad_top == 3 && p.pad_bottom == 4,
        convext::to_string(p));
}

void refused(const char* words, const std::function<void(ConvArguments*)>& change) {
  ConvArguments a = small();
  change(&a);
  std::string message = "accepted";
  try {
    message += ": " + convext::to_string(convext::make_conv_problem(a));
  } catch (const std::runtime_error& error) {
    message = error.what();
  }
  CHECK(message.find(words) != std::string::npos, "'" << message << "' lacks '" << words << "'");
}

void bad_arguments() {
  refused("Expected 3D (unbatched) or 4D", [](auto* a) { a->input_size = {1, 5, 5}; });
  refused("Expected 4D weight", [](auto* a) { a->weight_size = {1, 3, 3}; });
  refused("expected stride to be", [](auto* a) { a->stride = {1}; });
  refused("expected dilation to be", [](auto* a) { a->dilation = {1, 1, 1}; });
  refused("expected padding to be", [](auto* a) { a->padding = {1, 1, 1}; });
  refused("non-positive stride", [](auto* a) { a->stride = {1, 0}; });
  refused("non-positive stride", [](auto* a) { a->stride = {-1, 1}; });
  refused("dilation should be greater than zero", [](auto* a) { a->dilation = {0, 1}; });
  refused("negative padding", [](auto* a) { a->padding = {0, -1}; });
  refused("negative padding", [](auto* a) { a->padding = {0, 0, 0, -1}; });
  refused("non-positive groups", [](auto* a) { a->groups = 0; });
  refused("to be at least 2 at dimension 0", [](auto* a) { a->groups = 2; });
  refused("divisible by 2 at dimension 0", [](auto* a) {
    a->groups = 2;
    a->input_size = {1, 2, 5, 5};
    a->weight_size = {3, 1, 3, 3};
  });
  refused("to have 2 channels, but got 1", [](auto* a) { a->weight_size = {1, 2, 3, 3}; });
  refused("kernel size must be positive", [](auto* a) { a->weight_size = {1, 1, 0, 3}; });
  refused("padding_mode must be one of", [](auto* a) { a->padding_mode = "symmetric"; });
  refused("Kernel size can't be greater than actual input size",
          [](auto* a) { a->input_size = {1, 1, 1, 1}; });
  refused("Kernel size: (9 x 3)", [](auto* a) { a->dilation = {4, 1}; });
  refused("zero batch or zero channel", [](auto* a) {
    a->input_size = {1, 1, 0, 5};
    a->padding = {2, 2};
  });
  // reflect stops short of the whole extent, circular at the whole extent; replicate has no limit.
  for (std::int64_t pad : {4, 5, 6}) {
    for (const char* mode : {"reflect", "circular", "replicate"}) {
      const bool reflect = mode == std::string("reflect"),
                 circular = mode == std::string("circular");
      const auto change = [&](ConvArguments* a) {
        a->padding = {pad, 0};
        a->padding_mode = mode;
      };
      if ((reflect && pad > 4) || (circular && pad > 5)) {
        refused(reflect ? "Padding size should be less" : "wrapping around more than once", change);
      } else {
        refused("accepted", change);
      }
    }
  }
  const ConvProblem p = convext::make_conv_problem(small());
  bool thrown = false;
  try {
    convext::check_bias(p, {1, 1, 3, 3}, {2});
  } catch (const std::runtime_error&) {
    thrown = true;
  }
  CHECK(thrown, "a bias of the wrong size was accepted");
}

void huge_numbers() {
  const char* too_large = "does not fit 64-bit arithmetic";
  refused(too_large, [](auto* a) { a->padding = {kHuge, 0}; });
  refused(too_large, [](auto* a) { a->padding = {0, kHuge}; });
  refused(too_large, [](auto* a) { a->padding = {kHuge, kHuge, kHuge, kHuge}; });
  refused(too_large, [](auto* a) { a->dilation = {kHuge, 1}; });
  refused(too_large, [](auto* a) { a->dilation = {1, INT64_MAX}; });
  refused(too_large, [](auto* a) {
    a->groups = kHuge;
    a->weight_size = {kHuge, 4, 1, 1};
  });
  // Each axis fits, their product does not.
  refused(too_large, [](auto* a) { a->padding = {std::int64_t{1} << 31, std::int64_t{1} << 31}; });
  refused(too_large, [](auto* a) {
    a->input_size = {std::int64_t{1} << 40, 1, 1, std::int64_t{1} << 22};
    a->weight_size = {1, 1, 1, 1};
  });
  refused(too_large, [](auto* a) {
    a->input_size = {1, std::int64_t{1} << 31, 1, 1};
    a->weight_size = {std::int64_t{1} << 31, std::int64_t{1} << 31, 1, 1};
  });
  refused("Kernel size can't be greater", [](auto* a) { a->dilation = {kHuge / 2, 1}; });
  // A stride may be as large as it likes: there is one output.
  ConvArguments a = small();
  a.stride = {INT64_MAX, INT64_MAX};
  const ConvProblem p = convext::make_conv_problem(a);
  CHECK(p.P == 1 && p.Q == 1, convext::to_string(p));
}

void plans() {
  const ConvProblem p = convext::make_conv_problem(small());
  convext::PlanOptions options;
  options.force = "reference";
  const convext::ConvPlan plan = explain_plan(p, convext::Pass::kFprop, options);
  CHECK(plan.kernel->algorithm == convext::Algorithm::kReference, to_string(plan));
  CHECK(!plan.refused.empty(), "the kernels before the reference are refused with a reason");
  ConvArguments a = small();
  a.input_size = {1, 2, 5, 5};
  a.weight_size = {1, 2, 3, 3};
  options.force = "depthwise";
  std::string message;
  try {
    make_plan(convext::make_conv_problem(a), convext::Pass::kFprop, options);
  } catch (const std::runtime_error& error) {
    message = error.what();
  }
  CHECK(message.find("needs one input channel a group, has 2") != std::string::npos,
        "'" << message << "' does not say why");
}

}  // namespace

void test_problems() {
  sizes_by_hand();
  bad_arguments();
  huge_numbers();
  plans();
}

}  // namespace convext_tests
