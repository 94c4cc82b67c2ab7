// Runs a grid: a block after the other, its fibers in the order that is tried.
#pragma once

#include <atomic>
#include <mutex>
#include <random>
#include <thread>

#include "barriers.h"

namespace emu {

void land(const Flight& copy);          // copies_host.cpp
void check_warpgroups(const Block& b);  // wgmma_host.cpp

inline void
on_fault_landing() {  // entered on the faulting fiber's own stack; the message is in block->error
  fail(block->error);
}
inline void on_fault(int, siginfo_t* info, void* u) {
  if (!block || !block->cur) {
    signal(SIGSEGV, SIG_DFL);
    return;
  }
  auto c = static_cast<char*>(info->si_addr);
  std::string s = format("bad address %p", info->si_addr);
  for (auto& r : ranges)
    if (c >= r.guard_lo && c < r.guard_hi)
      s = format("access at byte %td of buffer %s (%td bytes): %s", c - r.lo, r.name, r.hi - r.lo,
                 c >= r.lo && c < r.hi ? "write to a read-only buffer" : "out of bounds");
  if (c >= block->smem_map && c < block->smem + most_ctas * shared_step)
    s = format("access at shared byte %td: out of bounds", c - block->smem_of(block->cur->cta));
  if (c >= block->cur->stack - 4096 && c < block->cur->stack) s = "fiber stack overflow";
  block->error = s;
#if defined(__x86_64__)
  auto& g = static_cast<ucontext_t*>(u)->uc_mcontext.gregs;
  bool over = s == "fiber stack overflow";
  auto sp =
      over ? reinterpret_cast<uintptr_t>(block->cur->stack) + stack_bytes - 64 : g[REG_RSP] - 512;
  g[REG_RSP] = (sp & ~15ull) - 8;
  g[REG_RIP] = reinterpret_cast<greg_t>(&on_fault_landing);
#endif
}

inline void run_block(uint64_t seed) {
  Block& b = *block;
  b.rng.seed(seed);
  b.warps = (b.n + 31) / 32;
  const int all = b.n * b.cluster, warps = b.warps * b.cluster;
  if (static_cast<int>(b.fibers.size()) != all) {
    static thread_local std::vector<char*> stacks;
    while (static_cast<int>(stacks.size()) < all) {
      auto m = static_cast<char*>(mmap(nullptr, stack_bytes + 4096, PROT_READ | PROT_WRITE,
                                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
      mprotect(m, 4096, PROT_NONE);
      stacks.push_back(m + 4096);
    }
    b.fibers.clear();
    b.fibers.resize(all);
    for (int i = 0; i < all; ++i) b.fibers[i].stack = stacks[i];
  }
  for (int i = 0; i < all; ++i) {
    Fiber& f = b.fibers[i];
    char* const stack = f.stack;
    f = Fiber();
    f.stack = stack;
    const unsigned u = i % b.n;
    f.tid = {u % blockDim.x, u / blockDim.x % blockDim.y, u / (blockDim.x * blockDim.y)};
    f.id = i, f.cta = i / b.n, f.warp = f.cta * b.warps + u / 32, f.lane = u % 32;
#if defined(__SANITIZE_ADDRESS__)
    ASAN_UNPOISON_MEMORY_REGION(f.stack, stack_bytes);
#endif
    f.ctx.start(f.stack, stack_bytes, &fiber_main);
  }
  b.meets.assign(warps * 4, {});
  b.done = b.cluster_waiting = 0, b.failed = b.quiet = false, b.error.clear();
  b.first_epoch = ++b.time;
  // As many as a thread can have, an upper bound on what the compiler gives it.
  const int registers = std::min(65536 / b.n / 8 * 8, 256);
  b.registers.assign(warps, registers);
  for (auto& cta : b.ctas) cta = Cta(), cta.epoch = b.time;
  b.known = {};
  b.async_kernel = false;
  if (b.cluster > 1) b.keep_reads();
  b.flying.clear();
  b.statics.clear();
  b.mbarriers.clear();
  b.wgmma_log.assign(warps, {});
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(b.smem, shared_body);
#endif
  for (int cta = 0; cta < b.cluster; ++cta) {
    // All that the block before may have written; the rest is poison still.
    const size_t first = cta * shared_step, end = first + b.dirty[cta];
    fill_poison(b.smem_of(cta), std::min(b.dirty[cta] + 4096, shared_body));
    for (size_t g = first / 2; g < (end + 1) / 2; ++g) b.shadow[g].pending = false;
    for (size_t c = first / 16; c < (end + 15) / 16; ++c)
      b.chunks[c].pending = false, b.chunks[c].reading = 0, b.chunks[c].warps = 0;
    b.dirty[cta] = b.dyn_bytes;
  }
  b.used = b.dyn_bytes;
#if defined(__SANITIZE_ADDRESS__)
  ASAN_POISON_MEMORY_REGION(b.smem + b.dyn_bytes, shared_body - b.dyn_bytes);
#endif

  std::vector<int> warp_order(warps), lane_order(32);
  auto shuffle = [&] {
    for (int i = 0; i < warps; ++i)
      warp_order[i] = config.order == Order::reverse ? warps - 1 - i : i;
    for (int i = 0; i < 32; ++i) lane_order[i] = config.order == Order::reverse ? 31 - i : i;
    if (config.order == Order::random)
      std::shuffle(warp_order.begin(), warp_order.end(), b.rng),
          std::shuffle(lane_order.begin(), lane_order.end(), b.rng);
  };
  // Each warp goes as far as it can before the next one starts: the largest skew that the barriers
  // allow.
  for (uint64_t polled = 0;;) {
    bool any = false;
    shuffle();
    for (int w : warp_order)
      for (bool again = true; again;) {
        again = false;
        for (int l : lane_order) {
          const int u = w % b.warps * 32 + l, i = w / b.warps * b.n + u;
          if (u >= b.n || b.fibers[i].state != State::ready) continue;
          resume(b.fibers[i]);
          if (b.failed) {
            b.cur = nullptr;
            throw Error(b.error);
          }
          any = true, again = config.greedy;
        }
      }
    if (b.done == all) break;
    for (int cta = 0; config.exited_count && cta < b.cluster; ++cta)
      if (b.ctas[cta].waiting && b.ctas[cta].waiting + b.ctas[cta].done == b.n)
        release_barrier(b, barrier_of(cta, 0)), any = true;
    if (b.progress != polled) {  // let the pollers look again
      polled = b.progress;
      for (auto& f : b.fibers)
        if (f.state == State::poll && poll_is_over(b, f)) f.state = State::ready, any = true;
    }
    if (!b.flying.empty() && (!any || (config.order == Order::random && b.rng() % 4 == 0))) {
      const size_t last = b.flying.size() - 1;
      const size_t i = config.order == Order::forward   ? 0
                       : config.order == Order::reverse ? last
                                                        : b.rng() % b.flying.size();
      const Flight copy = std::move(b.flying[i]);
      b.flying.erase(b.flying.begin() + i);
      land(copy);
      ++b.progress, any = true;
    }
    if (!any && b.progress == polled) throw Error(stuck(b));
  }
  check_warpgroups(b);
#if !defined(__SANITIZE_ADDRESS__)
  for (int cta = 0; cta < b.cluster; ++cta) {
    const char* smem = b.smem_of(cta);
    for (size_t i = b.used; i < std::min(b.used + 4096, shared_body); ++i)
      if (static_cast<unsigned char>(smem[i]) != ((i & 1) ? 0x7f : 0xf4))
        throw Error(format("block (%u,%u,%u): write past the end of shared memory, byte %zu of %zu",
                           blockIdx.x, blockIdx.y, blockIdx.z, i, b.used));
  }
#endif
}

struct Stats {
  uint64_t blocks = 0, switches = 0;
};
inline Stats stats;

// A per-launch array in shared memory, identified by its place in the source; 64 guard bytes follow
// each.
inline void* static_shared(const char* file, int line, size_t bytes, size_t align) {
  Block& b = *block;
  for (auto& s : b.statics)
    if (s.line == line && s.bytes == bytes && !std::strcmp(s.file, file))
      return b.smem_of(b.cur->cta) + s.at;
  align = std::max<size_t>(align, 16);
  size_t at = (b.used + 64 + align - 1) / align * align;
  if (at + bytes > config.shared_limit)
    fail(format("%zu bytes of shared memory, there are %zu", at + bytes, config.shared_limit));
  b.statics.push_back({file, line, at, bytes});
  b.used = at + bytes;
  for (int cta = 0; cta < b.cluster; ++cta) b.dirty[cta] = b.used;
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(b.smem + at, bytes);
#endif
  return b.smem_of(b.cur->cta) + at;
}
inline void expect_aligned(const void* at, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(at) % bytes != 0)
    fail(format("an access of %zu bytes is misaligned: %p", bytes, at));
}
inline unsigned char* dynamic_shared() {
  return reinterpret_cast<unsigned char*>(block->smem_of(block->cur->cta));
}
inline unsigned shared_address(const void* p) {
  const Block& b = *block;
  if (!b.in_shared(p)) fail("the pointer is not into shared memory");
  const size_t at = static_cast<const char*>(p) - b.smem;
  if (static_cast<int>(at / shared_step) != b.cur->cta)
    fail("the pointer is into the shared memory of another CTA");
  return static_cast<unsigned>(at % shared_step);
}
inline char* shared_pointer(unsigned a) { return block->smem_of(block->cur->cta) + a; }

// Stands for kernel<<<grid, threads, smem>>>(args...), `cluster` CTAs of neighbouring blockIdx.x
// being one. Throws Error with the first violation found.
template <class... P, class... A>
void launch_cluster(void (*kernel)(P...), int cluster, dim3 grid, dim3 threads, size_t smem,
                    A... args) {
  static std::once_flag once;
  std::call_once(once, [] {
    struct sigaction sa{};
    sa.sa_sigaction = on_fault, sa.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &sa, nullptr), sigaction(SIGBUS, &sa, nullptr);
  });
  unsigned n = threads.x * threads.y * threads.z;
  if (!n || n > 1024 || !grid.x || !grid.y || !grid.z || grid.y > 65535 || grid.z > 65535 ||
      smem > config.shared_limit || cluster < 1 || cluster > static_cast<int>(most_ctas) ||
      grid.x % cluster || (cluster > 1 && (n % 32 || n * cluster > most_warps * 32)))
    throw Error("launch: bad configuration");
  const unsigned across = grid.x / cluster;
  const uint64_t total = uint64_t(across) * grid.y * grid.z;
  std::atomic<uint64_t> next{0}, switches{0};
  std::string error;
  std::mutex lock;
  auto work = [&] {
    static thread_local Block own;
    block = &own;
    auto body = [&] { kernel(static_cast<P>(args)...); };
    own.entry = [](void* p) { (*static_cast<decltype(body)*>(p))(); };
    own.entry_arg = &body;
    own.n = n, own.cluster = cluster, own.dyn_bytes = smem, own.switches = 0;
    own.open_shared(cluster);
    blockDim = {threads.x, threads.y, threads.z}, gridDim = {grid.x, grid.y, grid.z};
    try {
      for (uint64_t i; (i = next++) < total;) {
        if (config.order == Order::reverse) i = total - 1 - i;
        blockIdx = {unsigned(i % across) * cluster, unsigned(i / across % grid.y),
                    unsigned(i / across / grid.y)};
        run_block(config.seed * 0x9e3779b97f4a7c15ull + i);
      }
    } catch (const Error& e) {
      std::lock_guard g(lock);
      if (error.empty()) error = e.what();
      next = total;
    }
    switches += own.switches;
    block = nullptr;
  };
  if (config.os_threads <= 1)
    work();
  else {
    std::vector<std::thread> pool;
    for (int i = 0; i < config.os_threads; ++i) pool.emplace_back(work);
    for (auto& t : pool) t.join();
  }
  stats.blocks += total * cluster, stats.switches += switches;
  if (!error.empty()) throw Error(error);
}
template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 threads, size_t smem, A... args) {
  launch_cluster(kernel, 1, grid, threads, smem, args...);
}
}  // namespace emu
