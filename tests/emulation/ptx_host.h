// csrc/cuda/ptx.cuh for the CPU. An instruction of a whole warp gathers the arguments of its 32
// lanes where they meet.
#pragma once

#include <memory>

#include "launch.h"

// In front of the place stands the CTA's number in its cluster, as on the device.
inline unsigned smem_address(const void* p) {
  return emu::shared_address(p) | static_cast<unsigned>(emu::block->cur->cta) << 24;
}

// ---- cp.async -----------------------------------------------------------------------------------
// The source is read at issue. The destination is undefined from issue to wait, so it is poisoned
// at issue and written at the wait: that shows both a missing wait and a copy that starts while
// others still read the buffer.
namespace emu {
struct Quiet {
  Quiet() { block->quiet = true; }
  ~Quiet() { block->quiet = false; }
};
inline void mark_pending(char* dst, size_t bytes, bool on) {
  size_t at = dst - block->smem;
  for (size_t g = at / 2; g <= (at + bytes - 1) / 2; ++g) block->shadow[g].pending = on;
}
inline void land_copies(
    Fiber& f,
    int keep) {  // all groups but the last `keep`; an uncommitted one counts for wait_all only
  int last = f.group - keep;
  Quiet quiet;
  std::erase_if(f.copies, [&](const Copy& c) {
    if (c.group >= last) return false;
    mark_pending(c.dst, 16, false);
    shared_access(c.dst, 16, true, c.site, "cp.async");
    std::memcpy(c.dst, c.data, 16);
    return true;
  });
}
}  // namespace emu

inline void cp_async16(void* dst, const void* src, int src_bytes, EMU_SITE) {
  auto& f = *emu::block->cur;
  if (src_bytes < 0 || src_bytes > 16) emu::fail("cp.async: src-size out of range");
  auto a = emu::shared_address(dst);
  if (a % 16 || reinterpret_cast<uintptr_t>(src) % 16)
    emu::fail("cp.async: address not a multiple of 16");
  emu::Copy c{static_cast<char*>(dst), {}, f.group, site};
  if (src_bytes) emu::global_access(src, src_bytes, false);
  std::memcpy(c.data, src, src_bytes);
  emu::Quiet quiet;
  emu::shared_access(dst, 16, true, site, "cp.async");
  emu::mark_pending(c.dst, 16, true);
  emu::fill_poison(dst, 16);
  f.copies.push_back(c);
}
inline void cp_async_commit() { ++emu::block->cur->group; }
template <int N>
void cp_async_wait() {
  emu::land_copies(*emu::block->cur, N);
}

// ---- ldmatrix -----------------------------------------------------------------------------------
// Lanes 8i..8i+7 give the row addresses of matrix i. Lane l receives elements 2(l%4), +1 of row
// l/4; with .trans, of column l/4.
namespace emu {
template <int N>
void ldmatrix(const char* what, unsigned (&r)[N], const void* p, bool trans, Site site) {
  struct Arg {
    unsigned (&r)[N];
    const char* p;
  } a{r, static_cast<const char*>(p)};
  warp_meet(what, ~0u, site, a, [&](Arg** all, Fiber* lanes) {
    uint16_t m[N][8][8];
    for (int l = 0; l < 8 * N; ++l) {
      if (shared_address(all[l]->p) % 16)
        fail(format("%s at %s:%d: row address not a multiple of 16", what, base_name(site.file),
                    site.line));
      shared_access(all[l]->p, 16, false, site, what, &lanes[l]);
      std::memcpy(m[l / 8][l % 8], all[l]->p, 16);
    }
    for (int l = 0; l < 32; ++l)
      for (int i = 0; i < N; ++i) {
        int x = l / 4, y = l % 4 * 2;
        all[l]->r[i] = trans ? m[i][y][x] | unsigned(m[i][y + 1][x]) << 16
                             : m[i][x][y] | unsigned(m[i][x][y + 1]) << 16;
      }
  });
}
}  // namespace emu
inline void ldmatrix_x1(unsigned (&r)[1], const void* p, EMU_SITE) {
  emu::ldmatrix("ldmatrix.x1", r, p, false, site);
}
inline void ldmatrix_x2(unsigned (&r)[2], const void* p, EMU_SITE) {
  emu::ldmatrix("ldmatrix.x2", r, p, false, site);
}
inline void ldmatrix_x4(unsigned (&r)[4], const void* p, EMU_SITE) {
  emu::ldmatrix("ldmatrix.x4", r, p, false, site);
}
inline void ldmatrix_x2_trans(unsigned (&r)[2], const void* p, EMU_SITE) {
  emu::ldmatrix("ldmatrix.x2.trans", r, p, true, site);
}
inline void ldmatrix_x4_trans(unsigned (&r)[4], const void* p, EMU_SITE) {
  emu::ldmatrix("ldmatrix.x4.trans", r, p, true, site);
}

// ---- mma ----------------------------------------------------------------------------------------
// Fragment layouts of the PTX ISA, with g = lane / 4 and t = lane % 4. C and D: row g (+8 for d2,
// d3), columns 2t, 2t + 1.
namespace emu {
inline float from_f16(uint16_t v) { return static_cast<float>(std::bit_cast<_Float16>(v)); }
inline float from_bf16(uint16_t v) { return std::bit_cast<float>(unsigned(v) << 16); }
inline float from_tf32(unsigned v) {
  return std::bit_cast<float>(v & 0xffffe000u);
}  // the hardware ignores the low 13 bits

struct MmaArg {
  float (&d)[4];
  const unsigned (&a)[4];
  const unsigned (&b)[2];
};
template <int K>
void multiply(MmaArg** all, const float (&a)[16][K], const float (&b)[K][8]) {
  float c[16][8];
  for (int l = 0; l < 32; ++l)
    for (int i = 0; i < 4; ++i) c[l / 4 + i / 2 * 8][l % 4 * 2 + i % 2] = all[l]->d[i];
  for (int i = 0; i < 16; ++i)
    for (int k = 0; k < K; ++k)
      for (int j = 0; j < 8; ++j) c[i][j] += a[i][k] * b[k][j];
  for (int l = 0; l < 32; ++l)
    for (int i = 0; i < 4; ++i) all[l]->d[i] = c[l / 4 + i / 2 * 8][l % 4 * 2 + i % 2];
}
template <class Convert>
void mma_16x8x16(const char* what, MmaArg arg, Site site, Convert f) {
  warp_meet(what, ~0u, site, arg, [&](MmaArg** all, Fiber*) {
    float a[16][16], b[16][8];
    for (int l = 0; l < 32; ++l) {
      int g = l / 4, t = l % 4;
      for (int e = 0; e < 8; ++e)  // a0..a7: row +8 for a2 a3 a6 a7, column +8 for a4..a7
        a[g + (e / 2 & 1) * 8][2 * t + (e & 1) + e / 4 * 8] =
            f(static_cast<uint16_t>(all[l]->a[e / 2] >> e % 2 * 16));
      for (int e = 0; e < 4; ++e)  // b0..b3: row +8 for b2 b3
        b[2 * t + (e & 1) + e / 2 * 8][g] =
            f(static_cast<uint16_t>(all[l]->b[e / 2] >> e % 2 * 16));
    }
    multiply<16>(all, a, b);
  });
}
}  // namespace emu
inline void mma_m16n8k16_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                              EMU_SITE) {
  emu::mma_16x8x16("mma.m16n8k16.bf16", {d, a, b}, site, emu::from_bf16);
}
inline void mma_m16n8k16_f16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                             EMU_SITE) {
  emu::mma_16x8x16("mma.m16n8k16.f16", {d, a, b}, site, emu::from_f16);
}
inline void mma_m16n8k8_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                             EMU_SITE) {
  emu::MmaArg arg{d, a, b};
  emu::warp_meet("mma.m16n8k8.tf32", ~0u, site, arg, [](emu::MmaArg** all, emu::Fiber*) {
    float x[16][8], y[8][8];
    for (int l = 0; l < 32; ++l) {
      int g = l / 4, t = l % 4;
      for (int e = 0; e < 4; ++e) x[g + e % 2 * 8][t + e / 2 * 4] = emu::from_tf32(all[l]->a[e]);
      for (int e = 0; e < 2; ++e) y[t + e * 4][g] = emu::from_tf32(all[l]->b[e]);
    }
    emu::multiply<8>(all, x, y);
  });
}
inline void mma_m8n8k4_f64(double (&d)[2], double a, double b, EMU_SITE) {
  struct Arg {
    double (&d)[2];
    double a, b;
  } arg{d, a, b};
  emu::warp_meet("mma.m8n8k4.f64", ~0u, site, arg, [](Arg** all, emu::Fiber*) {
    for (int l = 0; l < 32; ++l)  // a: row g, column t; b: row t, column g
      for (int i = 0; i < 2; ++i)
        for (int k = 0; k < 4; ++k)
          all[l]->d[i] += all[l / 4 * 4 + k]->a * all[(l % 4 * 2 + i) * 4 + k]->b;
  });
}

// The double whose halves these are.
inline double as_double(unsigned low, unsigned high) {
  return std::bit_cast<double>(std::uint64_t{high} << 32 | low);
}

// The nearest TF32, ties away from zero, in the bits of a float.
inline unsigned round_to_tf32(unsigned value) { return (value + 0x1000u) & ~0x1fffu; }
