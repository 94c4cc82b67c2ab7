// Stands in for libtsan: a kernel compiled with -fsanitize=thread and linked without it reports
// each load and store here. This file is compiled without that flag.
#include "cuda_host.h"

#define HOOK(n)                                                                      \
  extern "C" void __tsan_read##n(void* p) { emu::on_access(p, n, false); }           \
  extern "C" void __tsan_write##n(void* p) { emu::on_access(p, n, true); }           \
  extern "C" void __tsan_unaligned_read##n(void* p) { emu::on_access(p, n, false); } \
  extern "C" void __tsan_unaligned_write##n(void* p) { emu::on_access(p, n, true); } \
  extern "C" void __tsan_volatile_read##n(void* p) { emu::on_access(p, n, false); }  \
  extern "C" void __tsan_volatile_write##n(void* p) { emu::on_access(p, n, true); }
HOOK(1) HOOK(2) HOOK(4) HOOK(8) HOOK(16) extern "C" {
  void __tsan_init() {
    emu::instrumented = true;
  }  // called by the constructors of an instrumented object
  void __tsan_func_entry(void*) {}
  void __tsan_func_exit() {}
  void __tsan_vptr_update(void**, void*) {}
  void __tsan_vptr_read(void**) {}
  void __tsan_read_range(void* p, unsigned long n) { emu::on_access(p, n, false); }
  void __tsan_write_range(void* p, unsigned long n) { emu::on_access(p, n, true); }
  unsigned __tsan_atomic32_fetch_add(volatile unsigned* p, unsigned v, int) {
    return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST);
  }
  unsigned long __tsan_atomic64_fetch_add(volatile unsigned long* p, unsigned long v, int) {
    return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST);
  }
  unsigned long __tsan_atomic64_load(const volatile unsigned long* p, int) {
    return __atomic_load_n(p, __ATOMIC_SEQ_CST);
  }
  void __tsan_atomic64_store(volatile unsigned long* p, unsigned long v, int) {
    __atomic_store_n(p, v, __ATOMIC_SEQ_CST);
  }
  unsigned __tsan_atomic32_load(const volatile unsigned* p, int) {
    return __atomic_load_n(p, __ATOMIC_SEQ_CST);
  }
  void __tsan_atomic32_store(volatile unsigned* p, unsigned v, int) {
    __atomic_store_n(p, v, __ATOMIC_SEQ_CST);
  }
  unsigned char __tsan_atomic8_load(const volatile unsigned char* p, int) {
    return __atomic_load_n(p, __ATOMIC_SEQ_CST);
  }
  int __tsan_atomic32_compare_exchange_val(volatile int* p, int c, int v, int, int) {
    __atomic_compare_exchange_n(p, &c, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    return c;
  }
}
