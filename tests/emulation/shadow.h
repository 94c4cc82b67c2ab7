// The last write and the last reads of each two bytes of shared memory, and when they were: a load
// that nothing ordered after a write, or of memory never written, is an error whatever it read.
#pragma once

#include "fibers.h"

namespace emu {

inline int warp_of(int thread) {
  return thread >= 0 ? thread / 32 : thread <= -2 ? -2 - thread : -1;
}
// `epoch` is that of the CTA whose memory it is, or 0 if that is not f's.
inline uint64_t epoch_for(const Block& b, const Fiber& f, size_t cta) {
  return cta == static_cast<size_t>(f.cta) ? b.ctas[cta].epoch : 0;
}
inline bool ordered(const Block& b, const Fiber& f, uint64_t epoch, uint64_t time, int thread,
                    unsigned sync) {
  if (time < epoch || thread == f.id) return true;
  int warp = warp_of(thread);
  if (warp == f.warp) return sync < f.sync_epoch;
  return warp >= 0 && b.known[f.warp][warp] > time;
}
inline bool ordered_after_reads(const Block& b, const Fiber& f, uint64_t epoch, const Shadow& s) {
  if (!b.async_kernel || s.reader != -1)
    return ordered(b, f, epoch, s.read_epoch, s.reader, s.read_sync);
  const uint64_t* r = &b.reads[(&s - b.shadow.data()) * most_warps];
  const uint64_t first = std::max(epoch, b.first_epoch);
  for (int w = 0; w < most_warps; ++w)
    if (w != f.warp && r[w] >= first && b.known[f.warp][w] <= r[w]) return false;
  return true;
}
inline bool ordered_after_copy(const Block& b, const Fiber& f, const Chunk& c) {
  return c.landed < b.first_epoch || b.known[f.warp][most_warps + c.agent] > c.landed;
}
// Null, or what is wrong with a write to the chunk as far as copies and wgmma go.
inline const char* async_objection(const Block& b, const Fiber& f, uint64_t epoch, const Chunk& c) {
  if (c.pending) return " while a copy into it is in flight (missing wait?)";
  if (c.reading > 0) return " while a store that reads it is in flight (missing wait?)";
  if (!ordered_after_copy(b, f, c))
    return ", a race with a copy into it, whose barrier it did not wait for";
  const uint64_t first = std::max(epoch, b.first_epoch);
  const uint64_t* r = &b.wgmma_reads[(&c - b.chunks.data()) * most_warps];
  for (uint32_t left = c.warps; left != 0; left &= left - 1) {
    const int w = std::countr_zero(left);
    if (w != f.warp && r[w] >= first && b.known[f.warp][w] <= r[w])
      return ", a race with a wgmma of another warp that reads it";
  }
  return nullptr;
}
inline std::string who(const Block& b, int t) {
  if (t >= 0)
    return format("thread (%u,%u,%u)", b.fibers[t].tid.x, b.fibers[t].tid.y, b.fibers[t].tid.z);
  return t == -1 ? "several warps" : format("warp %d", -2 - t);
}
inline void shared_access(const void* p, size_t bytes, bool write, Site site = {},
                          const char* what = "access", Fiber* by = nullptr) {
  Block& b = *block;
  if (!config.shadow) return;
  Fiber& f = by ? *by : *b.cur;
  const size_t from = static_cast<const char*>(p) - b.smem, cta = from / shared_step,
               at = from % shared_step;
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
  const uint64_t epoch = epoch_for(b, f, cta);
  for (size_t g = from / 2; g <= (from + bytes - 1) / 2; ++g) {
    Shadow& s = b.shadow[g];
    Chunk& c = b.chunks[g / 8];
    bool copied = false;
    if (b.async_kernel) {
      if (c.pending) fail(where() + " while a copy into it is in flight (missing wait?)");
      const char* objection = write ? async_objection(b, f, epoch, c) : nullptr;
      copied = c.landed >= b.first_epoch && c.landed > s.write_epoch;
      if (copied && !write && !ordered_after_copy(b, f, c))
        objection = ", a race with a copy into it, whose barrier it did not wait for";
      if (objection != nullptr) fail(where() + objection);
    }
    bool written = s.write_epoch >= b.first_epoch, was_read = s.read_epoch >= b.first_epoch;
    if (s.pending) fail(where() + " while a copy into it is in flight (missing wait?)");
    if (written && !copied && !ordered(b, f, epoch, s.write_epoch, s.writer, s.write_sync))
      fail(where() + ", a race with the write by " + who(b, s.writer) + " since the last barrier");
    if (write) {
      if (was_read && !ordered_after_reads(b, f, epoch, s))
        fail(where() + ", a race with the read by " + who(b, s.reader) + " since the last barrier");
      s.write_epoch = c.written = b.time, s.writer = f.id, s.write_sync = f.sync_epoch;
    } else {
      if (instrumented ? !written && !copied
                       : reinterpret_cast<const uint16_t*>(b.smem)[g] == poison16)
        fail(where() + ", never written");
      if (s.read_epoch < epoch)
        s.reader = f.id;
      else if (s.reader != f.id) {
        int warp = warp_of(s.reader);
        s.reader = warp == f.warp ? -2 - warp : -1;
      }
      s.read_epoch = b.time, s.read_sync = f.sync_epoch;
      if (b.async_kernel) b.reads[g * most_warps + f.warp] = b.time;
    }
    c.used = b.time;
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
  if (b->in_shared(p)) {
    if (static_cast<int>((static_cast<const char*>(p) - b->smem) / shared_step) != b->cur->cta)
      fail("a plain access to the shared memory of another CTA");
    shared_access(p, bytes, write);
  } else
    global_access(p, bytes, write);
}

}  // namespace emu
