// Loops over independent work items. The torch layer supplies torch's own thread pool; without
// torch (native tests) everything runs in the calling thread.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cpu/scratch.h"

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
};

}  // namespace convext
