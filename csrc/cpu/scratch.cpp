#include "scratch.h"

#include <cstdlib>
#include <new>

namespace convext {
namespace {

struct Buffer {
  void* data = nullptr;
  std::size_t capacity = 0;
  ~Buffer() { std::free(data); }
};

thread_local Buffer buffers[static_cast<int>(Slot::kCount)];

}  // namespace

void* scratch_bytes(Slot slot, std::size_t bytes) {
  Buffer& buffer = buffers[static_cast<int>(slot)];
  if (bytes > buffer.capacity || buffer.data == nullptr) {
    constexpr std::size_t kAlignment = 64;
    const std::size_t capacity = (bytes + kAlignment) / kAlignment * kAlignment;
    std::free(buffer.data);
    buffer.data = nullptr;
    buffer.capacity = 0;
    if (posix_memalign(&buffer.data, kAlignment, capacity) != 0) {
      buffer.data = nullptr;
      throw std::bad_alloc();
    }
    buffer.capacity = capacity;
  }
  return buffer.data;
}

}  // namespace convext
