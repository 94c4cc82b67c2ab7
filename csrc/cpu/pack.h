// Packing: blocks of a tensor, in any layout and storage type, to rows of compute type and back.
//
// A block is `rows` x `columns`; columns end up contiguous. Three ways in, by the source's strides:
// columns contiguous (convert), rows contiguous or with a gap of one (transpose in registers),
// anything else (element by element). Transposed blocks at the end overlap their neighbours and
// move the same values again. This is where NCHW and 16-bit types stop being special: the kernels
// see neither.
#pragma once

#include "isa_kernels.h"
#include "simd.h"

namespace convext::CONVEXT_ISA {
namespace {

// Rows of a block `Step` apart: L x L blocks are transposed. Columns are the outer loop, so that L
// sources are read on sequentially, however many columns there are.
template <class T, int Step, class S>
void transpose_tile(const S* source, std::int64_t column_stride, std::int64_t rows,
                    std::int64_t columns, T* destination, std::int64_t ld) {
  constexpr int L = kLanes<T>;
  for (std::int64_t next_j = 0; next_j < columns; next_j += L) {
    const std::int64_t j = next_j + L <= columns ? next_j : columns - L;
    const auto transpose_block = [&](std::int64_t i) {
      Vec<T> block[L];
#pragma GCC unroll 16
      for (int l = 0; l < L; ++l) {
        block[l] = load_every_as<T, Step>(source + (j + l) * column_stride + i * Step);
      }
      transpose<T>(block);
#pragma GCC unroll 16
      for (int l = 0; l < L; ++l) store<T>(destination + (i + l) * ld + j, block[l]);
    };
    std::int64_t i = 0;
    for (; i + L <= rows; i += L) transpose_block(i);
    if (i < rows) transpose_block(rows - L);
  }
}

// The same for less than L rows. Whole vectors read on into what follows a column, but not beyond
// the end of the last one.
template <class T, int Step, class S>
void transpose_short_tile(const S* source, std::int64_t column_stride, std::int64_t rows,
                          std::int64_t columns, T* destination, std::int64_t ld) {
  constexpr int L = kLanes<T>, kReach = (L - 1) * Step + 1;
  const std::int64_t readable = (columns - 1) * column_stride + (rows - 1) * Step + 1;
  for (std::int64_t next_j = 0; next_j < columns; next_j += L) {
    const std::int64_t j = next_j + L <= columns ? next_j : columns - L;
    Vec<T> block[L];
    for (int l = 0; l < L; ++l) {
      const S* s = source + (j + l) * column_stride;
      if ((j + l) * column_stride + kReach <= readable) {
        block[l] = load_every_as<T, Step>(s);
      } else {
        T column[L] = {};
        for (std::int64_t i = 0; i < rows; ++i) column[i] = to_compute<T>(s[i * Step]);
        block[l] = load(column);
      }
    }
    transpose<T>(block);
    for (std::int64_t i = 0; i < rows; ++i) store<T>(destination + i * ld + j, block[i]);
  }
}

template <class T, class S>
void pack_tile(const S* source, std::int64_t row_stride, std::int64_t column_stride,
               std::int64_t rows, std::int64_t columns, std::int64_t padded, T* destination,
               std::int64_t ld) {
  constexpr int L = kLanes<T>;
  // Fewer rows are not worth a transposition.
  if ((row_stride == 1 || row_stride == 2) && rows * 4 >= L && rows > 1 && columns >= L) {
    const auto transposed =
        rows < L ? row_stride == 1 ? transpose_short_tile<T, 1, S> : transpose_short_tile<T, 2, S>
        : row_stride == 1 ? transpose_tile<T, 1, S>
                          : transpose_tile<T, 2, S>;
    transposed(source, column_stride, rows, columns, destination, ld);
    for (std::int64_t i = 0; columns < padded && i < rows; ++i) {
      for (std::int64_t c = columns; c < padded; ++c) destination[i * ld + c] = 0;
    }
    return;
  }
  for (std::int64_t i = 0; i < rows; ++i) {
    const S* s = source + i * row_stride;
    T* d = destination + i * ld;
    std::int64_t c = 0;
    if (column_stride == 2) {  // a plane's phases
      for (; c + L <= columns; c += L) store<T>(d + c, load_every_as<T, 2>(s + 2 * c));
    }
    for (; c < columns; ++c) d[c] = to_compute<T>(s[c * column_stride]);
    for (; c < padded; ++c) d[c] = 0;
  }
}

// Planes as one long row each. Its pixels' places are `ld` apart, and `gap` more after each
// `width` of them.
template <class T, class S>
void pack_planes_typed(const S* source, std::int64_t plane_stride, std::int64_t pixels,
                       std::int64_t width, std::int64_t planes, T* destination, std::int64_t ld,
                       std::int64_t gap) {
  constexpr int L = kLanes<T>;
  if (pixels < L || planes < L) {
    for (std::int64_t i = 0; i < pixels; ++i) {
      T* d = destination + i * ld + i / width * gap;
      for (std::int64_t c = 0; c < planes; ++c) d[c] = to_compute<T>(source[c * plane_stride + i]);
    }
    return;
  }
  for (std::int64_t next_j = 0; next_j < planes; next_j += L) {
    const std::int64_t j = next_j + L <= planes ? next_j : planes - L;
    const S* s = source + j * plane_stride;
    T* d = destination + j;
    std::int64_t column = 0;
    const auto pack_block = [&](std::int64_t i) {
      Vec<T> block[L];
#pragma GCC unroll 16
      for (int l = 0; l < L; ++l) block[l] = load_as<T>(s + l * plane_stride + i);
      transpose<T>(block);
#pragma GCC unroll 16
      for (int l = 0; l < L; ++l) {
        store<T>(d, block[l]);
        d += ld;
        if (++column == width) {
          column = 0;
          d += gap;
        }
      }
    };
    std::int64_t i = 0;
    for (; i + L <= pixels; i += L) pack_block(i);
    if (i == pixels) continue;
    i = pixels - L;
    column = i % width;
    d = destination + j + i * ld + i / width * gap;
    pack_block(i);
  }
}

template <class T, class S>
void pack_typed(const S* source, std::int64_t row_stride, std::int64_t column_stride,
                std::int64_t rows, std::int64_t columns, std::int64_t tile, T* destination,
                std::int64_t ld, std::int64_t tile_stride) {
  constexpr int L = kLanes<T>;
  if (column_stride != 1) {
    for (std::int64_t c = 0; c < columns; c += tile) {
      pack_tile(source + c * column_stride, row_stride, column_stride, rows,
                columns - c < tile ? columns - c : tile, tile, destination + c / tile * tile_stride,
                ld);
    }
    return;
  }
  // Columns contiguous: each source row is read through once, whatever the tiles.
  for (std::int64_t i = 0; i < rows; ++i) {
    const S* s = source + i * row_stride;
    T* d = destination + i * ld;
    for (std::int64_t left = columns; left > 0; left -= tile, s += tile, d += tile_stride) {
      const std::int64_t count = left < tile ? left : tile;
      std::int64_t j = 0;
      for (; j + L <= count; j += L) store<T>(d + j, load_as<T>(s + j));
      for (; j < count; ++j) d[j] = to_compute<T>(s[j]);
      for (; j < tile; ++j) d[j] = 0;
    }
  }
}

template <class T, class S>
void unpack_typed(const T* source, std::int64_t ld, std::int64_t rows, std::int64_t columns,
                  S* destination, std::int64_t row_stride, std::int64_t column_stride) {
  constexpr int L = kLanes<T>;
  if (column_stride == 1) {
    for (std::int64_t i = 0; i < rows; ++i) {
      const T* s = source + i * ld;
      S* d = destination + i * row_stride;
      std::int64_t j = 0;
      for (; j + L <= columns; j += L) store_as<S, T>(d + j, load(s + j));
      for (; j < columns; ++j) d[j] = to_storage<S>(s[j]);
    }
    return;
  }
  if (row_stride == 1 && rows >= L && columns >= L) {
    constexpr std::int64_t kFew = L / 4;  // rows that are left over: the ninth of nine taps
    for (std::int64_t next_j = 0; next_j < columns; next_j += L) {
      const std::int64_t j = next_j + L <= columns ? next_j : columns - L;
      const auto transpose_block = [&](std::int64_t i) {
        Vec<T> block[L];
#pragma GCC unroll 16
        for (int l = 0; l < L; ++l) block[l] = load(source + (i + l) * ld + j);
        transpose<T>(block);
#pragma GCC unroll 16
        for (int l = 0; l < L; ++l) {
          store_as<S, T>(destination + (j + l) * column_stride + i, block[l]);
        }
      };
      std::int64_t i = 0;
      for (; i + L <= rows; i += L) transpose_block(i);
      if (rows - i > kFew) {
        transpose_block(rows - L);
        continue;
      }
      for (; i < rows; ++i) {
        for (int l = 0; l < L; ++l) {
          destination[(j + l) * column_stride + i] = to_storage<S>(source[i * ld + j + l]);
        }
      }
    }
    return;
  }
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t j = 0; j < columns; ++j) {
      destination[i * row_stride + j * column_stride] = to_storage<S>(source[i * ld + j]);
    }
  }
}

// f of the pointer to elements of the storage type.
template <class T, class F>
CONVEXT_INLINE void with_storage(void* data, DType dtype, F&& f) {
  if constexpr (sizeof(T) == 8) {
    f(static_cast<double*>(data));
  } else if (dtype == DType::kBFloat16) {
    f(static_cast<BFloat16*>(data));
  } else if (dtype == DType::kFloat16) {
    f(static_cast<Float16*>(data));
  } else {
    f(static_cast<float*>(data));
  }
}

template <class T>
void pack(const StridedBlock& b, std::int64_t rows, std::int64_t columns, std::int64_t tile,
          T* destination, std::int64_t ld, std::int64_t tile_stride) {
  with_storage<T>(b.data, b.dtype, [&](const auto* source) {
    pack_typed(source, b.row_stride, b.column_stride, rows, columns, tile, destination, ld,
               tile_stride);
  });
}

template <class T>
void pack_planes(const void* source, DType dtype, std::int64_t plane_stride, std::int64_t pixels,
                 std::int64_t width, std::int64_t planes, T* destination, std::int64_t ld,
                 std::int64_t gap) {
  with_storage<T>(const_cast<void*>(source), dtype, [&](const auto* s) {
    pack_planes_typed(s, plane_stride, pixels, width, planes, destination, ld, gap);
  });
}

template <class T>
void unpack(const T* source, std::int64_t ld, std::int64_t rows, std::int64_t columns,
            const StridedBlock& b) {
  with_storage<T>(b.data, b.dtype, [&](auto* destination) {
    unpack_typed(source, ld, rows, columns, destination, b.row_stride, b.column_stride);
  });
}

// destination = source, past the caches: for results too large to be found there by whoever reads
// them next. A line that is written whole is not read first.
template <class T>
void stream_copy(const T* source, std::int64_t count, T* destination) {
  constexpr int L = kLanes<T>;
  std::int64_t i = 0;
  while (i < count && reinterpret_cast<std::uintptr_t>(destination + i) % 64 != 0) {
    destination[i] = source[i];
    ++i;
  }
  for (; i + L <= count; i += L) stream<T>(destination + i, load(source + i));
  for (; i < count; ++i) destination[i] = source[i];
}

// bgrad_rowsum: column sums of packed rows
//
// computes  sum[k] += sum_{row} rows[row][k]
// owns      one call: a block of rows, every column; the block is summed from zero in compute type
//           and added to the float64 `sum` once.
// budget    4 accumulators, to hide the latency of an addition.
// needs     columns padded to whole vectors.
// bound by  loads.
// step      none: the naive sum, a vector of columns at a time.
template <class T>
void add_rows(const T* rows, std::int64_t count, std::int64_t columns, std::int64_t ld,
              double* sum) {
  constexpr int L = kLanes<T>;
  for (std::int64_t c = 0; c < columns; c += L) {
    Vec<T> partial[4] = {};
    std::int64_t i = 0;
    for (; i + 4 <= count; i += 4) {
#pragma GCC unroll 4
      for (int u = 0; u < 4; ++u) partial[u] += load(rows + (i + u) * ld + c);
    }
    for (; i < count; ++i) partial[0] += load(rows + i * ld + c);
    T lanes[L];
    store<T>(lanes, (partial[0] + partial[1]) + (partial[2] + partial[3]));
    for (int l = 0; l < L; ++l) sum[c + l] += static_cast<double>(lanes[l]);
  }
}

}  // namespace
}  // namespace convext::CONVEXT_ISA
