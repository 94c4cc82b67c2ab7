// AxisMap forward against the definition, backward against forward.
#include "axis_map.h"

#include "check.h"

namespace convext_tests {
namespace {

using convext::AxisMap;
using convext::ConvProblem;
using convext::PaddingMode;

// The padded axis, built: entry i is the source of padded index i, or -1.
std::vector<std::int64_t> padded_axis(const ConvProblem& p) {
  std::vector<std::int64_t> axis;
  for (std::int64_t w = 0; w < p.W; ++w) axis.push_back(w);
  std::vector<std::int64_t> before, after;
  for (std::int64_t i = 1; i <= p.pad_left; ++i) {
    std::int64_t source = -1;
    if (p.padding_mode == PaddingMode::kReflect) source = axis[i];
    if (p.padding_mode == PaddingMode::kReplicate) source = axis.front();
    if (p.padding_mode == PaddingMode::kCircular) source = axis[p.W - i];
    before.insert(before.begin(), source);
  }
  for (std::int64_t i = 1; i <= p.pad_right; ++i) {
    std::int64_t source = -1;
    if (p.padding_mode == PaddingMode::kReflect) source = axis[p.W - 1 - i];
    if (p.padding_mode == PaddingMode::kReplicate) source = axis.back();
    if (p.padding_mode == PaddingMode::kCircular) source = axis[i - 1];
    after.push_back(source);
  }
  before.insert(before.end(), axis.begin(), axis.end());
  before.insert(before.end(), after.begin(), after.end());
  return before;
}

void check_axis(const ConvProblem& p) {
  const std::vector<std::int64_t> axis = padded_axis(p);
  const AxisMap forward = forward_map_w(p);
  CHECK(forward.destinations == p.Q && forward.taps == p.S, to_string(p));
  for (std::int64_t q = 0; q < p.Q; ++q) {
    for (std::int64_t s = 0; s < p.S; ++s) {
      const std::int64_t expected = axis[q * p.stride_w + s * p.dilation_w];
      CHECK(forward.source(q, s) == expected, to_string(p) << " at output " << q << ", tap " << s
                                                           << ": " << forward.source(q, s)
                                                           << " instead of " << expected);
    }
  }
  const AxisMap backward = invert(forward, p.W);
  CHECK(backward.destinations == p.W && backward.taps == p.S, to_string(p));
  std::int64_t longest = 0, entries = 0;
  for (std::int64_t w = 0; w < p.W; ++w) {
    for (std::int64_t s = 0; s < p.S; ++s) {
      std::vector<std::int64_t> expected;
      for (std::int64_t q = 0; q < p.Q; ++q) {
        if (axis[q * p.stride_w + s * p.dilation_w] == w) expected.push_back(q);
      }
      const std::vector<std::int64_t> actual(backward.list(w, s),
                                             backward.list(w, s) + backward.count(w, s));
      CHECK(actual == expected, to_string(p) << " at input " << w << ", tap " << s);
      if (backward.count(w, s) > longest) longest = backward.count(w, s);
      entries += backward.count(w, s);
    }
  }
  CHECK(backward.longest >= longest, to_string(p));
  CHECK(entries == static_cast<std::int64_t>(backward.sources.size()), to_string(p));
}

}  // namespace

void test_axis_maps() {
  for (const char* mode : {"zeros", "reflect", "replicate", "circular"}) {
    for (std::int64_t extent : {1, 2, 3, 7, 8}) {
      for (std::int64_t kernel : {1, 2, 3, 5}) {
        for (std::int64_t stride : {1, 2, 3, 9}) {
          for (std::int64_t dilation : {1, 2, 4}) {
            for (std::int64_t left : {0, 1, 2, 7, 11}) {
              for (std::int64_t right : {0, 3}) {
                const std::int64_t most = left > right ? left : right;
                if (mode == std::string("reflect") && most >= extent) continue;
                if (mode == std::string("circular") && most > extent) continue;
                if (extent + left + right < dilation * (kernel - 1) + 1) continue;
                convext::ConvArguments a;
                a.input_size = {1, 1, 1, extent};
                a.weight_size = {1, 1, 1, kernel};
                a.stride = {1, stride};
                a.padding = {left, right, 0, 0};
                a.dilation = {1, dilation};
                a.padding_mode = mode;
                check_axis(convext::make_conv_problem(a));
              }
            }
          }
        }
      }
    }
  }
}

}  // namespace convext_tests
