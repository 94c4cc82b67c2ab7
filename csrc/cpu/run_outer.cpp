// Drives weight grad of dense and grouped convolutions (wgrad_outer.h).
//
// Output rows (n, p) are cut into strips of a few hundred pixels at most, and the strips, in order,
// into plan.splits chunks by shape alone. A work item is one chunk, one group, one block of lanes
// and one block of rows of the result; it owns its part of one copy of the weight and walks its
// strips in blocks. At the end the copies are added in order. So the sums are the same for any
// number of threads, and each is a sum of sums of short sums.
//
// Lanes are input channels and rows output channels. With plan.swapped (1x1) they change places.
#include <vector>

#include "outer_worker.h"

namespace convext {
namespace {

template <class T>
class OuterPass {
 public:
  OuterPass(const ConvPlan& plan, const ConvTensors& tensors) : layout_(plan, tensors) {}

  void run(const Threads& threads) {
    const bool copies = !layout_.sum_in_place && !layout_.store_at_once;
    if (copies) {
      sums_ = scratch<T>(Slot::kSums, layout_.splits * layout_.groups * layout_.group_elements());
    }
    const std::int64_t parts = layout_.groups * layout_.lane_chunks * layout_.row_chunks;
    threads.run(layout_.splits * parts, [&](std::int64_t begin, std::int64_t end) {
      OuterWorker<T> worker(layout_, sums_);
      for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t split = item / parts, part = item % parts;
        worker.item(split, part / layout_.row_chunks / layout_.lane_chunks,
                    part / layout_.row_chunks % layout_.lane_chunks, part % layout_.row_chunks);
      }
    });
    if (copies) reduce(threads);
  }

 private:
  // grad_weight = the copies of its sums, added in order.
  void reduce(const Threads& threads) {
    // Waking threads costs as much as adding this many.
    constexpr std::int64_t kWorthThreads = 1 << 15;
    // Where neighbouring rows are adjacent in the weight, several are written at once.
    constexpr std::int64_t kRows = 48;
    const bool across = layout_.groups == 1 && layout_.taps == 1 && !layout_.merged &&
                        layout_.weight.stride[0] == 1;
    const std::int64_t rows = across ? kRows : 1;
    const auto body = [&](std::int64_t begin, std::int64_t end) {
      reduce_rows(begin * rows, least(end * rows, layout_.p.K), rows);
    };
    const std::int64_t items = ceil_div(layout_.p.K, rows);
    if (layout_.splits * layout_.groups * layout_.group_elements() < kWorthThreads) {
      body(0, items);
    } else {
      threads.run(items, body);
    }
  }

  void reduce_rows(std::int64_t begin, std::int64_t end, std::int64_t at_once) {
    const std::int64_t row_elements = layout_.p.taps() * layout_.channels;
    std::vector<T> total(at_once * row_elements);
    for (std::int64_t k = begin; k < end; k += at_once) {
      const std::int64_t rows = least(at_once, end - k);
      for (std::int64_t i = 0; i < rows; ++i) add_copies(k + i, total.data() + i * row_elements);
      if (at_once > 1) {
        layout_.kernels.unpack(total.data(), row_elements, rows, layout_.channels,
                               {element(layout_.weight, k, 0, 0, 0), layout_.weight.dtype,
                                layout_.weight.stride[0], layout_.weight.stride[1]});
      } else {
        store_taps(layout_, total.data(), layout_.channels, k, 0, layout_.channels);
      }
    }
  }

  // total[tap][channel] of output channel k; merged lanes already are (s, channel).
  void add_copies(std::int64_t k, T* total) const {
    const std::int64_t copy = layout_.groups * layout_.group_elements();
    const std::int64_t g = k / layout_.outputs, row = k % layout_.outputs;
    for (std::int64_t block = 0; block < layout_.lane_blocks; ++block) {
      const std::int64_t count = least(layout_.lanes - block * layout_.nr, layout_.nr);
      for (std::int64_t tap = 0; tap < layout_.taps; ++tap) {
        const T* sum = sums_ + g * layout_.group_elements() + layout_.sum_offset(row, block, tap);
        T* out = total + tap * layout_.lanes + block * layout_.nr;
        for (std::int64_t i = 0; i < count; ++i) out[i] = sum[i];
        for (std::int64_t split = 1; split < layout_.splits; ++split) {
          const T* next = sum + split * copy;
          for (std::int64_t i = 0; i < count; ++i) out[i] += next[i];
        }
      }
    }
  }

  OuterLayout<T> layout_;
  T* sums_ = nullptr;
};

}  // namespace

void run_outer(const ConvPlan& plan, const ConvTensors& tensors, const Threads& threads) {
  if (plan.problem.dtype == DType::kFloat64) {
    OuterPass<double>(plan, tensors).run(threads);
  } else {
    OuterPass<float>(plan, tensors).run(threads);
  }
}

}  // namespace convext
