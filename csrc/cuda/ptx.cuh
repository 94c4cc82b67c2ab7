// The only home of inline PTX: one thin wrapper an instruction. The emulation has functions of the
// same names (tests/emulation/ptx_host.h).
#pragma once

#include <type_traits>

#include "platform.cuh"

#if defined(__CUDACC__)

namespace convext::cuda {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#define CONVEXT_BEFORE_AMPERE 1
#endif

CONVEXT_DEVICE unsigned smem_address(const void* p) {
  return static_cast<unsigned>(__cvta_generic_to_shared(p));
}

// ---- asynchronous copies (PTX ISA: cp.async) ----------------------------------------------------

// 16 bytes from global to shared memory, both aligned; those after the first `bytes` become zeros.
// Before sm_80 the copy is over at once.
CONVEXT_DEVICE void cp_async16(void* to, const void* from, int bytes) {
#ifdef CONVEXT_BEFORE_AMPERE
  const uint4 zeros = make_uint4(0, 0, 0, 0);
  *static_cast<uint4*>(to) = bytes == 16 ? *static_cast<const uint4*>(from) : zeros;
#else
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(smem_address(to)), "l"(from),
               "r"(bytes)
               : "memory");
#endif
}

CONVEXT_DEVICE void cp_async_commit() {
#ifndef CONVEXT_BEFORE_AMPERE
  asm volatile("cp.async.commit_group;\n" ::: "memory");
#endif
}

// Until no more than N of the thread's groups are on their way.
template <int N>
CONVEXT_DEVICE void cp_async_wait() {
#ifndef CONVEXT_BEFORE_AMPERE
  asm volatile("cp.async.wait_group %0;\n" ::"n"(N) : "memory");
#endif
}

// ---- matrices of 8 x 8 16-bit elements from shared memory (PTX ISA: ldmatrix) -------------------
// Lanes 8i to 8i + 7 give the addresses of matrix i's rows; a lane receives of each matrix the
// elements 2 * (lane % 4) and the next of row lane / 4, or, transposed, of column lane / 4.

CONVEXT_DEVICE void ldmatrix_x4(unsigned (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(smem_address(row))
               : "memory");
}

CONVEXT_DEVICE void ldmatrix_x4_trans(unsigned (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(smem_address(row))
               : "memory");
}

// The double whose halves these are.
CONVEXT_DEVICE double as_double(unsigned low, unsigned high) {
  return __hiloint2double(static_cast<int>(high), static_cast<int>(low));
}

// ---- products of a warp (PTX ISA: mma) ----------------------------------------------------------
// d += a * b; a is 16 x 16, b is 16 x 8. With g = lane / 4 and t = lane % 4, d holds rows g and g +
// 8 of columns 2t and 2t + 1.

CONVEXT_DEVICE void mma_m16n8k16_f16(float (&d)[4], const unsigned (&a)[4],
                                     const unsigned (&b)[2]) {
#ifdef CONVEXT_BEFORE_AMPERE
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, "
        "{%0,%1,%2,%3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[2 * k]), "r"(a[2 * k + 1]), "r"(b[k]));
  }
#else
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// From sm_80 on.
CONVEXT_DEVICE void mma_m16n8k16_bf16(float (&d)[4], const unsigned (&a)[4],
                                      const unsigned (&b)[2]) {
#ifdef CONVEXT_BEFORE_AMPERE
  __trap();
#else
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// The nearest TF32, in the bits of a float. From sm_80 on.
CONVEXT_DEVICE unsigned round_to_tf32(unsigned value) {
#ifdef CONVEXT_BEFORE_AMPERE
  __trap();
#else
  asm("cvt.rna.tf32.f32 %0, %1;\n" : "=r"(value) : "f"(__uint_as_float(value)));
#endif
  return value;
}

// a is 16 x 8. From sm_80 on.
CONVEXT_DEVICE void mma_m16n8k8_tf32(float (&d)[4], const unsigned (&a)[4],
                                     const unsigned (&b)[2]) {
#ifdef CONVEXT_BEFORE_AMPERE
  __trap();
#else
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// d += a * b; a is 8 x 4, b is 4 x 8: a lane has row g, column t of a and row t, column g of b.
// From sm_80 on.
CONVEXT_DEVICE void mma_m8n8k4_f64(double (&d)[2], double a, double b) {
#ifdef CONVEXT_BEFORE_AMPERE
  __trap();
#else
  asm volatile("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0,%1}, {%2}, {%3}, {%0,%1};\n"
               : "+d"(d[0]), "+d"(d[1])
               : "d"(a), "d"(b));
#endif
}

// ==== Hopper, sm_90a alone =======================================================================
// Kernels that use these are compiled for no other architecture (hopper.cu).

// ---- barriers that count arrivals and bytes (PTX ISA: mbarrier) ---------------------------------
// A phase is over when as many arrivals as mbarrier_init said have come, and as many bytes as were
// announced. `parity` is that of the phase: 0 of the first, 1 of the next, and so on in turn.

CONVEXT_DEVICE void mbarrier_init(std::uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(smem_address(barrier)),
               "r"(arrivals)
               : "memory");
}

// Makes initialised barriers known to the cluster and to copies.
CONVEXT_DEVICE void fence_mbarrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
}

CONVEXT_DEVICE void mbarrier_arrive(std::uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(smem_address(barrier))
               : "memory");
}

// At the barrier in the same place of another CTA of the cluster, or of this one. It orders what wgmma
// and copies have done, no ordinary accesses to memory of other CTAs: for those, all caches would have
// to be written back.
CONVEXT_DEVICE void mbarrier_arrive_at(std::uint64_t* barrier, int cta) {
  asm volatile(
      "{\n.reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [remote];\n}\n" ::"r"(smem_address(barrier)),
      "r"(cta)
      : "memory");
}

// Arrives, and announces bytes that copies will bring in this phase.
CONVEXT_DEVICE void mbarrier_arrive_expect(std::uint64_t* barrier, int bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(smem_address(barrier)),
      "r"(bytes)
      : "memory");
}

// Until the phase of that parity is over: true at once for the phase before the one at hand.
CONVEXT_DEVICE void mbarrier_wait(std::uint64_t* barrier, int parity) {
  unsigned over = 0;
  while (over == 0) {
    asm volatile(
        "{\n.reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}\n"
        : "=r"(over)
        : "r"(smem_address(barrier)), "r"(parity)
        : "memory");
  }
}

// ---- the CTAs of a cluster ----------------------------------------------------------------------

CONVEXT_DEVICE int cluster_cta() {
  unsigned rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;\n" : "=r"(rank));
  return static_cast<int>(rank);
}

// All threads of all CTAs of the cluster meet; what they wrote before is seen after.
CONVEXT_DEVICE void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned;\n" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire.aligned;\n" ::: "memory");
}

// ---- copies of boxes of a tensor (PTX ISA: cp.async.bulk.tensor) --------------------------------
// One thread starts a copy. Coordinates begin with the innermost dimension; what lies outside of the
// tensor is read as zeros, which count as bytes too, and is not written. Shared memory is aligned to
// the swizzle's period (1024 bytes at 128-byte rows).

CONVEXT_DEVICE void prefetch_map(const TensorMap* map) {
  asm volatile("prefetch.tensormap [%0];\n" ::"l"(map) : "memory");
}

CONVEXT_DEVICE void tma_load_2d(void* to, const TensorMap* map, std::uint64_t* barrier, int c0,
                                int c1) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%3, %4}], [%2];\n" ::"r"(smem_address(to)),
      "l"(map), "r"(smem_address(barrier)), "r"(c0), "r"(c1)
      : "memory");
}

CONVEXT_DEVICE void tma_load_3d(void* to, const TensorMap* map, std::uint64_t* barrier, int c0,
                                int c1, int c2) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%3, %4, %5}], [%2];\n" ::"r"(smem_address(to)),
      "l"(map), "r"(smem_address(barrier)), "r"(c0), "r"(c1), "r"(c2)
      : "memory");
}

// To the same place in each CTA of the cluster whose bit is set in `ctas`, and to its barrier.
CONVEXT_DEVICE void tma_load_3d_multicast(void* to, const TensorMap* map, std::uint64_t* barrier,
                                          int c0, int c1, int c2, int ctas) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%3, %4, %5}], [%2], %6;\n" ::"r"(smem_address(to)),
      "l"(map), "r"(smem_address(barrier)), "r"(c0), "r"(c1), "r"(c2),
      "h"(static_cast<unsigned short>(ctas))
      : "memory");
}

// Pixels one after the other, from (w, h, n) on through the map's box of pixels; of each, what lies
// (offset_w, offset_h) on.
CONVEXT_DEVICE void tma_load_im2col(void* to, const TensorMap* map, std::uint64_t* barrier, int c,
                                    int w, int h, int n, int offset_w, int offset_h) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%3, %4, %5, %6}], [%2], {%7, %8};\n" ::"r"(smem_address(to)),
      "l"(map), "r"(smem_address(barrier)), "r"(c), "r"(w), "r"(h), "r"(n),
      "h"(static_cast<unsigned short>(offset_w)), "h"(static_cast<unsigned short>(offset_h))
      : "memory");
}

CONVEXT_DEVICE void tma_store_2d(const TensorMap* map, const void* from, int c0, int c1) {
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];\n" ::"l"(
          map),
      "r"(smem_address(from)), "r"(c0), "r"(c1)
      : "memory");
}

// The thread's stores since the last group are a group.
CONVEXT_DEVICE void tma_store_commit() {
  asm volatile("cp.async.bulk.commit_group;\n" ::: "memory");
}

// Until no more than N of the thread's groups have still to read shared memory.
template <int N>
CONVEXT_DEVICE void tma_store_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;\n" ::"n"(N) : "memory");
}

// What this thread wrote to shared memory is seen by copies and by wgmma that start after it.
CONVEXT_DEVICE void fence_proxy_async() {
  asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}

// ---- warps --------------------------------------------------------------------------------------

// True for one lane, always the same, of a warp that is together.
CONVEXT_DEVICE bool elect_one() {
  unsigned elected;
  asm volatile("{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\nselp.u32 %0, 1, 0, p;\n}\n"
               : "=r"(elected));
  return elected != 0;
}

// So many threads, whole warps, meet at barrier `id`, 1 to 15; __syncthreads is barrier 0.
CONVEXT_DEVICE void named_barrier(int id, int threads) {
  asm volatile("barrier.cta.sync.aligned %0, %1;\n" ::"r"(id), "r"(threads) : "memory");
}

// Registers of each thread of the warpgroup from here on: fewer, or more once others gave them up.
template <int Registers>
CONVEXT_DEVICE void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(Registers));
}
template <int Registers>
CONVEXT_DEVICE void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(Registers));
}

// The reverse of ldmatrix: four matrices of 8 x 8 16-bit elements, of whose rows lanes 8i to 8i + 7
// give the addresses; transposed, a row of memory is a column of what the lanes hold.
CONVEXT_DEVICE void stmatrix_x4(void* row, const unsigned (&r)[4]) {
  asm volatile(
      "stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};\n" ::"r"(smem_address(row)),
      "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
      : "memory");
}
CONVEXT_DEVICE void stmatrix_x4_trans(void* row, const unsigned (&r)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};\n" ::"r"(
                   smem_address(row)),
               "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
}

// ---- products of a warpgroup (PTX ISA: wgmma) ---------------------------------------------------
// Asynchronous: from wgmma_fence on, until wgmma_wait, nobody may touch sums or operands.

CONVEXT_DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory"); }
CONVEXT_DEVICE void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}
// Until no more than N groups are under way.
template <int N>
CONVEXT_DEVICE void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(N) : "memory");
}

// Nothing that reads the sum may be moved before this, which stands behind wgmma_wait: to the compiler
// sums are there once wgmma has been started.
CONVEXT_DEVICE void hold_sum(float& sum) { asm volatile("" : "+f"(sum)::"memory"); }

// 32 registers of sums a line, as the instruction's text and as its operands.
#define CONVEXT_REGISTERS_0                                                   \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16" \
  ", %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define CONVEXT_REGISTERS_32                                                         \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47" \
  ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define CONVEXT_REGISTERS_64                                                         \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79" \
  ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define CONVEXT_REGISTERS_96                                                                     \
  ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111" \
  ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, " \
  "%127"
#define CONVEXT_SUMS_8(i)                                                                     \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define CONVEXT_SUMS_32(i) \
  CONVEXT_SUMS_8(i), CONVEXT_SUMS_8(i + 8), CONVEXT_SUMS_8(i + 16), CONVEXT_SUMS_8(i + 24)
#define CONVEXT_SUMS_64 CONVEXT_SUMS_32(0)
#define CONVEXT_SUMS_128 CONVEXT_SUMS_64, CONVEXT_SUMS_32(32)
#define CONVEXT_SUMS_192 CONVEXT_SUMS_128, CONVEXT_SUMS_32(64)
#define CONVEXT_SUMS_256 CONVEXT_SUMS_192, CONVEXT_SUMS_32(96)
// The text's operands after the sums: matrices, whether to add, and how they lie. `shape` is the
// depth and the types.
#define CONVEXT_WGMMA(n, shape, registers, a, b, add, majors, ...)                              \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " add                                          \
               ", 0;\nwgmma.mma_async.sync.aligned.m64n" #n shape " {" registers "}, " a ", " b \
               ", p, 1, 1" majors ";\n}\n"                                                      \
               : CONVEXT_SUMS_##n                                                               \
               : __VA_ARGS__)
#define CONVEXT_WGMMA_SHARED(n, shape, registers, a, b, add, a_major, b_major)            \
  CONVEXT_WGMMA(n, shape, registers, a, b, add, ", " a_major ", " b_major, "l"(a_matrix), \
                "l"(b_matrix), "r"(static_cast<int>(accumulate)), "n"(AMajor), "n"(BMajor))
#define CONVEXT_WGMMA_TF32(n, shape, registers, a, b, add, a_major, b_major)      \
  CONVEXT_WGMMA(n, shape, registers, a, b, add, "", "l"(a_matrix), "l"(b_matrix), \
                "r"(static_cast<int>(accumulate)))
#define CONVEXT_WGMMA_REGISTERS(n, shape, registers, a0, a1, a2, a3, b, add, b_major)          \
  CONVEXT_WGMMA(n, shape, registers, "{" a0 ", " a1 ", " a2 ", " a3 "}", b, add, ", " b_major, \
                "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b_matrix),                     \
                "r"(static_cast<int>(accumulate)), "n"(BMajor))
#define CONVEXT_REGISTERS_64_SUMS CONVEXT_REGISTERS_0
#define CONVEXT_REGISTERS_128_SUMS CONVEXT_REGISTERS_0 CONVEXT_REGISTERS_32
#define CONVEXT_REGISTERS_192_SUMS CONVEXT_REGISTERS_128_SUMS CONVEXT_REGISTERS_64
#define CONVEXT_REGISTERS_256_SUMS CONVEXT_REGISTERS_192_SUMS CONVEXT_REGISTERS_96

// d = a * b, added to d if `accumulate`: a is 64 x 16, b is 16 x N; of float, whose products are
// rounded to TF32 by leaving off bits, 64 x 8 and 8 x N. Warp w of the warpgroup holds rows 16w to
// 16w + 15 of d: of columns 8j to 8j + 7, d[4j] to d[4j + 3] are what mma_m16n8k16 gives. a_matrix and
// b_matrix are descriptors (matrix_descriptor.h), alike in all threads. AMajor and BMajor: 0 if the
// depth is adjacent in memory, 1 if rows (of b, columns) are, which float knows not.
template <class T, int N, int AMajor, int BMajor>
CONVEXT_DEVICE void wgmma(float (&d)[N / 2], std::uint64_t a_matrix, std::uint64_t b_matrix,
                          bool accumulate) {
#define CONVEXT_WGMMA_OF(form, shape)                                                     \
  if constexpr (N == 64) {                                                                \
    form(64, shape, CONVEXT_REGISTERS_64_SUMS, "%32", "%33", "%34", "%35", "%36");        \
  } else if constexpr (N == 128) {                                                        \
    form(128, shape, CONVEXT_REGISTERS_128_SUMS, "%64", "%65", "%66", "%67", "%68");      \
  } else if constexpr (N == 192) {                                                        \
    form(192, shape, CONVEXT_REGISTERS_192_SUMS, "%96", "%97", "%98", "%99", "%100");     \
  } else {                                                                                \
    static_assert(N == 256, "64, 128, 192 or 256 columns");                               \
    form(256, shape, CONVEXT_REGISTERS_256_SUMS, "%128", "%129", "%130", "%131", "%132"); \
  }
  if constexpr (std::is_same_v<T, __half>) {
    CONVEXT_WGMMA_OF(CONVEXT_WGMMA_SHARED, "k16.f32.f16.f16")
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    CONVEXT_WGMMA_OF(CONVEXT_WGMMA_SHARED, "k16.f32.bf16.bf16")
  } else {
    static_assert(std::is_same_v<T, float> && AMajor == 0 && BMajor == 0);
    CONVEXT_WGMMA_OF(CONVEXT_WGMMA_TF32, "k8.f32.tf32.tf32")
  }
#undef CONVEXT_WGMMA_OF
}

// The same with a in registers, as mma_m16n8k16 takes it: each warp its 16 rows.
template <class T, int N, int BMajor>
CONVEXT_DEVICE void wgmma_registers(float (&d)[N / 2], const unsigned (&a)[4],
                                    std::uint64_t b_matrix, bool accumulate) {
#define CONVEXT_WGMMA_OF(shape)                                                                 \
  if constexpr (N == 64) {                                                                      \
    CONVEXT_WGMMA_REGISTERS(64, shape, CONVEXT_REGISTERS_64_SUMS, "%32", "%33", "%34", "%35",   \
                            "%36", "%37", "%38");                                               \
  } else {                                                                                      \
    static_assert(N == 128, "64 or 128 columns");                                               \
    CONVEXT_WGMMA_REGISTERS(128, shape, CONVEXT_REGISTERS_128_SUMS, "%64", "%65", "%66", "%67", \
                            "%68", "%69", "%70");                                               \
  }
  if constexpr (std::is_same_v<T, __half>) {
    CONVEXT_WGMMA_OF("k16.f32.f16.f16")
  } else {
    static_assert(std::is_same_v<T, __nv_bfloat16>, "16-bit elements");
    CONVEXT_WGMMA_OF("k16.f32.bf16.bf16")
  }
#undef CONVEXT_WGMMA_OF
}

}  // namespace convext::cuda

#endif
