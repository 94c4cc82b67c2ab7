// How wgmma is told where a matrix lies in shared memory (PTX ISA: wgmma, matrix descriptor).
#pragma once

#include <cstdint>

#include "divisor.h"

namespace convext::cuda {

// Swizzled matrices of 16-bit elements. A row is `swizzle` = 32, 64 or 128 adjacent bytes; its
// 16-byte chunks are permuted by bits of their address, as copies under the same swizzle leave them:
// chunk number ^ (address / 128) % (swizzle / 16). Eight rows follow each other; `stride` bytes
// further are the next eight.
//   Depth adjacent: rows are the matrix' rows (of b, columns). `leading` has no meaning.
//   Rows adjacent: rows of memory are depths, and hold swizzle / 2 of the matrix' rows; `leading`
//   bytes further are the next rows of the matrix.
// `address` is aligned to 16 bytes; what it begins at within a row is a multiple of 32 bytes.
CONVEXT_HOST_DEVICE std::uint64_t matrix_descriptor(unsigned address, int leading, int stride,
                                                    int swizzle) {
  const std::uint64_t mode = swizzle == 128 ? 1 : swizzle == 64 ? 2 : 3;
  return (address >> 4 & 0x3fff) | static_cast<std::uint64_t>(leading >> 4 & 0x3fff) << 16 |
         static_cast<std::uint64_t>(stride >> 4 & 0x3fff) << 32 | mode << 62;
}

}  // namespace convext::cuda
