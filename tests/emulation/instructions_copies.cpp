// Barriers, copies of boxes, multicast, named barriers and registers.
#include "instructions.h"

namespace convext_tests {
namespace {

// ---- loads --------------------------------------------------------------------------------------

struct Place {
  int c[4], offset[2];
};

// Where in a box of shared memory that begins at a multiple of 1024 bytes its byte `at` lies.
int swizzled(int at, int swizzle) { return at ^ at / 128 % (swizzle / 16) * 16; }

// The box, unswizzled.
void fetch_box(const TensorMap map, Place at, int bytes, char* out) {
  SHARED_DYNAMIC(smem);
  SHARED_ARRAY(std::uint64_t, barrier, [1]);
  if (threadIdx.x == 0) {
    prefetch_map(&map);
    mbarrier_init(barrier, 1);
    fence_mbarrier_init();
    mbarrier_arrive_expect(barrier, bytes);
    const int (&c)[4] = at.c;
    if (map.spec.im2col) {
      tma_load_im2col(smem, &map, barrier, c[0], c[1], c[2], c[3], at.offset[0], at.offset[1]);
    } else if (map.spec.rank == 3) {
      tma_load_3d(smem, &map, barrier, c[0], c[1], c[2]);
    } else {
      tma_load_2d(smem, &map, barrier, c[0], c[1]);
    }
  }
  __syncthreads();
  mbarrier_wait(barrier, 0);
  for (int i = static_cast<int>(threadIdx.x) * 16; i < bytes; i += 32 * 16) {
    std::memcpy(out + i, smem + swizzled(i, map.spec.swizzle), 16);
  }
}

// A tensor of bytes of which each four are others, some of them between its elements.
struct Tensor {
  MapSpec spec;
  emu::Buffer<std::uint32_t> data;

  Tensor(DType dtype, int rank, const std::int64_t* size, int swizzle)
      : spec(lay_out(dtype, rank, size, swizzle)),
        data(static_cast<std::size_t>(bytes_of_all()) / 4, "tensor") {
    for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::uint32_t>(i) + 1;
    spec.base = data.data();
  }
  static MapSpec lay_out(DType dtype, int rank, const std::int64_t* size, int swizzle) {
    MapSpec spec;
    spec.dtype = dtype, spec.rank = rank, spec.swizzle = swizzle;
    std::int64_t stride = convext::bytes_of(dtype);
    for (int i = 0; i < rank; ++i) {
      spec.size[i] = size[i], spec.stride[i] = stride;
      stride = (stride * size[i] + 15) / 16 * 16 + pick(0, 1) * 16;
    }
    return spec;
  }
  std::int64_t bytes_of_all() const {
    std::int64_t bytes = convext::bytes_of(spec.dtype);
    for (int i = 0; i < spec.rank; ++i) bytes += (spec.size[i] - 1) * spec.stride[i];
    return (bytes + 3) / 4 * 4;
  }
  // Of the element there; of one outside, zeros.
  void element(const std::int64_t* c, char* to) const {
    const auto bytes = static_cast<std::size_t>(convext::bytes_of(spec.dtype));
    std::int64_t at = 0;
    std::memset(to, 0, bytes);
    for (int i = 0; i < spec.rank; ++i) {
      if (c[i] < 0 || c[i] >= spec.size[i]) return;
      at += c[i] * spec.stride[i];
    }
    std::memcpy(to, reinterpret_cast<const char*>(data.data()) + at, bytes);
  }
};

void check_fetch(const MapSpec& spec, const Place& at, const std::vector<char>& expected) {
  emu::Buffer<char> out(expected.size(), "out");
  in_orders([&] {
    emu::launch(&fetch_box, dim3(1), dim3(32), expected.size(), encode_map(spec), at,
                static_cast<int>(expected.size()), out.data());
    if (std::memcmp(out.data(), expected.data(), expected.size()) != 0) {
      throw emu::Error(
          emu::format("the box at (%d, %d, %d, %d) is wrong", at.c[0], at.c[1], at.c[2], at.c[3]));
    }
  });
}

const int kSwizzles[] = {32, 64, 128};

void test_boxes() {
  for (int number = 0; number < 200; ++number) {
    const DType dtype = number % 2 == 0 ? DType::kBFloat16 : DType::kFloat32;
    const int element = static_cast<int>(convext::bytes_of(dtype));
    const int swizzle = kSwizzles[pick(0, 2)], rank = pick(2, 3);
    const std::int64_t size[] = {pick(1, 80), pick(1, 9), pick(1, 5)};
    Tensor tensor(dtype, rank, size, swizzle);
    MapSpec& spec = tensor.spec;
    spec.box[0] = swizzle / element;
    for (int i = 1; i < rank; ++i) spec.box[i] = pick(1, i == 1 ? 12 : 4);
    const Place at{{pick(-70, 80), pick(-6, 9), pick(-2, 5), 0}, {0, 0}};
    std::vector<char> expected(
        static_cast<std::size_t>(spec.box[0] * spec.box[1] * spec.box[2] * element));
    char* to = expected.data();
    for (int k = 0; k < spec.box[2]; ++k) {
      for (int j = 0; j < spec.box[1]; ++j) {
        for (int i = 0; i < spec.box[0]; ++i, to += element) {
          const std::int64_t c[] = {at.c[0] + i, at.c[1] + j, at.c[2] + k};
          tensor.element(c, to);
        }
      }
    }
    check_fetch(spec, at, expected);
  }
}

// All base pixels of the box of all images in order, from which the copy takes some in a row.
void test_im2col() {
  for (int number = 0; number < 400; ++number) {
    const DType dtype = number % 2 == 0 ? DType::kFloat16 : DType::kFloat32;
    const int element = static_cast<int>(convext::bytes_of(dtype));
    const int swizzle = kSwizzles[pick(0, 2)];
    const std::int64_t size[] = {pick(1, 80), pick(1, 12), pick(1, 12), pick(1, 3)};
    Tensor tensor(dtype, 4, size, swizzle);
    MapSpec& spec = tensor.spec;
    spec.im2col = true;
    for (int i = 0; i < 2; ++i) {
      spec.lower[i] = pick(-4, 3);
      spec.upper[i] = pick(std::max(-6, 1 + spec.lower[i] - static_cast<int>(size[i + 1])), 5);
      spec.upper[i] = std::max(spec.upper[i], 1 + spec.lower[i] - static_cast<int>(size[i + 1]));
      spec.step[i] = pick(1, 8);
    }
    spec.channels = swizzle / element;
    spec.pixels = pick(1, number % 5 == 0 ? 300 : 40);
    std::vector<Place> base;  // w, h, n
    for (int n = 0; n < size[3]; ++n) {
      for (int h = spec.lower[1]; h <= size[2] - 1 + spec.upper[1]; h += spec.step[1]) {
        for (int w = spec.lower[0]; w <= size[1] - 1 + spec.upper[0]; w += spec.step[0]) {
          base.push_back({{0, w, h, n}, {0, 0}});
        }
      }
    }
    const int first = pick(0, static_cast<int>(base.size()) - 1);
    Place at = base[static_cast<std::size_t>(first)];
    at.c[0] = pick(-20, 80), at.offset[0] = pick(0, 9), at.offset[1] = pick(0, 9);
    std::vector<char> expected(static_cast<std::size_t>(spec.pixels * spec.channels * element));
    for (int i = 0; i < spec.pixels; ++i) {
      const auto place = static_cast<std::size_t>(first + i);
      if (place >= base.size()) break;  // beyond the last image: zeros
      for (int j = 0; j < spec.channels; ++j) {
        const std::int64_t c[] = {at.c[0] + j, base[place].c[1] + at.offset[0],
                                  base[place].c[2] + at.offset[1], base[place].c[3]};
        tensor.element(c, &expected[static_cast<std::size_t>((i * spec.channels + j) * element)]);
      }
    }
    check_fetch(spec, at, expected);
  }
}

// ---- stores -------------------------------------------------------------------------------------

void put_box(const TensorMap map, int c0, int c1, int bytes) {
  SHARED_DYNAMIC(smem);
  for (int i = static_cast<int>(threadIdx.x) * 16; i < bytes; i += 32 * 16) {
    unsigned char line[16];
    for (int j = 0; j < 16; ++j) line[j] = static_cast<unsigned char>((i + j) % 251);
    std::memcpy(smem + swizzled(i, map.spec.swizzle), line, 16);
  }
  fence_proxy_async();
  __syncthreads();
  if (threadIdx.x == 0) {
    tma_store_2d(&map, smem, c0, c1);
    tma_store_commit();
    tma_store_wait_read<0>();
  }
}

void test_stores() {
  for (int number = 0; number < 200; ++number) {
    const DType dtype = number % 2 == 0 ? DType::kBFloat16 : DType::kFloat32;
    const int element = static_cast<int>(convext::bytes_of(dtype));
    const int swizzle = kSwizzles[pick(0, 2)];
    const std::int64_t size[] = {pick(1, 80), pick(1, 20)};
    Tensor tensor(dtype, 2, size, swizzle);
    MapSpec& spec = tensor.spec;
    spec.box[0] = swizzle / element, spec.box[1] = pick(1, 20);
    const int c0 = pick(-40, 80), c1 = pick(-10, 20), bytes = spec.box[0] * spec.box[1] * element;
    const auto* begin = reinterpret_cast<const char*>(tensor.data.data());
    std::vector<char> expected(begin, begin + tensor.bytes_of_all());
    const std::vector<char> before = expected;
    for (int i = 0; i < bytes; ++i) {
      const int column = c0 + i / element % spec.box[0], row = c1 + i / element / spec.box[0];
      if (column < 0 || column >= size[0] || row < 0 || row >= size[1]) continue;
      expected[static_cast<std::size_t>(row * spec.stride[1] + column * element + i % element)] =
          static_cast<char>(i % 251);
    }
    in_orders([&] {
      std::memcpy(tensor.data.data(), before.data(), before.size());
      emu::launch(&put_box, dim3(1), dim3(32), bytes, encode_map(spec), c0, c1, bytes);
      tensor.data.verify();
      expect(std::memcmp(tensor.data.data(), expected.data(), expected.size()) == 0,
             "the tensor that a box was stored to is wrong");
    });
  }
}

// ---- pipelines ----------------------------------------------------------------------------------

constexpr int kStages = 3, kRows = 8, kBoxBytes = kRows * 128;

// Warp 0 of each CTA of two copies its half of each step's boxes to both of them; the others add
// them up, element by element: out [CTA][element of the two boxes].
void add_up(const TensorMap map, int steps, float* out) {
  SHARED_DYNAMIC(smem);
  SHARED_ARRAY(std::uint64_t, full, [kStages]);
  SHARED_ARRAY(std::uint64_t, empty, [kStages]);
  const int cta = cluster_cta(), thread = static_cast<int>(threadIdx.x);
  if (cta != static_cast<int>(blockIdx.x) % 2) emu::fail("blockIdx does not go with the CTA");
  if (thread == 0) {
    for (int i = 0; i < kStages; ++i) {
      mbarrier_init(&full[i], 1);
      mbarrier_init(&empty[i], 2 * 4);  // warps of both CTAs
    }
    fence_mbarrier_init();
  }
  cluster_sync();
  if (thread / 32 == 0) {
    for (int step = 0; thread == 0 && step < steps; ++step) {
      const int stage = step % kStages;
      mbarrier_wait(&empty[stage], step / kStages % 2 ^ 1);
      mbarrier_arrive_expect(&full[stage], 2 * kBoxBytes);
      tma_load_3d_multicast(smem + (stage * 2 + cta) * kBoxBytes, &map, &full[stage], 0,
                            cta * kRows, step, 3);
    }
  } else {
    float sums[4] = {};
    for (int step = 0; step < steps; ++step) {
      const int stage = step % kStages;
      mbarrier_wait(&full[stage], step / kStages % 2);
      for (int i = 0; i < 4; ++i) {
        const int at = ((thread - 32) * 4 + i) * 4;
        float value;
        std::memcpy(&value, smem + stage * 2 * kBoxBytes + swizzled(at, 128), 4);
        sums[i] += value;
      }
      __syncwarp();
      if (thread % 32 < 2) mbarrier_arrive_at(&empty[stage], thread % 32);
    }
    for (int i = 0; i < 4; ++i) out[cta * 512 + (thread - 32) * 4 + i] = sums[i];
  }
  cluster_sync();
}

void test_multicast() {
  for (int steps : {1, 3, 11}) {
    emu::Buffer<float> in(static_cast<std::size_t>(steps) * 16 * 32, "in"), out(4 * 512, "out");
    for (std::size_t i = 0; i < in.size(); ++i) in[i] = static_cast<float>(pick(-9, 9));
    const TensorMap map =
        encode_map(dense_map(in.data(), DType::kFloat32, {32, 16, steps}, {32, kRows, 1}, 128));
    in_orders([&] {
      emu::launch_cluster(&add_up, 2, dim3(2), dim3(160), kStages * 2 * kBoxBytes, map, steps,
                          out.data());
      for (std::size_t i = 0; i < 2 * 512; ++i) {
        float expected = 0;
        for (int step = 0; step < steps; ++step) {
          expected += in[static_cast<std::size_t>(step) * 512 + i % 512];
        }
        expect(out[i] == expected, "a sum of what was multicast is wrong");
      }
    });
  }
}

// Two groups of two warps pass numbers on among themselves, each at its own pace.
void pass_on(int* out) {
  SHARED_ARRAY(int, box, [2][64]);
  const int group = static_cast<int>(threadIdx.x) / 64, i = static_cast<int>(threadIdx.x) % 64;
  int value = i;
  for (int round = 0; round < 3 + 4 * group; ++round) {
    box[group][i] = value;
    named_barrier(1 + group, 64);
    value = box[group][(i + 33) % 64] + 1;
    named_barrier(1 + group, 64);
  }
  out[threadIdx.x] = value;
}
void test_named_barriers() {
  in_orders([] {
    emu::Buffer<int> out(128, "out");
    emu::launch(&pass_on, dim3(2), dim3(128), 0, out.data());
    for (int i = 0; i < 128; ++i) {
      const int rounds = 3 + 4 * (i / 64);
      expect(out[static_cast<std::size_t>(i)] == (i % 64 + 33 * rounds) % 64 + rounds,
             "a number passed on is wrong");
    }
  });
}

// As wide kernels do it, one warpgroup of three giving up what the others take.
void pass_registers(int* out) {
  if (threadIdx.x < 128) {
    give_registers<40>();
  } else {
    take_registers<232>();
  }
  out[threadIdx.x] = 1;
}
void test_registers() {
  in_orders([] {
    emu::Buffer<int> out(384, "out");
    emu::launch(&pass_registers, dim3(1), dim3(384), 0, out.data());
    for (std::size_t i = 0; i < 384; ++i) expect(out[i] == 1, "a thread did not come through");
  });
}

}  // namespace

std::vector<Test> copy_tests() {
  return {{"loads of boxes", test_boxes},          {"loads by pixels", test_im2col},
          {"stores of boxes", test_stores},        {"pipelines with multicast", test_multicast},
          {"named barriers", test_named_barriers}, {"setmaxnreg", test_registers}};
}

}  // namespace convext_tests
