// The section "Hopper" of csrc/cuda/ptx.cuh for the CPU. What it takes to run them is in
// copies_host.cpp (barriers, copies of boxes) and wgmma_host.cpp, which are never instrumented.
#pragma once

#include <type_traits>

#include "device.h"
#include "tensor_map_host.h"

namespace emu {

// ---- copies_host.cpp ----------------------------------------------------------------------------

void init_mbarrier(std::uint64_t* barrier, int arrivals, Site site);
// At CTA `cta` of the cluster, or if that is negative, at the caller's.
void arrive(std::uint64_t* barrier, int cta, int bytes, const char* what, Site site);
void wait_for(std::uint64_t* barrier, int parity, Site site);

// `coordinates`: as many as the map has dimensions. `ctas` as in tma_load_3d_multicast, or 0.
void load_box(void* to, const TensorMap* map, std::uint64_t* barrier, const int* coordinates,
              int rank, int ctas, const char* what, Site site);
void load_pixels(void* to, const TensorMap* map, std::uint64_t* barrier, int c, int w, int h, int n,
                 int offset_w, int offset_h, Site site);
void check_map(const TensorMap* map, const char* what, Site site);
void store_box(const TensorMap* map, const void* from, int c0, int c1, Site site);
void wait_for_stores(int keep);

// ---- wgmma_host.cpp -----------------------------------------------------------------------------

struct WgmmaKind {
  enum Type { half, bfloat16, tf32 } type;
  int columns, a_major, b_major;
  bool a_in_registers;
  bool operator==(const WgmmaKind&) const = default;
};
template <class T>
constexpr WgmmaKind::Type wgmma_type() {
  if constexpr (std::is_same_v<T, __half>) {
    return WgmmaKind::half;
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return WgmmaKind::bfloat16;
  } else {
    static_assert(std::is_same_v<T, float>);
    return WgmmaKind::tf32;
  }
}
struct WgmmaArgument {
  float* d;
  const unsigned* a;
  std::uint64_t a_matrix, b_matrix;
  bool accumulate;
};
void start_wgmma(const WgmmaKind& kind, WgmmaArgument argument, Site site);
void commit_wgmma(Site site);
void wait_for_wgmma(int keep, Site site);
void fence_wgmma(Site site);
void change_registers(int registers, bool give, Site site);

void stmatrix(const char* what, void* row, const unsigned (&r)[4], bool transposed, Site site);

}  // namespace emu

// ---- mbarrier -----------------------------------------------------------------------------------

inline void mbarrier_init(std::uint64_t* barrier, int arrivals, EMU_SITE) {
  emu::init_mbarrier(barrier, arrivals, site);
}
inline void fence_mbarrier_init() { emu::block->cur->init_fence = ++emu::block->time; }
inline void mbarrier_arrive(std::uint64_t* barrier, EMU_SITE) {
  emu::arrive(barrier, -1, 0, "mbarrier.arrive", site);
}
inline void mbarrier_arrive_at(std::uint64_t* barrier, int cta, EMU_SITE) {
  if (cta < 0 || cta >= emu::block->cluster)
    emu::fail(emu::format("mbarrier.arrive (%s:%d): the cluster has no CTA %d",
                          emu::base_name(site.file), site.line, cta));
  emu::arrive(barrier, cta, 0, "mbarrier.arrive", site);
}
inline void mbarrier_arrive_expect(std::uint64_t* barrier, int bytes, EMU_SITE) {
  emu::arrive(barrier, -1, bytes, "mbarrier.arrive.expect_tx", site);
}
inline void mbarrier_wait(std::uint64_t* barrier, int parity, EMU_SITE) {
  emu::wait_for(barrier, parity, site);
}

// ---- the CTAs of a cluster ----------------------------------------------------------------------

inline int cluster_cta() { return emu::block->cur->cta; }
inline void cluster_sync(EMU_SITE) {
  emu::Block& b = *emu::block;
  emu::wait_at_barrier(emu::cluster_barrier, &b.cluster_waiting, b.n * b.cluster, "barrier.cluster",
                       site);
}

// ---- copies of boxes ----------------------------------------------------------------------------

inline void prefetch_map(const TensorMap* map, EMU_SITE) {
  emu::check_map(map, "prefetch.tensormap", site);
}
inline void tma_load_2d(void* to, const TensorMap* map, std::uint64_t* barrier, int c0, int c1,
                        EMU_SITE) {
  const int c[] = {c0, c1};
  emu::load_box(to, map, barrier, c, 2, 0, "cp.async.bulk.tensor.2d", site);
}
inline void tma_load_3d(void* to, const TensorMap* map, std::uint64_t* barrier, int c0, int c1,
                        int c2, EMU_SITE) {
  const int c[] = {c0, c1, c2};
  emu::load_box(to, map, barrier, c, 3, 0, "cp.async.bulk.tensor.3d", site);
}
inline void tma_load_3d_multicast(void* to, const TensorMap* map, std::uint64_t* barrier, int c0,
                                  int c1, int c2, int ctas, EMU_SITE) {
  const int c[] = {c0, c1, c2};
  if (ctas <= 0 || ctas >> emu::block->cluster != 0)
    emu::fail(emu::format("a multicast (%s:%d) to CTAs that the cluster lacks: mask %x",
                          emu::base_name(site.file), site.line, ctas));
  emu::load_box(to, map, barrier, c, 3, ctas, "cp.async.bulk.tensor.3d.multicast", site);
}
inline void tma_load_im2col(void* to, const TensorMap* map, std::uint64_t* barrier, int c, int w,
                            int h, int n, int offset_w, int offset_h, EMU_SITE) {
  emu::load_pixels(to, map, barrier, c, w, h, n, offset_w, offset_h, site);
}
inline void tma_store_2d(const TensorMap* map, const void* from, int c0, int c1, EMU_SITE) {
  emu::store_box(map, from, c0, c1, site);
}
inline void tma_store_commit() { ++emu::block->cur->store_group; }
template <int N>
void tma_store_wait_read() {
  emu::wait_for_stores(N);
}
inline void fence_proxy_async() { emu::block->cur->proxy_fence = ++emu::block->time; }

// ---- warps --------------------------------------------------------------------------------------

inline void named_barrier(int id, int threads, EMU_SITE) {
  emu::Block& b = *emu::block;
  const int cta = b.cur->cta;
  if (id < 1 || id > 15 || threads <= 0 || threads % 32 != 0 || threads > b.n)
    emu::fail(
        emu::format("barrier %d of %d threads (%s:%d): there are barriers 1 to 15 for whole "
                    "warps of the %d threads",
                    id, threads, emu::base_name(site.file), site.line, b.n));
  auto& named = b.ctas[cta].named[id];
  if (named.arrived > 0 && named.expected != threads)
    emu::fail(emu::format("barrier %d (%s:%d) of %d threads, where others wait for %d", id,
                          emu::base_name(site.file), site.line, threads, named.expected));
  named.expected = threads;
  b.keep_reads();
  emu::wait_at_barrier(emu::barrier_of(cta, id), &named.arrived, threads, "barrier.cta", site);
}

inline bool elect_one(EMU_SITE) {
  __syncwarp(0xffffffffu, site);
  return emu::block->cur->lane == 0;
}

template <int Registers>
void give_registers(EMU_SITE) {
  static_assert(Registers >= 24 && Registers <= 256 && Registers % 8 == 0);
  emu::change_registers(Registers, true, site);
}
template <int Registers>
void take_registers(EMU_SITE) {
  static_assert(Registers >= 24 && Registers <= 256 && Registers % 8 == 0);
  emu::change_registers(Registers, false, site);
}

inline void stmatrix_x4(void* row, const unsigned (&r)[4], EMU_SITE) {
  emu::stmatrix("stmatrix.x4", row, r, false, site);
}
inline void stmatrix_x4_trans(void* row, const unsigned (&r)[4], EMU_SITE) {
  emu::stmatrix("stmatrix.x4.trans", row, r, true, site);
}

// ---- wgmma --------------------------------------------------------------------------------------

inline void wgmma_fence(EMU_SITE) { emu::fence_wgmma(site); }
inline void wgmma_commit(EMU_SITE) { emu::commit_wgmma(site); }
template <int N>
void wgmma_wait(EMU_SITE) {
  emu::wait_for_wgmma(N, site);
}
inline void hold_sum(float&) {}
template <class T, int N, int AMajor, int BMajor>
void wgmma(float (&d)[N / 2], std::uint64_t a_matrix, std::uint64_t b_matrix, bool accumulate,
           EMU_SITE) {
  static_assert(N == 64 || N == 128 || N == 192 || N == 256);
  static_assert(!std::is_same_v<T, float> || (AMajor == 0 && BMajor == 0));
  emu::start_wgmma({emu::wgmma_type<T>(), N, AMajor, BMajor, false},
                   {d, nullptr, a_matrix, b_matrix, accumulate}, site);
}
template <class T, int N, int BMajor>
void wgmma_registers(float (&d)[N / 2], const unsigned (&a)[4], std::uint64_t b_matrix,
                     bool accumulate, EMU_SITE) {
  static_assert((N == 64 || N == 128) && !std::is_same_v<T, float>);
  emu::start_wgmma({emu::wgmma_type<T>(), N, 0, BMajor, true}, {d, a, 0, b_matrix, accumulate},
                   site);
}
