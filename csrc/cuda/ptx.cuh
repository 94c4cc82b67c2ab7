// The only home of inline PTX: one thin wrapper an instruction. The emulation has functions of the
// same names (tests/emulation/ptx_host.h).
#pragma once

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

}  // namespace convext::cuda

#endif
