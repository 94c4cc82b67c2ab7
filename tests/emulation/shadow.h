// The last write and the last reads of each two bytes of shared memory, and when they were: a load
// that nothing ordered after a write, or of memory never written, is an error whatever it read.
#pragma once

#include "fibers.h"

namespace emu {

inline int warp_of(int thread) {
  return thread >= 0 ? thread / 32 : thread <= -2 ? -2 - thread : -1;
}
inline bool ordered(const Block& b, const Fiber& f, uint64_t time, int thread, unsigned sync) {
  if (time < b.epoch || thread == f.id) return true;
  int warp = warp_of(thread);
  if (warp == f.warp) return sync < f.sync_epoch;
  return warp >= 0 && b.known[f.warp][warp] > time;
}
inline bool ordered_after_reads(const Block& b, const Fiber& f, const Shadow& s) {
  if (!b.async_kernel || s.reader != -1) return ordered(b, f, s.read_epoch, s.reader, s.read_sync);
  const uint64_t* r = &b.reads[(&s - b.shadow.data()) * 33];
  for (int w = 0; w < 33; ++w)
    if (w != f.warp && r[w] >= b.epoch && b.known[f.warp][w] <= r[w]) return false;
  return true;
}
inline std::string who(const Block& b, int t) {
  if (t >= 0)
    return format("thread (%u,%u,%u)", b.fibers[t].tid.x, b.fibers[t].tid.y, b.fibers[t].tid.z);
  return t == -1 ? "several warps" : t == -34 ? "a bulk copy" : format("warp %d", -2 - t);
}
inline void shared_access(const void* p, size_t bytes, bool write, Site site = {},
                          const char* what = "access", Fiber* by = nullptr) {
  Block& b = *block;
  if (!config.shadow) return;
  Fiber& f = by ? *by : *b.cur;
  size_t at = static_cast<const char*>(p) - b.smem;
  auto where = [&] {
    auto t = format("%s %s shared byte %zu", what, write ? "writes" : "reads", at);
    return site.line ? t + format(" (%s:%d)", base_name(site.file), site.line) : t;
  };
  if (at + bytes > b.used) fail(where() + format(" of %zu: out of bounds", b.used));
  if (at >= b.dyn_bytes) {  // static arrays: the gaps between them are guard zones
    bool inside = false;
    for (auto& s : b.statics) inside |= at >= s.at && at + bytes <= s.at + s.bytes;
    if (!inside) fail(where() + ": outside every shared array");
  }
  for (size_t g = at / 2; g <= (at + bytes - 1) / 2; ++g) {
    Shadow& s = b.shadow[g];
    bool written = s.write_epoch >= b.first_epoch, was_read = s.read_epoch >= b.first_epoch;
    if (s.pending) fail(where() + " while a copy into it is in flight (missing wait?)");
    if (written && !ordered(b, f, s.write_epoch, s.writer, s.write_sync))
      fail(where() + ", a race with the write by " + who(b, s.writer) + " since the last barrier");
    if (write) {
      if (was_read && !ordered_after_reads(b, f, s))
        fail(where() + ", a race with the read by " + who(b, s.reader) + " since the last barrier");
      s.write_epoch = b.time, s.writer = f.id, s.write_sync = f.sync_epoch;
    } else {
      if (instrumented ? !written : reinterpret_cast<const uint16_t*>(b.smem)[g] == poison16)
        fail(where() + ", never written");
      if (s.read_epoch < b.epoch)
        s.reader = f.id;
      else if (s.reader != f.id) {
        int warp = warp_of(s.reader);
        s.reader = warp == f.warp ? -2 - warp : -1;
      }
      s.read_epoch = b.time, s.read_sync = f.sync_epoch;
      if (b.async_kernel) b.reads[g * 33 + f.warp] = b.time;
    }
  }
}
inline void global_access(const void* p, size_t bytes, bool write) {
  auto c = static_cast<const char*>(p);
  for (auto& r : ranges)
    if (c >= r.guard_lo && c < r.guard_hi) {
      if (c < r.lo || c + bytes > r.hi)
        fail(format("%s of %zu bytes at byte %td of buffer %s (%td bytes): out of bounds",
                    write ? "write" : "read", bytes, c - r.lo, r.name, r.hi - r.lo));
      return;
    }
}
// Called by the instrumentation for each load and store, and by the wrappers for their own.
inline void on_access(const void* p, size_t bytes, bool write) {
  Block* b = block;
  if (!b || !b->cur || b->quiet) return;
  if (b->in_shared(p))
    shared_access(p, bytes, write);
  else
    global_access(p, bytes, write);
}

}  // namespace emu
