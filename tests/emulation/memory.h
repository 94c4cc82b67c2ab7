// Memory that catches what runs over it, and the words of an error.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstring>
#include <source_location>
#include <stdexcept>
#include <string>
#include <vector>

#include "keywords.h"

namespace emu {

// A NaN as f16, bf16, f32 and f64, and a wild index as an int: what memory holds until the kernel
// writes it.
constexpr uint16_t poison16 = 0x7ff4;
inline void fill_poison(void* p, size_t bytes) {
  auto c = static_cast<unsigned char*>(p);
  auto odd = [&] { return reinterpret_cast<uintptr_t>(c) & 1; };
  if (bytes && odd()) *c++ = 0x7f, --bytes;
  std::fill_n(reinterpret_cast<uint16_t*>(c), bytes / 2, poison16);
  if (bytes % 2) c[bytes - 1] = 0xf4;
}

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

enum class Order { forward, reverse, random };
struct Config {
  Order order = Order::forward;
  uint64_t seed = 1;
  size_t shared_limit = 227 << 10;  // bytes a block may have, at most Hopper's
  int os_threads = 1;               // blocks are shared out over this many OS threads
  bool greedy = true;  // a warp runs as far as it can before the next one; else all warps keep step
  bool shadow =
      true;  // race and never-written checks of shared memory (exact only in an instrumented build)
  bool exited_count =
      false;  // threads that returned count as arrived at __syncthreads, as from Volta on
};
inline Config config;
inline bool instrumented = false;  // set by check_hooks.cpp: plain loads and stores are seen too

struct Site {
  const char* file = "";
  int line = 0;
  constexpr Site() = default;
  constexpr Site(const std::source_location& l) : file(l.file_name()), line(l.line()) {}
};
#define EMU_SITE \
  emu::Site site = std::source_location::current()  // the caller's line, in the kernel
inline const char* base_name(const char* p) {
  auto s = std::strrchr(p, '/');
  return s ? s + 1 : p;
}

template <class... A>
std::string format(const char* f, A... a) {
  char b[640];
  std::snprintf(b, sizeof b, f, a...);
  return b;
}

// ---- guarded memory -----------------------------------------------------------------------------
struct Range {
  char *lo, *hi, *guard_lo, *guard_hi;
  const char* name;
};
inline std::vector<Range> ranges;  // the live buffers; changed only between launches

// A region between two unreadable MiB. flush_end puts the last byte next to the upper one (up to
// `align`).
class Guarded {
 public:
  Guarded(size_t bytes, size_t align, bool flush_end, const char* name) : bytes_(bytes) {
    size_t page = 4096, body = (bytes + align + page - 1) / page * page;
    const size_t guard = 1 << 20;
    map_bytes_ = body + 2 * guard;
    map_ = static_cast<char*>(
        mmap(nullptr, map_bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (map_ == MAP_FAILED) throw Error("mmap failed");
    lo_ = map_ + guard, hi_ = lo_ + body;
    mprotect(lo_, body, PROT_READ | PROT_WRITE);
    data_ = flush_end
                ? reinterpret_cast<char*>(reinterpret_cast<uintptr_t>(hi_ - bytes) / align * align)
                : lo_;
    fill_poison(lo_, body);
    ranges.push_back({data_, data_ + bytes, map_, map_ + map_bytes_, name});
  }
  ~Guarded() {
    std::erase_if(ranges, [&](const Range& r) { return r.lo == data_; });
    munmap(map_, map_bytes_);
  }
  Guarded(const Guarded&) = delete;
  char* data() const { return data_; }
  void read_only() { mprotect(lo_, hi_ - lo_, PROT_READ); }
  void verify(
      const char* name) const {  // the slack bytes between the data and the unreadable pages
    for (char* p = lo_; p < hi_; ++p) {
      if (p >= data_ && p < data_ + bytes_) {
        p = data_ + bytes_ - 1;
        continue;
      }
      auto want = (reinterpret_cast<uintptr_t>(p) & 1) ? 0x7f : 0xf4;
      if (static_cast<unsigned char>(*p) != want)
        throw Error(
            format("write outside buffer %s at byte %td (size %zu)", name, p - data_, bytes_));
    }
  }

 private:
  char *map_, *lo_, *hi_, *data_;
  size_t map_bytes_, bytes_;
};

template <class T>
class Buffer {
 public:
  Buffer(size_t n, const char* name, bool flush_end = true, size_t align = 16)
      : mem_(std::max<size_t>(n, 1) * sizeof(T), align, flush_end, name), n_(n), name_(name) {}
  T* data() const { return reinterpret_cast<T*>(mem_.data()); }
  size_t size() const { return n_; }
  T& operator[](size_t i) { return data()[i]; }
  void read_only() { mem_.read_only(); }
  void verify() const { mem_.verify(name_); }

 private:
  Guarded mem_;
  size_t n_;
  const char* name_;
};

}  // namespace emu
