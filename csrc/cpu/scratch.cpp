#include "scratch.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace convext {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;
// Below, a page or two would be gained, and the request is a system call.
constexpr std::size_t kFewestHugeBytes = 2 * kHugePage;

struct Buffer {
  void* data = nullptr;
  std::size_t capacity = 0;
  std::uint64_t use = 0;  // the last that asked for it
};

std::atomic<std::int64_t> bound{kKeptScratchBytes};

// One thread's buffers. The owner holds `busy` while it uses them, another thread while it frees
// them.
class Arena {
 public:
  Arena();
  ~Arena();

  void enter() {
    if (depth_++ > 0) return;
    busy_.lock();
    ++use_;
  }

  void leave() {
    if (--depth_ > 0) return;
    const std::int64_t most = bound.load(std::memory_order_relaxed);
    if (held() > most) release_down_to(most);
    busy_.unlock();
    // After the unlocking: a wish that came before and could not lock is seen here.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (wanted_back_.load(std::memory_order_relaxed)) answer_wish();
  }

  void* get(Slot slot, std::size_t bytes) {
    Buffer& buffer = buffers_[static_cast<int>(slot)];
    buffer.use = use_;
    if (bytes > buffer.capacity || buffer.data == nullptr) grow(&buffer, bytes);
    return buffer.data;
  }

  std::int64_t held() const { return held_.load(std::memory_order_relaxed); }

  void give_back() {
    wanted_back_.store(true, std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    answer_wish();
  }

 private:
  void answer_wish() {
    if (!busy_.try_lock()) return;  // who has the lock looks again when it is free
    if (wanted_back_.exchange(false, std::memory_order_relaxed)) release_all();
    busy_.unlock();
  }

  void grow(Buffer* buffer, std::size_t bytes) {
    release(buffer);
    std::size_t alignment = 64;
    if (bytes >= kFewestHugeBytes) alignment = kHugePage;
    const std::size_t capacity = (bytes + 64) / 64 * 64;
    const std::int64_t most = bound.load(std::memory_order_relaxed);
    for (Buffer& other : buffers_) {
      if (held() + static_cast<std::int64_t>(capacity) <= most) break;
      if (other.use != use_) release(&other);
    }
    void* data = nullptr;
    if (posix_memalign(&data, alignment, capacity) != 0) throw std::bad_alloc();
    advise_huge_pages(data, capacity);
    buffer->data = data;
    buffer->capacity = capacity;
    held_.fetch_add(static_cast<std::int64_t>(capacity), std::memory_order_relaxed);
  }

  void release(Buffer* buffer) {
    std::free(buffer->data);
    held_.fetch_sub(static_cast<std::int64_t>(buffer->capacity), std::memory_order_relaxed);
    buffer->data = nullptr;
    buffer->capacity = 0;
  }

  void release_all() {
    for (Buffer& buffer : buffers_) release(&buffer);
  }

  void release_down_to(std::int64_t bytes) {
    while (held() > bytes) {
      release(std::max_element(
          std::begin(buffers_), std::end(buffers_),
          [](const Buffer& a, const Buffer& b) { return a.capacity < b.capacity; }));
    }
  }

  Buffer buffers_[static_cast<int>(Slot::kCount)];
  std::atomic<std::int64_t> held_{0};
  std::atomic<bool> wanted_back_{false};
  std::mutex busy_;
  int depth_ = 0;
  std::uint64_t use_ = 0;
};

struct Register {
  std::mutex mutex;
  std::vector<Arena*> arenas;
};

// Never destroyed: threads may end after the process's static objects.
Register& all_arenas() {
  static Register* const instance = new Register;
  return *instance;
}

Arena::Arena() {
  Register& all = all_arenas();
  const std::lock_guard<std::mutex> lock(all.mutex);
  all.arenas.push_back(this);
}

Arena::~Arena() {
  Register& all = all_arenas();
  {
    const std::lock_guard<std::mutex> lock(all.mutex);
    all.arenas.erase(std::find(all.arenas.begin(), all.arenas.end(), this));
  }
  release_all();
}

Arena& my_arena() {
  thread_local Arena arena;
  return arena;
}

}  // namespace

void* scratch_bytes(Slot slot, std::size_t bytes) { return my_arena().get(slot, bytes); }

ScratchUse::ScratchUse() { my_arena().enter(); }
ScratchUse::~ScratchUse() { my_arena().leave(); }

void bound_scratch(std::int64_t bytes) {
  bound.store(std::min(bytes, kKeptScratchBytes), std::memory_order_relaxed);
}

std::int64_t held_scratch() {
  Register& all = all_arenas();
  const std::lock_guard<std::mutex> lock(all.mutex);
  std::int64_t bytes = 0;
  for (const Arena* arena : all.arenas) bytes += arena->held();
  return bytes;
}

void free_scratch() {
  Register& all = all_arenas();
  const std::lock_guard<std::mutex> lock(all.mutex);
  for (Arena* arena : all.arenas) arena->give_back();
}

void advise_huge_pages(void* data, std::size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (bytes < kFewestHugeBytes) return;
  const std::uintptr_t first = reinterpret_cast<std::uintptr_t>(data);
  const std::uintptr_t begin = (first + kHugePage - 1) / kHugePage * kHugePage;
  const std::uintptr_t end = (first + bytes) / kHugePage * kHugePage;
  // Advice: a kernel that does not follow it loses nothing but time.
  if (begin < end) (void)madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)data;
  (void)bytes;
#endif
}

}  // namespace convext
