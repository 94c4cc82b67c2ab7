// Where threads wait for each other: barriers of the block, and meetings of a warp.
#pragma once

#include <bit>

#include "shadow.h"

namespace emu {

inline void wait_as(State s, const char* what, Site site) {
  Fiber& f = *block->cur;
  f.state = s, f.what = what, f.site = site;
  to_scheduler();
}
// Numbers of the places where fibers wait: barrier `id` of a CTA, and the cluster's.
constexpr int barrier_of(int cta, int id) { return cta * 16 + id; }
constexpr int cluster_barrier = most_ctas * 16;

// Those who wait there go on, and each warp among them knows what all did before.
inline void release_barrier(Block& b, int barrier) {
  ++b.time, ++b.progress;
  uint32_t warps = 0;
  for (auto& f : b.fibers)
    if (f.state == State::barrier && f.barrier == barrier)
      f.state = State::ready, ++f.sync_epoch, warps |= 1u << f.warp;
  for (int cta = 0; cta < b.cluster; ++cta) {
    if (barrier != cluster_barrier && barrier != barrier_of(cta, 0)) continue;
    b.ctas[cta].epoch = b.time;
    b.ctas[cta].waiting = 0;
  }
  if (!b.async_kernel) return;
  Block::Clock all{};
  for (int w = 0; w < most_warps; ++w) {
    if (!(warps >> w & 1)) continue;
    for (size_t i = 0; i < all.size(); ++i) all[i] = std::max(all[i], b.known[w][i]);
    all[w] = b.time;
  }
  for (int w = 0; w < most_warps; ++w)
    if (warps >> w & 1) b.known[w] = all;
}
// Waits there; the last of `threads`, of whom `*arrived` have come, releases all.
inline void wait_at_barrier(int barrier, int* arrived, int threads, const char* what, Site site) {
  Block& b = *block;
  b.cur->site = site, b.cur->barrier = barrier;
  if (++*arrived == threads) {
    *arrived = 0;
    b.cur->state = State::barrier;
    release_barrier(b, barrier);
    return wait_as(State::ready, what, site);
  }
  wait_as(State::barrier, what, site);
}

// The lanes of mask meet; the last one runs exec on the arguments of all. All lanes must come from
// the same place.
template <class Arg, class Exec>
inline void warp_meet(const char* what, unsigned mask, Site site, Arg& arg, Exec exec,
                      bool full = true) {
  Block& b = *block;
  Fiber& f = *b.cur;
  int lanes = std::min(32, b.n - f.warp % b.warps * 32);
  unsigned present = lanes == 32 ? ~0u : (1u << lanes) - 1;
  if (full && (present & mask) != ~0u)
    fail(format("%s at %s:%d in a warp without 32 lanes", what, base_name(site.file), site.line));
  mask &= present;
  if (!(mask >> f.lane & 1))
    fail(format("%s at %s:%d: the lane is not in its own mask %08x", what, base_name(site.file),
                site.line, mask));
  Rendezvous* r = nullptr;
  for (int i = 0; i < 4 && !r; ++i)
    if (auto& c = b.meets[f.warp * 4 + i]; c.arrived && c.mask == mask) r = &c;
  for (int i = 0; i < 4 && !r; ++i)
    if (auto& c = b.meets[f.warp * 4 + i]; !c.arrived) r = &c, r->mask = mask;
  if (!r) fail("too many warp rendezvous at once");
  if (r->arrived) {
    int o = std::countr_zero(r->arrived);
    if (r->mask != mask || r->what[o] != what || r->site[o].line != site.line)
      fail(format(
          "warp divergence: %s (mask %08x) at %s:%d while lane %d is in %s (mask %08x) at %s:%d",
          what, mask, base_name(site.file), site.line, o, r->what[o], r->mask,
          base_name(r->site[o].file), r->site[o].line));
  }
  r->arg[f.lane] = &arg, r->site[f.lane] = site, r->what[f.lane] = what;
  r->arrived |= 1u << f.lane;
  if (r->arrived != mask) return wait_as(State::warp, what, site);
  Arg* all[32] = {};
  for (int l = 0; l < 32; ++l)
    if (mask >> l & 1) all[l] = static_cast<Arg*>(r->arg[l]);
  b.quiet = true;
  exec(all, &b.fibers[f.warp * 32]);
  b.quiet = false;
  r->arrived = 0;
  ++b.progress;
  for (int l = 0; l < lanes; ++l)
    if (mask >> l & 1) b.fibers[f.warp * 32 + l].state = State::ready;
  wait_as(State::ready, what,
          site);  // keep to the order under test rather than let the last lane run on
}

// Whether a fiber in State::poll may go on.
inline bool poll_is_over(const Block& b, const Fiber& f) {
  return f.polled ? f.polled->phase() != f.parity : b.ctas[f.cta].registers >= f.registers_wanted;
}

inline std::string stuck(Block& b) {
  const Fiber *wait = nullptr, *other = nullptr;
  for (auto& f : b.fibers)
    if (f.state != State::done &&
        (!wait || (f.state == State::barrier && wait->state != State::barrier)))
      wait = &f;
  for (auto& f : b.fibers)
    if (&f != wait &&
        (f.state != wait->state || (f.state == State::warp && f.site.line != wait->site.line))) {
      other = &f;
      break;
    }
  int same = 0;
  for (auto& f : b.fibers) same += f.state == wait->state;
  auto s = here(*wait) + format(": stuck at %s (%s:%d) with %d of %d threads there", wait->what,
                                base_name(wait->site.file), wait->site.line, same, b.n * b.cluster);
  if (wait->state == State::poll && wait->polled)
    s += format(", which lacks %d arrivals and %d bytes", wait->polled->pending,
                wait->polled->bytes());
  if (other) {
    s += "; " + who(b, other->id);
    s += other->state == State::done ? std::string(" returned without it")
                                     : format(" is at %s (%s:%d)", other->what,
                                              base_name(other->site.file), other->site.line);
  }
  return s;
}

}  // namespace emu
