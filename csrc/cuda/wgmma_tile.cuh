// The Hopper rung's main loop: one warpgroup copies, the others multiply by wgmma
//
// computes  sums[row][column] = sum_d a[row][d] * b[d][column], 128 bytes of the depth d a step, of
//           float16, bfloat16, or float32 without the bits beyond TF32, added up in float32
// owns      CTA: kM x kN sums. A consumer, which is a warpgroup, has kRows x kColumns of them; a warp
//           rows 16w to 16w + 15 of each 64; a thread rows g and g + 8, columns 2t and 2t + 1 of each
//           16 x 8, with g = thread / 4 and t = thread % 4 of the warp.
//           The first warpgroup is the producer: one thread of it starts all copies.
// protocol  A stage has two barriers. `full`: the producer announces how many bytes come, its own and
//           those that the other CTA of a cluster copies for it, and they arrive; consumers wait. `empty`:
//           each warp of all consumers arrives once it has multiplied, here and in the other CTA, since
//           copies from there write here too; the producer waits. Each stage's phases alternate: 0 in
//           the first round, 1 in the second. A fresh `empty` is as if phase 1 were over: the first
//           round waits for nobody.
// budget    128 x 256, two consumers of 64 x 256: 128 registers of sums, of the 224 that a consumer
//           takes when the producer goes down to 56: 128 * 56 + 256 * 224 = 64512 of 65536. Shared:
//           4 stages of (128 + 256) * 128 bytes = 192 KiB, 34 KiB for results on their way out and
//           the bias, and the barriers: 226 of 227 KiB.
// needs     sm_90a; what the copies need (wgmma_data.cuh, wgmma_weight.cuh).
// bound by  wgmma, 1024 cycles a step of 128 x 256, if 48 KiB a step come from the L2 cache as fast:
//           two CTAs that share their weights, each copying half for both, need 32.
// step      from mma.sync: operands go from shared memory to the tensor cores without passing through
//           registers, copies are of whole boxes by one thread, and who copies does not multiply: the
//           two meet at barriers that count bytes, several stages ahead of each other.
#pragma once

#include "element.cuh"
#include "matrix_descriptor.h"
#include "ptx.cuh"
#include "wgmma_geometry.h"

namespace convext::cuda {

// What a CTA may have on Hopper.
inline constexpr int kHopperSharedBytes = 227 << 10;

// One operand in a stage: where its matrices begin, 32 bytes of the depth at a time.
struct MatrixWalk {
  static constexpr int kPieces = kStepBytes / 32;  // that wgmma multiplies at once

  std::uint64_t descriptor = 0;  // of the consumer's part in a stage at address 0
  unsigned piece[kPieces];       // bytes to each piece of the depth
  unsigned block = 0;            // bytes to the next 64 rows

  // The depth is adjacent: [kStepBytes / slice][rows][slice], slice in bytes, of which the consumer
  // has rows from `first` on.
  CONVEXT_DEVICE static MatrixWalk depth_adjacent(int at, int rows, int slice, int first) {
    MatrixWalk walk;
    walk.descriptor =
        matrix_descriptor(static_cast<unsigned>(at + first * slice), 0, 8 * slice, slice);
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      walk.piece[i] = static_cast<unsigned>(i * 32 / slice * rows * slice + i * 32 % slice);
    }
    walk.block = static_cast<unsigned>(64 * slice);
    return walk;
  }

  // Rows (of b, columns) are adjacent, `width` bytes of them, 16-bit elements:
  // [all / width][kStepBytes / 2][width].
  CONVEXT_DEVICE static MatrixWalk rows_adjacent(int at, int width, int first) {
    MatrixWalk walk;
    const int chunk = kStepBytes / 2 * width;
    walk.descriptor = matrix_descriptor(static_cast<unsigned>(at + first * 2 / width * chunk),
                                        chunk, 8 * width, width);
#pragma unroll
    for (int i = 0; i < kPieces; ++i) walk.piece[i] = static_cast<unsigned>(i * 16 * width);
    walk.block = static_cast<unsigned>(128 / width * chunk);
    return walk;
  }

  CONVEXT_DEVICE std::uint64_t at(unsigned stage, int i, int block_number) const {
    return descriptor + ((stage + piece[i] + block * static_cast<unsigned>(block_number)) >> 4);
  }
};

template <class T, int M, int N, int ConsumersM, int ConsumersN, int AMajor, int BMajor,
          bool Stores>
struct WgmmaTile {
  static constexpr int kM = M, kN = N;
  static constexpr int kConsumers = ConsumersM * ConsumersN;
  static constexpr int kThreads = 128 * (1 + kConsumers);
  static constexpr int kRows = M / ConsumersM, kColumns = N / ConsumersN, kBlocks = kRows / 64;
  static constexpr int kABytes = M * kStepBytes, kBBytes = N * kStepBytes;
  static constexpr int kStageBytes = kABytes + kBBytes;
  // Results on their way out: two blocks of 64 pixels x 128 bytes a consumer.
  static constexpr int kBlockBytes = 64 * 128;
  static constexpr int kMostLanes = 256;
  static constexpr int kBiasBytes = kMostLanes * 4;  // of a consumer's lanes, as float32
  static constexpr int kStoreBytes = Stores ? kConsumers * (2 * kBlockBytes + kBiasBytes) : 0;
  static constexpr int kMostStages = 8;
  static constexpr int kFit = (kHopperSharedBytes - kStoreBytes - 16 * kMostStages) / kStageBytes;
  static constexpr int kStages = kFit < kMostStages ? kFit : kMostStages;
  static constexpr std::size_t kSharedBytes = kStages * (kStageBytes + 16) + kStoreBytes;
  // Of 65536 registers and of what a warpgroup of 128 gives up.
  static constexpr int kProducerRegisters = 56, kConsumerRegisters = 224;
  static_assert(kConsumers == 2, "the registers are shared out among three warpgroups");
  static_assert(kRows % 64 == 0 && kColumns % 64 == 0 && kStages >= 3);

  // Stages that the producer fills and the consumers empty, in turn.
  struct Ring {
    unsigned char* stages;
    std::uint64_t *full, *empty;
    int stage = 0, parity = 0;

    CONVEXT_DEVICE explicit Ring(unsigned char* shared)
        : stages(shared),
          full(reinterpret_cast<std::uint64_t*>(shared + kStages * kStageBytes + kStoreBytes)),
          empty(full + kStages) {}

    // By one thread, before all meet.
    CONVEXT_DEVICE void init(int ctas) {
      for (int i = 0; i < kStages; ++i) {
        mbarrier_init(&full[i], 1);
        mbarrier_init(&empty[i], 4 * kConsumers * ctas);
      }
      fence_mbarrier_init();
    }
    CONVEXT_DEVICE void next() {
      if (++stage < kStages) return;
      stage = 0;
      parity ^= 1;
    }
    CONVEXT_DEVICE unsigned char* here() const { return stages + stage * kStageBytes; }

    // By the producer's thread: once all consumers that a copy to this stage concerns are done with
    // it, announces what will come.
    CONVEXT_DEVICE std::uint64_t* begin_filling() {
      mbarrier_wait(&empty[stage], parity ^ 1);
      mbarrier_arrive_expect(&full[stage], kStageBytes);
      return &full[stage];
    }
    // By a consumer's warps: the stage may be filled again, here and from the other CTA.
    CONVEXT_DEVICE void release(int which, int ctas) const {
      const int cta = static_cast<int>(threadIdx.x) % 32;
      if (cta < ctas) mbarrier_arrive_at(&empty[which], cta);
    }
  };

  using Sums = float[kBlocks][kColumns / 2];

  // By all lanes of a warp together: so the compiler knows that they agree.
  CONVEXT_DEVICE static int warpgroup() {
    return __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 128, 0);
  }
  CONVEXT_DEVICE static int consumer() { return warpgroup() - 1; }
  CONVEXT_DEVICE static int first_row() { return consumer() / ConsumersN * kRows; }
  CONVEXT_DEVICE static int first_column() { return consumer() % ConsumersN * kColumns; }

  // Main loop of a consumer, of at least one step. A step's products are under way while the next
  // step's are started, so that the stage before is what can be given back.
  CONVEXT_DEVICE static void multiply(Ring* ring, const MatrixWalk& a, const MatrixWalk& b,
                                      int steps, int ctas, Sums& sums) {
    start_step(ring, a, b, false, sums);
    for (int step = 1; step < steps; ++step) {
      const int before = ring->stage;
      ring->next();
      start_step(ring, a, b, true, sums);
      wgmma_wait<1>();
      ring->release(before, ctas);
    }
    wgmma_wait<0>();
#pragma unroll
    for (int i = 0; i < kBlocks; ++i) {
#pragma unroll
      for (int e = 0; e < kColumns / 2; ++e) hold_sum(sums[i][e]);
    }
    ring->release(ring->stage, ctas);
    ring->next();
  }

  CONVEXT_DEVICE static void start_step(Ring* ring, const MatrixWalk& a, const MatrixWalk& b,
                                        bool add, Sums& sums) {
    mbarrier_wait(&ring->full[ring->stage], ring->parity);
    // Without the number of the CTA in its cluster, which an address has in front.
    const unsigned stage = smem_address(ring->here()) & 0x3ffff;
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < MatrixWalk::kPieces; ++k) {
#pragma unroll
      for (int i = 0; i < kBlocks; ++i) {
        wgmma<T, kColumns, AMajor, BMajor>(sums[i], a.at(stage, k, i), b.at(stage, k, 0),
                                           add || k > 0);
      }
    }
    wgmma_commit();
  }
};

}  // namespace convext::cuda
