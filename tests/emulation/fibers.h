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

struct Wgmma {
  std::function<void()> run, store;
  const float* acc;
  std::shared_ptr<void> held;
  int group;
};  // one in flight
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
  int id = 0, warp = 0, lane = 0;
  unsigned sync_epoch = 0;  // __syncwarp calls so far: they order the accesses of one warp
  Site site;
  const char* what = "";
  std::vector<Copy> copies;
  int group = 0;              // cp.async groups committed so far
  std::vector<Wgmma> wgmmas;  // kept by lane 0 of the warp
  int wgmma_group = 0;
  bool wgmma_fenced = false;
  uint64_t proxy_fence = 0;  // the time of its last fence.proxy.async
};

struct Rendezvous {
  unsigned mask = 0, arrived = 0;
  void* arg[32];
  Site site[32];
  const char* what[32];
};

struct Shadow {                              // per two bytes of shared memory
  uint64_t write_epoch = 0, read_epoch = 0;  // the time of the last write and read
  int writer = -1,
      reader = -1;  // thread; -2 - w: several lanes of warp w, or agent w; reader -1: several warps
  unsigned write_sync = 0, read_sync = 0;
  bool pending = false;  // a cp.async or bulk copy into it is in flight
};

constexpr size_t stack_bytes =
#if defined(__SANITIZE_ADDRESS__)
    256 << 10;
#else
    64 << 10;
#endif
constexpr size_t shared_capacity = 227 << 10;

struct Block {
  std::vector<Fiber> fibers;
  Fiber* cur = nullptr;
  Context sched;
  void* sched_fake = nullptr;
  const void* sched_bottom = nullptr;
  size_t sched_size = 0;
  int n = 0, done = 0, waiting = 0;
  // Time goes on at each release, over all blocks, so that the shadow needs no clearing. An access
  // at time t of warp w comes before one of warp v if a full barrier happened after t (t < epoch)
  // or if v has since acquired, through mbarriers, a release of w after t (known[v][w] > t). Warp
  // 32 stands for the asynchronous copy engine.
  uint64_t time = 1, epoch = 1;  // now; the last __syncthreads
  uint64_t first_epoch = 1;      // the start of this block
  using Clock = std::array<uint64_t, 33>;
  std::array<Clock, 33> known{};
  bool async_kernel = false;    // uses mbarriers: last reads are then kept for each warp
  std::vector<uint64_t> reads;  // [granule][warp], allocated when the first such kernel comes
  uint64_t progress = 0;        // counts everything that may let a polling fiber go on
  std::string error;
  bool failed = false;
  bool quiet =
      false;  // the runtime itself is touching shared memory: the instrumentation looks away
  void (*entry)(void*) = nullptr;
  void* entry_arg = nullptr;
  std::mt19937_64 rng;
  std::vector<Rendezvous> meets;  // 4 a warp, keyed by mask
  // shared memory: [dynamic][static arrays], placed so that the end of the dynamic part is exact
  // for the shadow
  char *smem_map = nullptr, *smem = nullptr;
  size_t dyn_bytes = 0, used = 0;
  struct Static {
    const char* file;
    int line;
    size_t at, bytes;
  };
  std::vector<Static> statics;
  std::vector<Shadow> shadow;
  uint64_t switches = 0;
  std::vector<std::function<void()>>
      flying;  // bulk copies in flight, landed when nothing else can run (or at random)
  std::vector<std::pair<size_t, Clock>>
      mbars;  // what an mbarrier's phase releases, by its place in shared memory

  Block() {
    size_t page = 4096, body = 256 << 10;
    smem_map = static_cast<char*>(
        mmap(nullptr, body + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    smem = smem_map + page;
    mprotect(smem, body, PROT_READ | PROT_WRITE);
    fill_poison(smem, body);
    shadow.resize(body / 2);
    stack_t alt{};
    alt.ss_size = 64 << 10;
    alt.ss_sp =
        mmap(nullptr, alt.ss_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    sigaltstack(&alt, nullptr);
  }
  bool in_shared(const void* p) const { return p >= smem && p < smem + (256 << 10); }
};
inline thread_local constinit Block* block = nullptr;

inline std::string here(const Fiber& f) {
  return format("block (%u,%u,%u) thread (%u,%u,%u)", blockIdx.x, blockIdx.y, blockIdx.z, f.tid.x,
                f.tid.y, f.tid.z);
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
  f.state = State::done;
  ++b.done, ++b.progress;
  for (;;) to_scheduler();
}

inline void resume(Fiber& f) {
  Block& b = *block;
  b.cur = &f;
  threadIdx = f.tid;
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
