// Packing for the kernels that multiply pairs of bfloat16: pack.h without a conversion. Elements
// are moved in pairs, as 32 bits each, so that the transpose of float32 serves.
#pragma once

#include "isa_kernels.h"
#include "simd.h"

namespace convext::CONVEXT_ISA {
namespace {

typedef std::uint16_t vhalves __attribute__((vector_size(CONVEXT_VECTOR_BYTES / 2)));

// Pairs of first[i] and second[i], for i < count <= lanes; the others are zero, and so are the
// second ones if `second` is null.
CONVEXT_INLINE vfloat load_pairs(const BFloat16* first, const BFloat16* second,
                                 std::int64_t count = kLanes<float>) {
  vhalves a{}, b{};
  if (count >= kLanes<float>) {
    std::memcpy(&a, first, sizeof a);
    if (second != nullptr) std::memcpy(&b, second, sizeof b);
  } else {
    const auto bytes = static_cast<std::size_t>(count) * sizeof(BFloat16);
    std::memcpy(&a, first, bytes);
    if (second != nullptr) std::memcpy(&b, second, bytes);
  }
  return reinterpret_cast<vfloat>(__builtin_convertvector(a, vpairs) |
                                  (__builtin_convertvector(b, vpairs) << 16));
}

// Rows that are contiguous, to columns that are: blocks of L rows x L pairs of columns.
void transpose_rows(const BFloat16* source, std::int64_t column_stride, std::int64_t rows,
                    std::int64_t columns, std::int64_t padded, BFloat16* destination,
                    std::int64_t ld) {
  constexpr int L = kLanes<float>;
  for (std::int64_t j = 0; j < padded; j += 2 * L) {
    const std::int64_t width = padded - j < 2 * L ? padded - j : 2 * L;
    for (std::int64_t i = 0; i < rows; i += L) {
      const std::int64_t count = rows - i < L ? rows - i : L;
      vfloat block[L];
#pragma GCC unroll 16
      for (int l = 0; l < L; ++l) {
        const std::int64_t c = j + 2 * l;
        const BFloat16* s = source + c * column_stride + i;
        block[l] = c < columns ? load_pairs(s, c + 1 < columns ? s + column_stride : nullptr, count)
                               : vfloat{};
      }
      transpose<float>(block);
      BFloat16* d = destination + i * ld + j;
      if (width == 2 * L) {
        for (int l = 0; l < count; ++l) std::memcpy(d + l * ld, &block[l], sizeof block[l]);
      } else {
        const auto bytes = static_cast<std::size_t>(width) * sizeof(BFloat16);
        for (int l = 0; l < count; ++l) std::memcpy(d + l * ld, &block[l], bytes);
      }
    }
  }
}

void pack_bfloat16(const StridedBlock& b, std::int64_t rows, std::int64_t columns,
                   std::int64_t tile, BFloat16* destination, std::int64_t ld,
                   std::int64_t tile_stride) {
  const auto* source = static_cast<const BFloat16*>(b.data);
  for (std::int64_t c = 0; c < columns; c += tile, destination += tile_stride) {
    const std::int64_t count = columns - c < tile ? columns - c : tile;
    const BFloat16* from = source + c * b.column_stride;
    if (b.row_stride == 1 && b.column_stride != 1) {
      transpose_rows(from, b.column_stride, rows, count, tile, destination, ld);
      continue;
    }
    for (std::int64_t i = 0; i < rows; ++i) {
      const BFloat16* s = from + i * b.row_stride;
      BFloat16* d = destination + i * ld;
      if (b.column_stride == 1) {
        std::memcpy(d, s, static_cast<std::size_t>(count) * sizeof(BFloat16));
      } else {
        for (std::int64_t j = 0; j < count; ++j) d[j] = s[j * b.column_stride];
      }
      for (std::int64_t j = count; j < tile; ++j) d[j] = BFloat16{};
    }
  }
}

void pack_pairs(const StridedBlock& b, std::int64_t rows, std::int64_t columns, std::int64_t width,
                BFloat16* destination) {
  constexpr int L = kLanes<float>;
  const auto* source = static_cast<const BFloat16*>(b.data);
  const std::int64_t row = b.row_stride, column = b.column_stride;
  if (row == 1) {
    // A column's pairs are adjacent: transpose L columns of L pairs.
    for (std::int64_t j = 0; j < width; j += L) {
      for (std::int64_t i = 0; i < rows; i += 2 * L) {
        const std::int64_t count = rows - i < 2 * L ? rows - i : 2 * L;
        vfloat block[L];
#pragma GCC unroll 16
        for (int l = 0; l < L; ++l) {
          block[l] = vfloat{};
          if (j + l >= columns) continue;
          const BFloat16* s = source + (j + l) * column + i;
          if (count == 2 * L) {
            std::memcpy(&block[l], s, sizeof block[l]);
          } else {
            std::memcpy(&block[l], s, static_cast<std::size_t>(count) * sizeof(BFloat16));
          }
        }
        transpose<float>(block);
        for (int l = 0; 2 * l < count; ++l) {
          std::memcpy(destination + (i + 2 * l) * width + 2 * j, &block[l], sizeof block[l]);
        }
      }
    }
    return;
  }
  for (std::int64_t i = 0; i < rows; i += 2) {
    const BFloat16* s = source + i * row;
    const bool both = i + 1 < rows;
    BFloat16* d = destination + i * width;
    if (column == 1) {
      for (std::int64_t j = 0; j < width; j += L) {
        const std::int64_t left = columns - j, count = left > 0 ? left : 0;
        const vfloat pairs =
            count > 0 ? load_pairs(s + j, both ? s + row + j : nullptr, count) : vfloat{};
        std::memcpy(d + 2 * j, &pairs, sizeof pairs);
      }
      continue;
    }
    for (std::int64_t j = 0; j < width; ++j) {
      const bool there = j < columns;
      d[2 * j] = there ? s[j * column] : BFloat16{};
      d[2 * j + 1] = there && both ? s[j * column + row] : BFloat16{};
    }
  }
}

}  // namespace
}  // namespace convext::CONVEXT_ISA
