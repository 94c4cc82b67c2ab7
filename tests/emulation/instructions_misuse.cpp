// What kernels must not do: each is reported, in every order.
#include "instructions.h"

namespace convext_tests {
namespace {

using convext::cuda::matrix_descriptor;

constexpr int kTile = 8192;  // bytes of 64 rows of 128

// One CTA's tile, and what goes wrong.
enum class Fault {
  kNone,
  kNoWait,        // reads what is copied without waiting
  kTooManyBytes,  // announces more than come
  kTooFewBytes,   // or fewer
  kTooManyArrivals,
  kNoInit,
  kNoInitFence,
  kOverwrittenBarrier,
  kMisaligned,
  kPastTheEnd,
  kOverUnfenced,  // copies over what a thread wrote without fence_proxy_async
  kLeavesEarly,   // returns while the copy is on its way
  kWrongRank,
  kNoMap,
};

void load_tile(const TensorMap map, Fault fault) {
  SHARED_DYNAMIC(smem);
  SHARED_ARRAY(std::uint64_t, barrier, [1]);
  if (fault == Fault::kOverUnfenced) {
    const unsigned r[4] = {};
    if (threadIdx.x < 32) stmatrix_x4(smem + threadIdx.x * 128, r);
    __syncthreads();
  }
  if (threadIdx.x == 0) {
    if (fault != Fault::kNoInit) mbarrier_init(barrier, 1);
    if (fault != Fault::kNoInitFence) fence_mbarrier_init();
    mbarrier_arrive_expect(barrier, fault == Fault::kTooManyBytes  ? kTile + 16
                                    : fault == Fault::kTooFewBytes ? kTile - 16
                                                                   : kTile);
    const TensorMap none;
    unsigned char* const to = smem + (fault == Fault::kMisaligned   ? 128
                                      : fault == Fault::kPastTheEnd ? 1024
                                                                    : 0);
    if (fault == Fault::kWrongRank) {
      tma_load_3d(to, &map, barrier, 0, 0, 0);
    } else {
      tma_load_2d(to, fault == Fault::kNoMap ? &none : &map, barrier, 0, 0);
    }
    if (fault == Fault::kTooManyArrivals) {
      mbarrier_arrive(barrier);
      mbarrier_arrive(barrier);
    }
  }
  if (fault == Fault::kLeavesEarly) return;
  __syncthreads();
  if (fault == Fault::kOverwrittenBarrier && threadIdx.x == 0) *barrier = 0;
  if (fault != Fault::kNoWait) mbarrier_wait(barrier, 0);
  unsigned r[4];
  ldmatrix_x4(r, smem + threadIdx.x % 32 * 128);
}

emu::Buffer<std::uint16_t>& ones() {
  static emu::Buffer<std::uint16_t> data(64 * 64, "ones");
  std::fill_n(data.data(), data.size(), std::uint16_t{0x3f80});
  return data;
}
TensorMap tile_map() {
  return encode_map(dense_map(ones().data(), DType::kBFloat16, {64, 64}, {64, 64}, 128));
}
void run_load(Fault fault) { emu::launch(&load_tile, dim3(1), dim3(64), kTile, tile_map(), fault); }

void test_loads() {
  in_orders([] { run_load(Fault::kNone); });
  const auto reports = [](const char* words, Fault fault, const char* or_words = nullptr) {
    expect_error(words, [=] { run_load(fault); }, or_words);
  };
  reports("copy into it", Fault::kNoWait);
  reports("stuck at mbarrier_wait", Fault::kTooManyBytes);
  reports("stuck at mbarrier_wait", Fault::kTooFewBytes);
  reports("more arrivals than the phase expects", Fault::kTooManyArrivals);
  reports("never initialised", Fault::kNoInit);
  reports("was not fenced", Fault::kNoInitFence);
  reports("overwritten", Fault::kOverwrittenBarrier, "a race with the read");
  reports("not aligned to the swizzle's 1024 bytes", Fault::kMisaligned);
  reports("shared bytes 1024 to 9215", Fault::kPastTheEnd);
  reports("without fence_proxy_async", Fault::kOverUnfenced);
  reports("in flight", Fault::kLeavesEarly);
  reports("the map is of rank 2", Fault::kWrongRank);
  reports("not to an encoded map", Fault::kNoMap);
}

// A pixel at which a copy begins, where the box of each image is 0 to 3 both ways.
void load_from_pixel(const TensorMap map, int w, int h, int n, int offset) {
  SHARED_DYNAMIC(smem);
  SHARED_ARRAY(std::uint64_t, barrier, [1]);
  mbarrier_init(barrier, 1);
  fence_mbarrier_init();
  mbarrier_arrive_expect(barrier, 128 * 4);
  tma_load_im2col(smem, &map, barrier, 0, w, h, n, offset, 0);
  mbarrier_wait(barrier, 0);
}
void test_pixels() {
  MapSpec spec = dense_map(ones().data(), DType::kBFloat16, {64, 4, 4, 4}, {1, 1, 1, 1}, 128);
  spec.im2col = true, spec.channels = 64, spec.pixels = 4;
  const auto from = [&](int w, int h, int n, int offset) {
    emu::launch(&load_from_pixel, dim3(1), dim3(1), 512, encode_map(spec), w, h, n, offset);
  };
  from(3, 3, 3, 255);
  expect_error("outside of the box", [&] { from(4, 0, 0, 0); });
  expect_error("outside of the box", [&] { from(0, -1, 0, 0); });
  expect_error("image 4 of 4", [&] { from(0, 0, 4, 0); });
  expect_error("offset 256", [&] { from(0, 0, 0, 256); });
  expect_error("offset -1", [&] { from(0, 0, 0, -1); });
  spec.stride[1] += 2;
  expect_error("multiples of 16 bytes", [&] { encode_map(spec); });
}

// ---- products -----------------------------------------------------------------------------------

enum class Product {
  kRight,
  kNoFence,       // wgmma_fence
  kNoProxyFence,  // of operands that threads wrote
  kEarlyRelease,  // the stage is handed back before the wait
  kEarlyCopy,     // a copy into the stage without any hand-back
  kWarpsDiffer,
  kSumsReadEarly,
  kLeavesEarly,
};

// Warps 0 to 3 multiply a tile with itself that warp 4 copies and copies again.
void multiply_tile(const TensorMap map, Product fault, float* out) {
  SHARED_DYNAMIC(smem);
  SHARED_ARRAY(std::uint64_t, full, [1]);
  SHARED_ARRAY(std::uint64_t, empty, [1]);
  if (threadIdx.x == 0) {
    mbarrier_init(full, 1);
    mbarrier_init(empty, 128);
    fence_mbarrier_init();
  }
  __syncthreads();
  if (threadIdx.x / 128 == 1) {
    if (threadIdx.x != 128) return;
    for (int step = 0; step < 2; ++step) {
      if (fault != Product::kEarlyCopy) mbarrier_wait(empty, step % 2 ^ 1);
      mbarrier_arrive_expect(full, kTile);
      tma_load_2d(smem, &map, full, 0, 0);
      if (fault == Product::kEarlyCopy) mbarrier_wait(full, step);
    }
    return;
  }
  float sums[32];
  for (int step = 0; step < 2; ++step) {
    mbarrier_wait(full, step);
    if (fault == Product::kNoProxyFence) {
      named_barrier(1, 128);
      const unsigned r[4] = {};
      if (threadIdx.x < 32) stmatrix_x4(smem + threadIdx.x * 128, r);
      named_barrier(1, 128);
    }
    if (fault != Product::kNoFence) wgmma_fence();
    const unsigned more = fault == Product::kWarpsDiffer && threadIdx.x >= 96 ? 32 : 0;
    const std::uint64_t tile = matrix_descriptor(smem_address(smem) + more, 16, 1024, 128);
    wgmma<__nv_bfloat16, 64, 0, 0>(sums, tile, tile, step > 0);
    wgmma_commit();
    if (fault == Product::kLeavesEarly && step == 1) return;
    if (fault == Product::kSumsReadEarly) out[threadIdx.x] = sums[step];
    if (fault == Product::kEarlyRelease) mbarrier_arrive(empty);
    wgmma_wait<0>();
    if (fault != Product::kEarlyRelease) mbarrier_arrive(empty);
  }
  if (fault != Product::kSumsReadEarly) out[threadIdx.x] = sums[0];
}

void test_misused_products() {
  emu::Buffer<float> out(128, "out");
  const auto run = [&](Product fault) {
    emu::launch(&multiply_tile, dim3(1), dim3(256), kTile, tile_map(), fault, out.data());
  };
  in_orders([&] {
    run(Product::kRight);
    expect(out[0] == 32, "two products of 16 ones are not 32");
    run(Product::kSumsReadEarly);
    expect(out[0] != out[0], "sums in flight are not undefined");
  });
  const auto reports = [&](const char* words, Product fault, const char* or_words = nullptr) {
    expect_error(words, [=] { run(fault); }, or_words);
  };
  reports("without wgmma_fence", Product::kNoFence);
  reports("fence_proxy_async", Product::kNoProxyFence);
  reports("copy into it", Product::kEarlyRelease, "a race with a wgmma");
  reports("copy into it", Product::kEarlyCopy, "a race with a wgmma");
  reports("differ in it", Product::kWarpsDiffer);
  reports("with a wgmma in flight", Product::kLeavesEarly);
}

// ---- stores -------------------------------------------------------------------------------------

enum class Storing {
  kRight,
  kNoProxyFence,
  kPlainUnfenced,  // the same of plain stores
  kNoBarrier,
  kReusedEarly,
  kNoWait,
  kNoCommit,
};

void store_tile(const TensorMap map, Storing fault) {
  SHARED_DYNAMIC(smem);
  const unsigned r[4] = {};
  for (int step = 0; step < 2; ++step) {
    for (int i = 0; i < 8; ++i) {
      unsigned char* const to = smem + threadIdx.x * 128 + i * 16;
      if (fault == Storing::kPlainUnfenced) {
        *reinterpret_cast<uint4*>(to) = make_uint4(0, 0, 0, 0);
      } else {
        stmatrix_x4(to, r);
      }
    }
    if (fault != Storing::kNoProxyFence && fault != Storing::kPlainUnfenced) fence_proxy_async();
    if (fault != Storing::kNoBarrier) __syncthreads();
    if (threadIdx.x == 0) {
      tma_store_2d(&map, smem, 0, 0);
      if (fault != Storing::kNoCommit) tma_store_commit();
      if (fault == Storing::kReusedEarly && step == 0) {
        tma_store_wait_read<1>();
      } else if (fault != Storing::kNoWait) {
        tma_store_wait_read<0>();
      }
    }
    if (fault == Storing::kNoWait || fault == Storing::kNoCommit) return;
    __syncthreads();
  }
}
void test_misused_stores() {
  emu::Buffer<std::uint16_t> to(64 * 64, "to");
  const TensorMap map = encode_map(dense_map(to.data(), DType::kBFloat16, {64, 64}, {64, 64}, 128));
  const auto run = [&](Storing fault) {
    emu::launch(&store_tile, dim3(1), dim3(64), kTile, map, fault);
  };
  in_orders([&] { run(Storing::kRight); });
  expect_error("without fence_proxy_async", [&] { run(Storing::kNoProxyFence); });
  if (emu::instrumented) {
    expect_error("without fence_proxy_async", [&] { run(Storing::kPlainUnfenced); });
  }
  expect_error("never written", [&] { run(Storing::kNoBarrier); }, "a race with the write");
  expect_error("a store that reads it is in flight", [&] { run(Storing::kReusedEarly); });
  expect_error("still reads shared memory", [&] { run(Storing::kNoWait); });
  expect_error("still reads shared memory", [&] { run(Storing::kNoCommit); });
}

// ---- clusters -----------------------------------------------------------------------------------

enum class Pair {
  kRight,
  kLeavesEarly,      // a CTA into which the other copies
  kArrivesLate,      // at a barrier of a CTA that has returned
  kOwnReleaseAlone,  // overwrites the peer's stage when only its own warps have read theirs
  kPeersMemory,      // a plain store
  kPeersAddress,
  kPeersBarrier,
};

// CTA 0 copies a tile to both, twice.
void copy_to_both(const TensorMap map, Pair fault) {
  SHARED_DYNAMIC(smem);
  SHARED_ARRAY(std::uint64_t, full, [1]);
  SHARED_ARRAY(std::uint64_t, empty, [1]);
  const int cta = cluster_cta();
  if (threadIdx.x == 0) {
    mbarrier_init(full, 1);
    mbarrier_init(empty, fault == Pair::kOwnReleaseAlone ? 1 : 2);
    fence_mbarrier_init();
  }
  cluster_sync();
  unsigned char* const peers =
      smem + (cta == 0 ? 1 : -1) * static_cast<std::ptrdiff_t>(emu::shared_step);
  if (fault == Pair::kPeersMemory) peers[threadIdx.x] = 1;
  if (fault == Pair::kPeersAddress) tma_load_3d(peers, &map, full, 0, 0, 0);
  if (fault == Pair::kPeersBarrier) mbarrier_arrive_at(empty, 2);
  for (int step = 0; step < 2; ++step) {
    if (threadIdx.x == 0) {
      if (cta == 0) mbarrier_wait(empty, step % 2 ^ 1);
      mbarrier_arrive_expect(full, kTile);
      if (cta == 0) tma_load_3d_multicast(smem, &map, full, 0, 0, 0, 3);
    }
    if (fault == Pair::kLeavesEarly && cta == 1) return;
    mbarrier_wait(full, step);
    unsigned r[4];
    ldmatrix_x4(r, smem + threadIdx.x * 128);
    __syncwarp();
    if (fault == Pair::kArrivesLate && step == 1 && cta == 0) return;
    if (threadIdx.x == 0 && (fault != Pair::kOwnReleaseAlone || cta == 0)) {
      mbarrier_arrive_at(empty, 0);
    }
  }
  if (fault == Pair::kArrivesLate) {
    // Until the other one has surely left.
    for (int i = 0; i < 1000; ++i) __syncwarp();
    mbarrier_arrive_at(empty, 0);
  }
  cluster_sync();
}
void test_misused_clusters() {
  const TensorMap map =
      encode_map(dense_map(ones().data(), DType::kBFloat16, {64, 64, 1}, {64, 64, 1}, 128));
  const auto run = [&](Pair fault) {
    emu::launch_cluster(&copy_to_both, 2, dim3(2), dim3(32), kTile, map, fault);
  };
  in_orders([&] { run(Pair::kRight); });
  expect_error("returned", [&] { run(Pair::kLeavesEarly); });
  expect_error("returned", [&] { run(Pair::kArrivesLate); });
  expect_error("a race with", [&] { run(Pair::kOwnReleaseAlone); }, "copy into it");
  if (emu::instrumented) expect_error("another CTA", [&] { run(Pair::kPeersMemory); });
  expect_error("another CTA", [&] { run(Pair::kPeersAddress); });
  expect_error("the cluster has no CTA 2", [&] { run(Pair::kPeersBarrier); });
}

// ---- warps --------------------------------------------------------------------------------------

enum class Registers { kTooMany, kNotGiven, kOneWarp, kMoreThanThere };

void ask_for_registers(Registers fault) {
  const bool first = threadIdx.x < 128;
  if (fault == Registers::kOneWarp) {
    if (threadIdx.x < 32) give_registers<40>();
  } else if (fault == Registers::kMoreThanThere) {
    if (first) give_registers<200>();
  } else if (first && fault != Registers::kNotGiven) {
    give_registers<40>();
  } else if (!first) {
    take_registers<240>();
  }
}
void test_misused_registers() {
  const auto reports = [](const char* words, Registers fault) {
    expect_error(words, [=] { emu::launch(&ask_for_registers, dim3(1), dim3(384), 0, fault); });
  };
  reports("stuck at setmaxnreg.inc", Registers::kTooMany);
  reports("stuck at setmaxnreg.inc", Registers::kNotGiven);
  reports("differ in registers", Registers::kOneWarp);
  reports("200 registers, the warp has 168", Registers::kMoreThanThere);
}

void meet_wrongly(int id, int threads, bool missing) {
  if (missing && threadIdx.x < 32) return;
  named_barrier(id, threadIdx.x < 64 ? threads : 128);
}
void test_misused_barriers() {
  const auto run = [](int id, int threads, bool missing) {
    emu::launch(&meet_wrongly, dim3(1), dim3(128), 0, id, threads, missing);
  };
  in_orders([&] { run(15, 128, false); });
  expect_error("barriers 1 to 15", [&] { run(16, 128, false); });
  expect_error("barriers 1 to 15", [&] { run(1, 100, false); }, "where others wait for");
  expect_error("where others wait for", [&] { run(1, 96, false); });
  expect_error("stuck at barrier.cta", [&] { run(1, 128, true); });
}

}  // namespace

std::vector<Test> misuse_tests() {
  return {{"misuse: loads", test_loads},
          {"misuse: pixels", test_pixels},
          {"misuse: products", test_misused_products},
          {"misuse: stores", test_misused_stores},
          {"misuse: clusters", test_misused_clusters},
          {"misuse: registers", test_misused_registers},
          {"misuse: barriers", test_misused_barriers}};
}

}  // namespace convext_tests
