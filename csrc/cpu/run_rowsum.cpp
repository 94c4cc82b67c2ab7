// Drives bias grad: sums of the gradient's pixels.
//
// Output rows (n, p), in order, are cut into plan.splits chunks by shape alone. A work item is one
// chunk; it packs a few hundred pixels at a time and adds their sum to its own. At the end the
// chunks are added in order. So the sums are the same for any number of threads.
#include <vector>

#include "../int_math.h"
#include "drivers.h"
#include "isa_kernels.h"
#include "isa_select.h"
#include "scratch.h"
#include "views.h"

namespace convext {
namespace {

template <class T>
void rowsum(const ConvPlan& plan, const ConvTensors& t, const Threads& threads) {
  const ComputeKernels<T>& kernels = compute_kernels<T>(plan.kernel->isa);
  const ConvProblem& p = plan.problem;
  const std::int64_t padded = round_up(p.K, kernels.lanes);
  const std::int64_t rows = p.N * p.P;
  constexpr std::int64_t kPiece = 256;  // pixels summed from zero at a time
  double* sums = scratch<double>(Slot::kSums, plan.splits * padded);
  threads.run(plan.splits, [&](std::int64_t begin, std::int64_t end) {
    T* packed = scratch<T>(Slot::kGrad, (p.Q < kPiece ? p.Q : kPiece) * padded);
    for (std::int64_t split = begin; split < end; ++split) {
      double* sum = sums + split * padded;
      for (std::int64_t k = 0; k < padded; ++k) sum[k] = 0;
      const std::int64_t last = rows * (split + 1) / plan.splits;
      for (std::int64_t row = rows * split / plan.splits; row < last; ++row) {
        for (std::int64_t q = 0; q < p.Q; q += kPiece) {
          const TensorView& g = t.output;
          const std::int64_t pixels = p.Q - q < kPiece ? p.Q - q : kPiece;
          kernels.pack({element(g, row / p.P, 0, row % p.P, q), g.dtype, g.stride[3], g.stride[1]},
                       pixels, p.K, padded, packed, padded, 0);
          kernels.add_rows(packed, pixels, padded, padded, sum);
        }
      }
    }
  });
  std::vector<T> total(p.K);
  for (std::int64_t k = 0; k < p.K; ++k) {
    double sum = sums[k];
    for (std::int64_t split = 1; split < plan.splits; ++split) sum += sums[split * padded + k];
    total[k] = static_cast<T>(sum);
  }
  kernels.unpack(total.data(), 1, p.K, 1, {t.bias.data, t.bias.dtype, t.bias.stride[1], 1});
}

}  // namespace

void run_rowsum(const ConvPlan& plan, const ConvTensors& tensors, const Threads& threads) {
  if (plan.problem.dtype == DType::kFloat64) {
    rowsum<double>(plan, tensors, threads);
  } else {
    rowsum<float>(plan, tensors, threads);
  }
}

}  // namespace convext
