// The tensor core rung: mma.sync on tiles that cp.async brings, several stages ahead
//
// computes  sums[row][lane] += sum_d a[row][d] * b[d][lane], 64 bytes of the depth d at a time:
//           products of float16, bfloat16 or float32 rounded to TF32, added up in float32; or of
//           float64
// owns      CTA: kM x kN results; warp: Rows x 16 rows and Lanes x 8 lanes of them; a thread has
//           what mma gives it: rows g, g + 8 and lanes 2t, 2t + 1 of each 16 x 8, with
//           g = thread / 4 and t = thread % 4.
// budget    128 x 128, 8 warps of 32 x 64: 64 sums, 8 + 16 registers of operands, under 255; shared
//           3 stages of (128 + 128) * 32 * 2 = 16 KiB and 3 KiB of rows: within the 64 KiB that a
//           CTA may have on sm_75.
// needs     operands.cuh's shares. Not Ragged: chunks of 16 aligned bytes. bfloat16, TF32 and
//           float64 need sm_80; float16 runs on sm_75 too, where copies are synchronous.
// bound by  mma.sync, about two thirds of what Hopper's wgmma reaches; small tiles, by shared
//           memory.
// step      from SIMT: a warp multiplies, not a thread, and operands reach shared memory without
//           passing through registers. A tile row's 16-byte chunks are permuted (swizzled), so that
//           ldmatrix, which reads eight rows at once, meets all banks, without padding.
#pragma once

#include "element.cuh"
#include "index_math.cuh"
#include "ptx.cuh"

namespace convext::cuda {

CONVEXT_DEVICE void mma(__half, float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  mma_m16n8k16_f16(d, a, b);
}
CONVEXT_DEVICE void mma(__nv_bfloat16, float (&d)[4], const unsigned (&a)[4],
                        const unsigned (&b)[2]) {
  mma_m16n8k16_bf16(d, a, b);
}
CONVEXT_DEVICE void mma(float, float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  mma_m16n8k8_tf32(d, a, b);
}
// Of 16 x 4 and 4 x 8: two products of 8 rows.
CONVEXT_DEVICE void mma(double, double (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    double rows[2] = {d[2 * i], d[2 * i + 1]};
    mma_m8n8k4_f64(rows, as_double(a[2 * i], a[2 * i + 1]), as_double(b[0], b[1]));
    d[2 * i] = rows[0];
    d[2 * i + 1] = rows[1];
  }
}

template <class T, int WarpsM, int WarpsN, int Rows, int Lanes, int Stages, bool Ragged>
struct MmaTile {
  static constexpr int kThreads = 32 * WarpsM * WarpsN;
#ifdef CONVEXT_BEFORE_AMPERE
  static constexpr int kBlocks = 1;
#else
  static constexpr int kBlocks = sizeof(T) == 2 && !Ragged ? 2 : 1;
#endif
  static constexpr int kM = WarpsM * Rows * 16, kN = WarpsN * Lanes * 8;
  static constexpr int kElement = static_cast<int>(sizeof(T));
  static constexpr int kVector = 16 / kElement, kK = 64 / kElement;
  static constexpr int kStageBytes = (kM + kN) * 64;
  static constexpr std::size_t kSharedBytes = Stages * kStageBytes;
  static constexpr bool kRagged = Ragged;
  static_assert(Lanes % 2 == 0, "ldmatrix brings 16 lanes at once");

  // A thread's part of one operand's way: chunks that it copies to the stage at hand.
  template <int Extent, bool DepthAdjacent>
  struct Share {
    static constexpr bool kDepthAdjacent = DepthAdjacent;
    static constexpr int kChunks = Extent * kK / kVector / kThreads;
    static_assert(kChunks * kThreads * kVector == Extent * kK, "equal shares");

    const T* anywhere;  // readable, for copies of nothing
    unsigned char* stage = nullptr;

    CONVEXT_DEVICE explicit Share(const T* tensor) : anywhere(tensor) {}

    CONVEXT_DEVICE static int index(int i) { return static_cast<int>(threadIdx.x) + i * kThreads; }
    CONVEXT_DEVICE static int at(int i) {
      return DepthAdjacent ? index(i) / (kK / kVector) : index(i) % (Extent / kVector) * kVector;
    }
    CONVEXT_DEVICE static int depth(int i) {
      return DepthAdjacent ? index(i) % (kK / kVector) * kVector : index(i) / (Extent / kVector);
    }

    CONVEXT_DEVICE unsigned char* place(int i) const {
      return stage + (DepthAdjacent ? depth_row_offset(at(i), depth(i) / kVector)
                                    : lane_row_offset(depth(i), at(i) / kVector, Extent * kElement,
                                                      kElement));
    }

    CONVEXT_DEVICE void load(int i, const T* from, int count) {
      if constexpr (Ragged) {
        Pack<T, kVector> chunk;
#pragma unroll
        for (int e = 0; e < kVector; ++e) {
          chunk.element[e] = from != nullptr && e < count ? from[e] : to_storage<T>(0);
        }
        set(i, chunk);
      } else {
        cp_async16(place(i), from != nullptr ? from : anywhere, from != nullptr ? 16 : 0);
      }
    }

    CONVEXT_DEVICE void set(int i, const Pack<T, kVector>& chunk) {
      *reinterpret_cast<Pack<T, kVector>*>(place(i)) = chunk;
    }
  };

  CONVEXT_DEVICE static int warp_row() {
    return static_cast<int>(threadIdx.x) / 32 / WarpsN * Rows * 16;
  }
  CONVEXT_DEVICE static int warp_lane() {
    return static_cast<int>(threadIdx.x) / 32 % WarpsN * Lanes * 8;
  }

  struct Sums {
    Compute<T> value[Rows][Lanes][4] = {};

    // store(row_at(row), lane, values) for all rows for which row_at is not null.
    template <class RowAt, class Store>
    CONVEXT_DEVICE void for_each(RowAt&& row_at, Store&& store) const {
      const int thread = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
      for (int i = 0; i < Rows; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          auto* to = row_at(warp_row() + i * 16 + half * 8 + thread / 4);
          if (to == nullptr) continue;
#pragma unroll
          for (int j = 0; j < Lanes; ++j) {
            const Pack<Compute<T>, 2> values{{value[i][j][2 * half], value[i][j][2 * half + 1]}};
            store(to, warp_lane() + j * 8 + thread % 4 * 2, values);
          }
        }
      }
    }
  };

  // What a warp multiplies at once: 16 rows, or lanes, of a half of the tile's depth. Registers
  // hold rows g and depths t (and the next, of 16-bit elements; halves, of 64-bit ones) of
  // matrices: of a, rows + 0, + 8 of the first depths, then of the others; of b, the depths of
  // lanes + 0, then of lanes + 8.
  template <bool DepthAdjacent>
  CONVEXT_DEVICE static void load_a(unsigned (&a)[4], const unsigned char* tile, int row,
                                    int half) {
    const int thread = static_cast<int>(threadIdx.x) % 32;
    if constexpr (kElement == 8) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        long_element<DepthAdjacent, kM>(&a[2 * i], tile, half * 4 + thread % 4,
                                        row + thread / 4 + i * 8);
      }
    } else if constexpr (DepthAdjacent) {
      ldmatrix_x4(a, tile + depth_row_offset(row + thread % 16, half * 2 + thread / 16));
    } else if constexpr (kElement == 2) {
      const int depth = half * 16 + thread / 16 * 8 + thread % 8;
      ldmatrix_x4_trans(a, tile + lane_row_offset(depth, row / 8 + thread / 8 % 2, kM * 2, 2));
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        a[i] = element(tile, half * 8 + thread % 4 + i / 2 * 4, row + thread / 4 + i % 2 * 8, kM);
      }
    }
    round(a);
  }

  template <bool DepthAdjacent>
  CONVEXT_DEVICE static void load_b(unsigned (&b)[4], const unsigned char* tile, int lane,
                                    int half) {
    const int thread = static_cast<int>(threadIdx.x) % 32;
    if constexpr (kElement == 8) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        long_element<DepthAdjacent, kN>(&b[2 * i], tile, half * 4 + thread % 4,
                                        lane + thread / 4 + i * 8);
      }
    } else if constexpr (DepthAdjacent) {
      const int row = lane + thread / 16 * 8 + thread % 8;
      ldmatrix_x4(b, tile + depth_row_offset(row, half * 2 + thread / 8 % 2));
    } else if constexpr (kElement == 2) {
      const int depth = half * 16 + thread / 8 % 2 * 8 + thread % 8;
      ldmatrix_x4_trans(b, tile + lane_row_offset(depth, lane / 8 + thread / 16, kN * 2, 2));
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        b[i] = element(tile, half * 8 + thread % 4 + i % 2 * 4, lane + thread / 4 + i / 2 * 8, kN);
      }
    }
    round(b);
  }

  // A 32-bit element of a tile whose rows are depths.
  CONVEXT_DEVICE static unsigned element(const unsigned char* tile, int depth, int at, int extent) {
    const int offset = lane_row_offset(depth, at / 4, extent * 4, 4) + at % 4 * 4;
    return *reinterpret_cast<const unsigned*>(tile + offset);
  }

  // A 64-bit element of a tile, as two halves.
  template <bool DepthAdjacent, int Extent>
  CONVEXT_DEVICE static void long_element(unsigned* halves, const unsigned char* tile, int depth,
                                          int at) {
    const int offset = DepthAdjacent ? depth_row_offset(at, depth / 2) + depth % 2 * 8
                                     : lane_row_offset(depth, at / 2, Extent * 8, 8) + at % 2 * 8;
    const uint2 both = *reinterpret_cast<const uint2*>(tile + offset);
    halves[0] = both.x;
    halves[1] = both.y;
  }

  CONVEXT_DEVICE static void round(unsigned (&values)[4]) {
    if constexpr (kElement == 4) {
#pragma unroll
      for (int i = 0; i < 4; ++i) values[i] = round_to_tf32(values[i]);
    }
  }

  // sums += the product of both operands over `steps` steps.
  template <class Operands>
  CONVEXT_DEVICE static void multiply(Operands& operands, int steps, Sums* sums) {
    SHARED_DYNAMIC(shared);
    const auto load = [&](int step) {
      operands.a.stage = shared + step % Stages * kStageBytes;
      operands.b.stage = operands.a.stage + kM * 64;
      operands.load();
    };

    // The first stages are on their way.
#pragma unroll
    for (int step = 0; step < Stages - 1; ++step) {
      if (step < steps) {
        if (step > 0) operands.next();
        load(step);
      }
      cp_async_commit();
    }

    // Main loop.
    for (int step = 0; step < steps; ++step) {
      cp_async_wait<Stages - 2>();
      __syncthreads();  // this stage is there, and all are done with the one before it
      const int next = step + Stages - 1;
      if (next < steps) {
        operands.next();
        load(next);
      }
      cp_async_commit();
      const unsigned char* a_tile = shared + step % Stages * kStageBytes;
      const unsigned char* b_tile = a_tile + kM * 64;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        unsigned a[Rows][4];
#pragma unroll
        for (int i = 0; i < Rows; ++i) {
          load_a<Operands::A::kDepthAdjacent>(a[i], a_tile, warp_row() + i * 16, half);
        }
#pragma unroll
        for (int j = 0; j < Lanes; j += 2) {
          unsigned b[4];
          load_b<Operands::B::kDepthAdjacent>(b, b_tile, warp_lane() + j * 8, half);
          const unsigned lanes[2][2] = {{b[0], b[1]}, {b[2], b[3]}};
#pragma unroll
          for (int i = 0; i < Rows; ++i) {
            mma(T{}, sums->value[i][j], a[i], lanes[0]);
            mma(T{}, sums->value[i][j + 1], a[i], lanes[1]);
          }
        }
      }
    }
  }
};

}  // namespace convext::cuda
