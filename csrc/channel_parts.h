// Channels in parts that are worked on one after the other.
#pragma once

#include <cstdint>

namespace convext {

// Parts of `size` channels; the last has at least a vector, and what is left.
struct ChannelParts {
  std::int64_t channels, size, count, widest;

  ChannelParts(std::int64_t all, std::int64_t size_of_part, std::int64_t vector)
      : channels(all), size(size_of_part) {
    count = all < size + vector ? 1 : (all + size - vector) / size;
    const std::int64_t last = all - (count - 1) * size;
    widest = count > 1 && last < size ? size : last;
    if (widest < vector) widest = vector;
  }

  std::int64_t first(std::int64_t part) const { return part * size; }
  std::int64_t end(std::int64_t part) const {
    return part + 1 == count ? channels : (part + 1) * size;
  }
};

}  // namespace convext
