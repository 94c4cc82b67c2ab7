// wgmma in all its forms against a plain product, and stmatrix against ldmatrix.
#include "instructions.h"

namespace convext_tests {
namespace {

using convext::cuda::matrix_descriptor;

constexpr int kM = 64, kDepth = 64;

template <class T>
T to_element(float value) {
  if constexpr (std::is_same_v<T, __half>) {
    return __float2half(value);
  } else {
    return __float2bfloat16(value);
  }
}
template <class T>
float to_float(T value) {
  if constexpr (std::is_same_v<T, __half>) {
    return __half2float(value);
  } else {
    return __bfloat162float(value);
  }
}

// Where in shared memory depth `k` of a matrix of `rows` rows begins, which lies there in blocks
// that are `swizzle` bytes wide.
std::uint64_t descriptor(const unsigned char* tile, int rows, int major, int k, int swizzle) {
  const int wide = swizzle / 2;
  const unsigned at = smem_address(tile);
  if (major == 0) {  // [depth / wide][rows][wide]
    return matrix_descriptor(at + static_cast<unsigned>(k / wide * rows * swizzle + k % wide * 2),
                             16, 8 * swizzle, swizzle);
  }
  // [rows / wide][depth][wide]
  return matrix_descriptor(at + static_cast<unsigned>(k * swizzle), kDepth * swizzle, 8 * swizzle,
                           swizzle);
}

void load(unsigned char* to, const TensorMap* map, std::uint64_t* barrier, int rows, int major,
          int swizzle) {
  const int wide = swizzle / 2;
  const int across = major == 0 ? kDepth : rows, down = major == 0 ? rows : kDepth;
  for (int i = 0; i < across / wide; ++i) {
    tma_load_2d(to + i * down * swizzle, map, barrier, i * wide, 0);
  }
}

// out [64][N] = a b, added to what `out` held if `accumulate`.
template <class T, int N, int AMajor, int BMajor>
void product(const TensorMap a_map, const TensorMap b_map, float* out, int swizzle,
             bool accumulate) {
  SHARED_DYNAMIC(smem);
  SHARED_ARRAY(std::uint64_t, barrier, [1]);
  unsigned char *a = smem, *b = smem + kM * kDepth * 2;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  if (threadIdx.x == 0) {
    mbarrier_init(barrier, 1);
    fence_mbarrier_init();
    mbarrier_arrive_expect(barrier, (kM + N) * kDepth * 2);
    load(a, &a_map, barrier, kM, AMajor, swizzle);
    load(b, &b_map, barrier, N, BMajor, swizzle);
  }
  __syncthreads();
  const auto for_each = [&](auto&& f) {
    for (int i = 0; i < N / 2; ++i) {
      const int row = warp * 16 + lane / 4 + i / 2 % 2 * 8;
      f(i, out[row * N + i / 4 * 8 + lane % 4 * 2 + i % 2]);
    }
  };
  float sums[N / 2];
  if (accumulate) for_each([&](int i, float& place) { sums[i] = place; });
  mbarrier_wait(barrier, 0);
  wgmma_fence();
  for (int k = 0; k < kDepth; k += 16) {
    wgmma<T, N, AMajor, BMajor>(sums, descriptor(a, kM, AMajor, k, swizzle),
                                descriptor(b, N, BMajor, k, swizzle), accumulate || k > 0);
    if (k == 16) wgmma_commit();
  }
  wgmma_commit();
  wgmma_wait<1>();
  wgmma_wait<0>();
  for_each([&](int i, float& place) { place = sums[i]; });
}

// The same, a in registers.
template <class T, int N, int BMajor>
void product_of_registers(const T* a, const TensorMap b_map, float* out, int swizzle) {
  SHARED_DYNAMIC(smem);
  SHARED_ARRAY(std::uint64_t, barrier, [1]);
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  if (threadIdx.x == 0) {
    mbarrier_init(barrier, 1);
    fence_mbarrier_init();
    mbarrier_arrive_expect(barrier, N * kDepth * 2);
    load(smem, &b_map, barrier, N, BMajor, swizzle);
  }
  __syncthreads();
  mbarrier_wait(barrier, 0);
  float sums[N / 2];
  for (int k = 0; k < kDepth; k += 16) {
    unsigned fragment[4];
    for (int i = 0; i < 4; ++i) {
      const int row = warp * 16 + lane / 4 + i % 2 * 8, depth = k + lane % 4 * 2 + i / 2 * 8;
      std::memcpy(&fragment[i], a + row * kDepth + depth, 4);
    }
    wgmma_fence();
    wgmma_registers<T, N, BMajor>(sums, fragment, descriptor(smem, N, BMajor, k, swizzle), k > 0);
    wgmma_commit();
    wgmma_wait<0>();
  }
  for (int i = 0; i < N / 2; ++i) {
    const int row = warp * 16 + lane / 4 + i / 2 % 2 * 8;
    out[row * N + i / 4 * 8 + lane % 4 * 2 + i % 2] = sums[i];
  }
}

template <class T>
constexpr DType dtype_of() {
  return std::is_same_v<T, __half> ? DType::kFloat16 : DType::kBFloat16;
}

// [rows][depth], or the other way round, of small integers.
template <class T>
struct Matrix {
  emu::Buffer<T> data;
  int rows, major;
  Matrix(int rows, int major, const char* name)
      : data(static_cast<std::size_t>(rows) * kDepth, name), rows(rows), major(major) {
    for (std::size_t i = 0; i < data.size(); ++i) {
      data[i] = to_element<T>(static_cast<float>(pick(-8, 8)));
    }
  }
  float at(int row, int k) {
    const int place = major == 0 ? row * kDepth + k : k * rows + row;
    return to_float(data[static_cast<std::size_t>(place)]);
  }
  TensorMap map(int swizzle) const {
    const std::vector<int> size =
        major == 0 ? std::vector<int>{kDepth, rows} : std::vector<int>{rows, kDepth};
    return encode_map(dense_map(data.data(), dtype_of<T>(), size, {swizzle / 2, size[1]}, swizzle));
  }
};

template <class T, int N>
void check_product(Matrix<T>* a, Matrix<T>* b, const emu::Buffer<float>& out, float before) {
  for (int i = 0; i < kM; ++i) {
    for (int j = 0; j < N; ++j) {
      float expected = before;
      for (int k = 0; k < kDepth; ++k) expected += a->at(i, k) * b->at(j, k);
      const float found = out.data()[i * N + j];
      if (!(found == expected)) {
        throw emu::Error(emu::format("row %d, column %d is %g, %g is right (%d columns)", i, j,
                                     found, expected, N));
      }
    }
  }
}

template <class T, int N, int AMajor, int BMajor>
void test_product() {
  for (int swizzle : {32, 64, 128}) {
    in_orders([&] {
      for (bool accumulate : {false, true}) {
        Matrix<T> a(kM, AMajor, "a"), b(N, BMajor, "b");
        emu::Buffer<float> out(kM * N, "out");
        if (accumulate) std::fill_n(out.data(), out.size(), 3.0f);
        emu::launch(&product<T, N, AMajor, BMajor>, dim3(1), dim3(128), (kM + N) * kDepth * 2,
                    a.map(swizzle), b.map(swizzle), out.data(), swizzle, accumulate);
        check_product<T, N>(&a, &b, out, accumulate ? 3.0f : 0.0f);
      }
    });
  }
}

template <class T, int AMajor, int BMajor>
void test_products() {
  test_product<T, 64, AMajor, BMajor>();
  test_product<T, 128, AMajor, BMajor>();
  test_product<T, 192, AMajor, BMajor>();
  test_product<T, 256, AMajor, BMajor>();
}
void test_all_products() {
  test_products<__half, 0, 0>();
  test_products<__half, 0, 1>();
  test_products<__nv_bfloat16, 1, 0>();
  test_products<__nv_bfloat16, 1, 1>();
  test_products<__nv_bfloat16, 0, 0>();
}

template <class T, int N, int BMajor>
void test_product_of_registers() {
  for (int swizzle : {32, 64, 128}) {
    in_orders([&] {
      Matrix<T> a(kM, 0, "a"), b(N, BMajor, "b");
      emu::Buffer<float> out(kM * N, "out");
      emu::launch(&product_of_registers<T, N, BMajor>, dim3(1), dim3(128), N * kDepth * 2,
                  a.data.data(), b.map(swizzle), out.data(), swizzle);
      check_product<T, N>(&a, &b, out, 0.0f);
    });
  }
}
void test_products_of_registers() {
  test_product_of_registers<__half, 64, 1>();
  test_product_of_registers<__half, 128, 0>();
  test_product_of_registers<__nv_bfloat16, 64, 0>();
  test_product_of_registers<__nv_bfloat16, 128, 1>();
}

// All halves, as the products convert them.
void conversions(const TensorMap a_map, const TensorMap b_map, float* out) {
  product<__half, 64, 0, 0>(a_map, b_map, out, 128, false);
}
void test_conversions() {
  Matrix<__half> a(kM, 0, "a"), b(64, 0, "b");
  for (int first = 0; first < 65536; first += 64) {
    for (int i = 0; i < kM; ++i) {
      for (int k = 0; k < kDepth; ++k) {
        const auto place = static_cast<std::size_t>(i * kDepth + k);
        // Row i of a holds one number beside zeros, b is the identity.
        const auto bits = static_cast<std::uint16_t>(k == 0 ? first + i : 0);
        std::memcpy(&a.data[place], &bits, 2);
        b.data[place] = __float2half(i == k ? 1.0f : 0.0f);
      }
    }
    emu::Buffer<float> out(kM * 64, "out");
    emu::launch(&conversions, dim3(1), dim3(128), 128 * kDepth * 2, a.map(128), b.map(128),
                out.data());
    for (int i = 0; i < kM; ++i) {
      const float expected = a.at(i, 0), found = out[static_cast<std::size_t>(i) * 64];
      expect(found == expected || (found != found && expected != expected), "a half is another");
    }
  }
}

// ---- stmatrix -----------------------------------------------------------------------------------

// Each lane's four registers hold its number and theirs; ldmatrix gives them back, and the elements
// lie where the ISA says.
template <bool Transposed>
void round_trip(std::uint16_t* out) {
  SHARED_ARRAY(std::uint16_t, tile, [32][8]);
  const unsigned lane = threadIdx.x;
  unsigned r[4], back[4];
  for (unsigned i = 0; i < 4; ++i) r[i] = (lane * 4 + i) * 2 | ((lane * 4 + i) * 2 + 1) << 16;
  if (Transposed) {
    stmatrix_x4_trans(&tile[lane][0], r);
  } else {
    stmatrix_x4(&tile[lane][0], r);
  }
  __syncwarp();
  if (Transposed) {
    ldmatrix_x4_trans(back, &tile[lane][0]);
  } else {
    ldmatrix_x4(back, &tile[lane][0]);
  }
  for (int i = 0; i < 4; ++i) {
    if (back[i] != r[i]) emu::fail("ldmatrix does not give back what stmatrix wrote");
  }
  for (int i = 0; i < 8; ++i) out[lane * 8 + static_cast<unsigned>(i)] = tile[lane][i];
}
void test_stmatrix() {
  in_orders([] {
    for (bool transposed : {false, true}) {
      emu::Buffer<std::uint16_t> out(32 * 8, "out");
      emu::launch(transposed ? &round_trip<true> : &round_trip<false>, dim3(1), dim3(32), 0,
                  out.data());
      for (unsigned matrix = 0; matrix < 4; ++matrix) {
        for (unsigned row = 0; row < 8; ++row) {
          for (unsigned column = 0; column < 8; ++column) {
            // Row r of a fragment is held by lanes 4r to 4r + 3, two elements each.
            const unsigned r = transposed ? column : row, c = transposed ? row : column;
            const unsigned expected = ((r * 4 + c / 2) * 4 + matrix) * 2 + c % 2;
            expect(out[(matrix * 8 + row) * 8 + column] == expected, "an element lies elsewhere");
          }
        }
      }
    }
  });
}

}  // namespace

std::vector<Test> product_tests() {
  return {{"wgmma", test_all_products},
          {"wgmma, a in registers", test_products_of_registers},
          {"wgmma, every half", test_conversions},
          {"stmatrix", test_stmatrix}};
}

}  // namespace convext_tests
