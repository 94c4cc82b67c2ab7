// Loops over independent work items. The torch layer supplies torch's own thread pool; without
// torch (native tests) everything runs in the calling thread.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cpu/scratch.h"
#include "int_math.h"

namespace convext {

struct Threads {
  using Body = void (*)(void* context, std::int64_t begin, std::int64_t end);
  using ParallelFor = void (*)(std::int64_t items, Body body, void* context);

  int count = 1;
  ParallelFor parallel_for = nullptr;

  // Calls body(begin, end) on ranges that cover [0, items). Which thread gets which range never
  // influences a result: items write disjoint outputs.
  template <class F>
  void run(std::int64_t items, F&& body) const {
    if (items <= 0) return;
    if (count <= 1 || items == 1 || parallel_for == nullptr) {
      body(std::int64_t{0}, items);
      return;
    }
    using Function = std::remove_reference_t<F>;
    parallel_for(
        items,
        [](void* context, std::int64_t begin, std::int64_t end) {
          const ScratchUse use;
          (*static_cast<Function*>(context))(begin, end);
        },
        const_cast<void*>(static_cast<const void*>(&body)));
  }

  // Calls work(worker, item, unit, end unit) for all `items`, each of which consists of `units`,
  // with a Worker(pass) for every share of them. Where the items are too few to keep all threads
  // busy, the units of each are shared out too: how the work is cut must change no sum.
  template <class Worker, class Pass, class Work>
  void run_units(Pass& pass, std::int64_t items, std::int64_t units, Work&& work) const {
    constexpr std::int64_t kItemsPerThread = 4;
    std::int64_t parts = 1;
    if (count > 1 && items > 0 && items < kItemsPerThread * count) {
      parts = ceil_div(kItemsPerThread * count, items);
      parts = parts < units ? parts : units;
      if (parts < 1) parts = 1;
    }
    run(items * parts, [&](std::int64_t begin, std::int64_t end) {
      Worker worker(pass);
      for (std::int64_t share = begin; share < end;) {  // those of one item at once
        const std::int64_t item = share / parts, first = share % parts;
        const std::int64_t left = end - share, last = left < parts - first ? first + left : parts;
        work(worker, item, units * first / parts, units * last / parts);
        share += last - first;
      }
    });
  }
};

}  // namespace convext
