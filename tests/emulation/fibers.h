// The threads of a block: fibers of one OS thread, switched by a few instructions of assembly.
#pragma once

#include <signal.h>
#include <ucontext.h>

#include <array>
#include <functional>
#include <memory>
#include <random>

#include "memory.h"

namespace emu {

// ---- context switch -----------------------------------------------------------------------------
// Saves the callee-saved registers of the System V ABI on the old stack, loads them from the new
// one.
#if defined(__x86_64__) && !defined(EMU_UCONTEXT)
extern "C" __attribute__((naked, noinline,
                          no_sanitize("thread", "address",
                                      "undefined"))) inline void emu_switch(void** /*save*/,
                                                                            void* /*load*/) {
  asm("pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
      "movq %rsp, (%rdi)\n movq %rsi, %rsp\n"
      "popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n ret\n");
}
struct Context {
  void* sp = nullptr;
  void start(char* lo, size_t size, void (*entry)()) {
    auto top = reinterpret_cast<void**>(lo + size) -
               2;  // 16-aligned; entry sees sp % 16 == 8 as after a call
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    sp = top;
  }
  static void swap(Context& from, Context& to) { emu_switch(&from.sp, to.sp); }
};
#else
struct Context {  // portable, about 20 times slower: swapcontext makes a system call
  ucontext_t u;
  void start(char* lo, size_t size, void (*entry)()) {
    getcontext(&u);
    u.uc_stack.ss_sp = lo;
    u.uc_stack.ss_size = size;
    u.uc_link = nullptr;
    makecontext(&u, entry, 0);
  }
  static void swap(Context& from, Context& to) { swapcontext(&from.u, &to.u); }
};
#endif

// ---- fibers and blocks --------------------------------------------------------------------------
enum class State : uint8_t { ready, barrier, warp, poll, done };

// What an mbarrier's 8 bytes hold: one never initialised, or overwritten, shows.
struct Mbarrier {
  int16_t pending, expected;  // arrivals still to come in this phase; in each phase
  int32_t word;  // bits 0..23: bytes still to come + 2^23, bit 24: phase, bits 25..: a mark
  static constexpr int mark = 0x2b;
  bool initialised() const { return word >> 25 == mark; }
  int bytes() const { return (word & 0xffffff) - (1 << 23); }
  int phase() const { return word >> 24 & 1; }
  void set(int bytes, int phase) { word = (bytes + (1 << 23)) | phase << 24 | mark << 25; }
};

struct Wgmma;  // one in flight (wgmma_host.cpp)
struct Store;  // a bulk store in flight (copies_host.cpp)
struct Copy {
  char* dst;
  unsigned char data[16];
  int group;
  Site site;
};  // one cp.async in flight

struct Fiber {
  Context ctx;
  char* stack = nullptr;
  void* fake_stack = nullptr;
  State state = State::ready;
  uint3 tid{};
  int id = 0, cta = 0, warp = 0, lane = 0;  // of the cluster: its threads and warps are numbered on
  unsigned sync_epoch = 0;  // __syncwarp calls so far: they order the accesses of one warp
  int barrier = 0;          // where it waits, in State::barrier (barriers.h)
  // What it waits for in State::poll: that a phase of an mbarrier is over, or, without one, that
  // its CTA has so many registers to give.
  const Mbarrier* polled = nullptr;
  int parity = 0, registers_wanted = 0;
  Site site;
  const char* what = "";
  std::vector<Copy> copies;
  int group = 0;                               // cp.async groups committed so far
  std::vector<std::shared_ptr<Wgmma>> wgmmas;  // kept by lane 0 of the warp
  int wgmma_group = 0;
  size_t wgmma_count = 0;
  bool wgmma_fenced = false;
  std::vector<std::shared_ptr<Store>> stores;
  int store_group = 0;
  uint64_t proxy_fence = 0, init_fence = 0;  // the time of its last fence.proxy.async, and so on
};

struct Rendezvous {
  unsigned mask = 0, arrived = 0;
  void* arg[32];
  Site site[32];
  const char* what[32];
};

struct Shadow {                              // per two bytes of shared memory
  uint64_t write_epoch = 0, read_epoch = 0;  // the time of the last write and read by a thread
  int writer = -1,
      reader = -1;  // thread; -2 - w: several lanes of warp w; reader -1: several warps
  unsigned write_sync = 0, read_sync = 0;
  bool pending = false;  // a cp.async into it is in flight
};

// Per 16 bytes: what bulk copies and wgmma did, who access nothing smaller.
struct Chunk {
  uint64_t landed = 0;             // the time of the last bulk copy into it
  uint64_t written = 0, used = 0;  // of threads' last write, and last access, to any part of it
  uint32_t warps = 0;              // whose wgmma read it since it landed, when: Block::wgmma_reads
  int16_t agent = 0;               // whose copy landed
  bool pending = false;            // a bulk copy into it is in flight
  uint8_t reading = 0;             // bulk stores in flight that read it
};

constexpr int most_warps = 32, most_agents = 32;

// A bulk copy to one CTA, in flight.
struct Flight {
  int cta;
  size_t at, barrier;  // in the CTA's shared memory
  int swizzle;
  std::shared_ptr<const std::vector<char>> bytes;
  const char* what;
  Site site;
};

struct Cta {
  int waiting = 0, done = 0;
  uint64_t epoch = 1;  // the time of the last __syncthreads
  struct {
    int arrived = 0, expected = 0;
  } named[16];
  int registers = 0;  // that no warp holds
};

constexpr size_t stack_bytes =
#if defined(__SANITIZE_ADDRESS__)
    256 << 10;
#else
    64 << 10;
#endif
constexpr size_t shared_body = 256 << 10;           // of a CTA
constexpr size_t shared_step = shared_body + 4096;  // to the next CTA's, behind a guard page
constexpr size_t most_ctas = 2;

// What runs at a time: a cluster's CTAs, mostly one.
struct Block {
  std::vector<Fiber> fibers;
  Fiber* cur = nullptr;
  Context sched;
  void* sched_fake = nullptr;
  const void* sched_bottom = nullptr;
  size_t sched_size = 0;
  int n = 0, warps = 0;  // of a CTA
  int cluster = 1;       // CTAs
  int done = 0, cluster_waiting = 0;
  Cta ctas[most_ctas];
  // Time goes on at each release, over all blocks, so that the shadow needs no clearing. An access
  // at time t of warp w comes before one of warp v if a full barrier happened after t (t < epoch)
  // or if v has since acquired, through barriers, a release of w after t (known[v][w] > t). Entries
  // from most_warps on stand for copies, by the mbarrier that they signal.
  uint64_t time = 1;         // now
  uint64_t first_epoch = 1;  // the start of this block
  using Clock = std::array<uint64_t, most_warps + most_agents>;
  std::array<Clock, most_warps> known{};
  bool async_kernel = false;  // orders warps by more than __syncthreads: `known` and `reads` count
  std::vector<uint64_t> reads;  // [two bytes][warp], allocated when the first such kernel comes
  std::vector<uint64_t> wgmma_reads;  // [chunk][warp]
  uint64_t progress = 0;              // counts everything that may let a polling fiber go on
  std::string error;
  bool failed = false;
  bool quiet =
      false;  // the runtime itself is touching shared memory: the instrumentation looks away
  void (*entry)(void*) = nullptr;
  void* entry_arg = nullptr;
  std::mt19937_64 rng;
  std::vector<Rendezvous> meets;  // 4 a warp, keyed by mask
  // Shared memory of each CTA: [dynamic][static arrays], placed so that the end of the dynamic part
  // is exact for the shadow.
  char *smem_map = nullptr, *smem = nullptr;
  size_t dyn_bytes = 0, used = 0;
  size_t dirty[most_ctas] = {};  // how much the last block may have written
  struct Static {
    const char* file;
    int line;
    size_t at, bytes;
  };
  std::vector<Static> statics;
  std::vector<Shadow> shadow;
  std::vector<Chunk> chunks;
  uint64_t switches = 0;
  // Bulk copies in flight, landed when nothing else can run (or at random).
  std::vector<Flight> flying;
  struct Phases {
    size_t at;                // from smem on
    Clock arrived, released;  // what arrivals so far release, and did when the last phase ended
    int initialiser;
    uint64_t initialised;
  };
  std::vector<Phases> mbarriers;
  std::vector<int> registers;  // a thread's, by warp
  // What each warpgroup's wgmmas were, in turn: its warps come to them one by one.
  std::vector<std::vector<std::shared_ptr<void>>> wgmma_log;

  Block() {
    const size_t page = 4096;
    smem_map = static_cast<char*>(mmap(nullptr, page + most_ctas * shared_step, PROT_NONE,
                                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    smem = smem_map + page;
    open_shared(1);
    stack_t alt{};
    alt.ss_size = 64 << 10;
    alt.ss_sp =
        mmap(nullptr, alt.ss_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    sigaltstack(&alt, nullptr);
  }
  void open_shared(size_t ctas) {
    for (size_t cta = shadow.size() * 2 / shared_step; cta < ctas; ++cta) {
      mprotect(smem_of(cta), shared_body, PROT_READ | PROT_WRITE);
      fill_poison(smem_of(cta), shared_body);
    }
    if (shadow.size() < ctas * shared_step / 2) {
      shadow.resize(ctas * shared_step / 2);
      chunks.resize(ctas * shared_step / 16);
      if (!reads.empty()) keep_reads();
    }
  }
  void keep_reads() {
    async_kernel = true;
    if (reads.size() == shadow.size() * most_warps) return;
    reads.resize(shadow.size() * most_warps);
    wgmma_reads.resize(chunks.size() * most_warps);
  }
  char* smem_of(size_t cta) const { return smem + cta * shared_step; }
  bool in_shared(const void* p) const {
    return p >= smem && p < smem + static_cast<size_t>(cluster) * shared_step;
  }
};
inline thread_local constinit Block* block = nullptr;

inline std::string here(const Fiber& f) {
  const unsigned x = blockIdx.x / block->cluster * block->cluster + f.cta;
  return format("block (%u,%u,%u) thread (%u,%u,%u)", x, blockIdx.y, blockIdx.z, f.tid.x, f.tid.y,
                f.tid.z);
}

inline void to_scheduler() {
  Block& b = *block;
  Fiber& f = *b.cur;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(f.state == State::done ? nullptr : &f.fake_stack, b.sched_bottom,
                                 b.sched_size);
#endif
  Context::swap(f.ctx, b.sched);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(f.fake_stack, &b.sched_bottom, &b.sched_size);
#endif
}

[[noreturn]] inline void fail(const std::string& message) {
  if (!block || !block->cur) throw Error(message);
  block->error = here(*block->cur) + ": " + message;
  block->failed = true;
  for (;;) to_scheduler();
}

inline void fiber_main() {
  Block& b = *block;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &b.sched_bottom, &b.sched_size);
#endif
  b.entry(b.entry_arg);
  Fiber& f = *b.cur;
  if (!f.wgmmas.empty()) fail("returned with a wgmma in flight");
  if (!f.copies.empty())
    fail(format("returned with a cp.async in flight (%s:%d)", base_name(f.copies[0].site.file),
                f.copies[0].site.line));
  if (!f.stores.empty()) fail("returned with a store that still reads shared memory");
  f.state = State::done;
  ++b.done, ++b.progress;
  if (++b.ctas[f.cta].done == b.n) {
    for (const Flight& copy : b.flying) {
      if (copy.cta == f.cta) {
        fail(format("its CTA returned with a copy into its shared memory in flight: %s (%s:%d)",
                    copy.what, base_name(copy.site.file), copy.site.line));
      }
    }
  }
  for (;;) to_scheduler();
}

inline void resume(Fiber& f) {
  Block& b = *block;
  b.cur = &f;
  threadIdx = f.tid;
  if (b.cluster > 1) blockIdx.x = blockIdx.x / b.cluster * b.cluster + f.cta;
  ++b.switches;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&b.sched_fake, f.stack, stack_bytes);
#endif
  Context::swap(b.sched, f.ctx);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(b.sched_fake, nullptr, nullptr);
#endif
  b.cur = nullptr;
}

}  // namespace emu
