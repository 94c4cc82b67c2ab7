// The SIMT rung: tiles in shared memory, multiplied by every thread for itself
//
// computes  sums[row][lane] += sum_d a[d][row] * b[d][lane], kK of the depth d at a time
// owns      CTA: kM x kN results; thread: Rows x Lanes of them, in vectors of 16 bytes that lie
//           kSide vectors apart, so that a warp's threads read neighbouring ones.
// budget    128 x 128 x 8 of float: 64 sums, 16 operands, 8 elements on their way to shared memory:
//           128 registers, two CTAs an SM; shared 2 * 8 * (132 + 132) * 4 = 16.5 KiB.
//           64 x 64 x 8 of double: 32 registers of sums; shared 2 * 8 * (66 + 66) * 8 = 16.5 KiB.
// needs     operands.cuh's shares. Not Ragged: chunks are whole vectors, aligned to their size.
// bound by  FMA: Rows * Lanes of them for Rows + Lanes loads from shared memory.
// step      from naive: an element of shared memory serves Rows or Lanes multiplications of a
//           thread. While one copy of the tiles is multiplied, the next step's elements are on
//           their way to registers, and from there to the other copy.
#pragma once

#include "element.cuh"

namespace convext::cuda {

template <class T, int Rows, int Lanes, int Depth, bool Ragged>
struct SimtTile {
  using Value = Compute<T>;
  static constexpr int kSide = 16, kThreads = kSide * kSide, kBlocks = 2;
  static constexpr int kM = kSide * Rows, kN = kSide * Lanes, kK = Depth;
  static constexpr int kVector = 16 / sizeof(Value);
  static constexpr std::size_t kSharedBytes = 0;  // dynamic
  static constexpr bool kRagged = Ragged;
  static_assert(Rows % kVector == 0 && Lanes % kVector == 0, "threads read whole vectors");

  // A thread's rows and lanes.
  CONVEXT_DEVICE static int row(int i) {
    return (i / kVector * kSide + static_cast<int>(threadIdx.x) / kSide) * kVector + i % kVector;
  }
  CONVEXT_DEVICE static int lane(int j) {
    return (j / kVector * kSide + static_cast<int>(threadIdx.x) % kSide) * kVector + j % kVector;
  }

  // A thread's part of one operand's way: chunks in registers.
  template <int Extent, bool DepthAdjacent>
  struct Share {
    // Longer than the tile, so that a warp that stores along the depth meets different banks.
    static constexpr int kPitch = Extent + kVector;
    static constexpr int kChunks = Extent * kK / kVector / kThreads;
    static_assert(kChunks * kThreads * kVector == Extent * kK, "equal shares");

    Pack<T, kVector> chunk[kChunks];

    CONVEXT_DEVICE explicit Share(const T*) {}

    CONVEXT_DEVICE static int index(int i) { return static_cast<int>(threadIdx.x) + i * kThreads; }
    CONVEXT_DEVICE static int at(int i) {
      return DepthAdjacent ? index(i) / (kK / kVector) : index(i) % (Extent / kVector) * kVector;
    }
    CONVEXT_DEVICE static int depth(int i) {
      return DepthAdjacent ? index(i) % (kK / kVector) * kVector : index(i) / (Extent / kVector);
    }

    CONVEXT_DEVICE void load(int i, const T* from, int count) {
      if (!Ragged && from != nullptr) {
        chunk[i] = load_pack<kVector>(from);
        return;
      }
#pragma unroll
      for (int e = 0; e < kVector; ++e) {
        chunk[i].element[e] =
            Ragged && from != nullptr && e < count ? from[e] : to_storage<T>(Value(0));
      }
    }

    CONVEXT_DEVICE void set(int i, const Pack<T, kVector>& values) { chunk[i] = values; }

    CONVEXT_DEVICE void put(Value (&tile)[kK][kPitch]) const {
#pragma unroll
      for (int i = 0; i < kChunks; ++i) {
#pragma unroll
        for (int e = 0; e < kVector; ++e) {
          const int d = depth(i) + (DepthAdjacent ? e : 0), x = at(i) + (DepthAdjacent ? 0 : e);
          tile[d][x] = to_compute(chunk[i].element[e]);
        }
      }
    }
  };

  struct Sums {
    Value value[Rows][Lanes] = {};

    // store(row_at(row), lane, values) for all rows for which row_at is not null.
    template <class RowAt, class Store>
    CONVEXT_DEVICE void for_each(RowAt&& row_at, Store&& store) const {
#pragma unroll
      for (int i = 0; i < Rows; ++i) {
        auto* to = row_at(row(i));
        if (to == nullptr) continue;
#pragma unroll
        for (int j = 0; j < Lanes; j += kVector) {
          Pack<Value, kVector> values;
#pragma unroll
          for (int e = 0; e < kVector; ++e) values.element[e] = value[i][j + e];
          store(to, lane(j), values);
        }
      }
    }
  };

  // sums += the product of both operands over `steps` steps.
  template <class Operands>
  CONVEXT_DEVICE static void multiply(Operands& operands, int steps, Sums* sums) {
    using Vector = Pack<Value, kVector>;
    SHARED_ARRAY(Value, a, [2][kK][Operands::A::kPitch]);
    SHARED_ARRAY(Value, b, [2][kK][Operands::B::kPitch]);
    if (steps == 0) return;
    operands.load();
    operands.a.put(a[0]);
    operands.b.put(b[0]);
    __syncthreads();  // the first copy is filled

    // Main loop.
    for (int step = 0; step < steps; ++step) {
      const int copy = step % 2;
      const bool more = step + 1 < steps;
      if (more) {
        operands.next();
        operands.load();
      }
#pragma unroll
      for (int d = 0; d < kK; ++d) {
        Vector rows[Rows / kVector], lanes[Lanes / kVector];
#pragma unroll
        for (int i = 0; i < Rows; i += kVector) {
          rows[i / kVector] = *reinterpret_cast<const Vector*>(&a[copy][d][row(i)]);
        }
#pragma unroll
        for (int j = 0; j < Lanes; j += kVector) {
          lanes[j / kVector] = *reinterpret_cast<const Vector*>(&b[copy][d][lane(j)]);
        }
#pragma unroll
        for (int i = 0; i < Rows; ++i) {
#pragma unroll
          for (int j = 0; j < Lanes; ++j) {
            sums->value[i][j] +=
                rows[i / kVector].element[i % kVector] * lanes[j / kVector].element[j % kVector];
          }
        }
      }
      if (more) {
        operands.a.put(a[copy ^ 1]);
        operands.b.put(b[copy ^ 1]);
      }
      __syncthreads();  // one copy is free, the other is filled
    }
  }
};

}  // namespace convext::cuda
