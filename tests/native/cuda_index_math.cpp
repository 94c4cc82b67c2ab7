// The index arithmetic of the CUDA kernels against its definitions.
#include "cuda/index_math.cuh"

#include <algorithm>
#include <array>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "check.h"
#include "cuda/ladder.h"

namespace convext_tests {
namespace {

using namespace convext::cuda;
using convext::ConvArguments;
using convext::ConvProblem;
using convext::PaddingMode;

void test_divisors() {
  std::mt19937_64 random(1);
  for (int d : {1, 2, 3, 5, 7, 64, 641, 65535, 65536, 46341, 1 << 30, 0x7fffffff}) {
    const Divisor divisor(d);
    const std::uint64_t most =
        std::min(~std::uint64_t{0} / static_cast<std::uint64_t>(d), std::uint64_t{1} << 62);
    std::vector<std::int64_t> numbers{0, 1, d - 1, d, std::int64_t{d} + 1};
    for (int i = 0; i < 200; ++i) {
      const auto any = static_cast<std::int64_t>(random() % most);
      const std::int64_t multiple = any / d * d;
      numbers.insert(numbers.end(), {any, multiple, multiple > 0 ? multiple - 1 : 0});
    }
    for (std::int64_t number : numbers) {
      std::int64_t rest = number;
      const int remainder = divisor.divide(&rest);
      CHECK(rest == number / d && remainder == number % d, number << " / " << d);
    }
  }
}

struct Axis {
  PaddingMode mode;
  int extent, before, after;
};

std::vector<Axis> axes() {
  std::vector<Axis> all;
  for (PaddingMode mode : {PaddingMode::kZeros, PaddingMode::kReflect, PaddingMode::kReplicate,
                           PaddingMode::kCircular}) {
    for (int extent = 1; extent <= 6; ++extent) {
      for (int before = 0; before <= 7; ++before) {
        for (int after = 0; after <= 7; ++after) {
          const int most = std::max(before, after);
          if (mode == PaddingMode::kReflect && most >= extent) continue;
          if (mode == PaddingMode::kCircular && most > extent) continue;
          all.push_back({mode, extent, before, after});
        }
      }
    }
  }
  return all;
}

// What torch's padding puts at virtual index v, by walking there.
int walked_source(const Axis& axis, int v) {
  const bool inside = v >= 0 && v < axis.extent;
  switch (axis.mode) {
    case PaddingMode::kZeros: return inside ? v : -1;
    case PaddingMode::kReplicate: return std::clamp(v, 0, axis.extent - 1);
    case PaddingMode::kCircular: return (v % axis.extent + axis.extent) % axis.extent;
    case PaddingMode::kReflect: break;
  }
  int at = 0, step = 1;
  for (int i = 0; i < std::abs(v); ++i) {  // to and fro between the ends
    if (at + step >= axis.extent || at + step < 0) step = -step;
    at += axis.extent > 1 ? step : 0;
  }
  return at;
}

void test_padding() {
  for (const Axis& axis : axes()) {
    std::vector<std::set<int>> copies(static_cast<std::size_t>(axis.extent));
    for (int v = -axis.before; v < axis.extent + axis.after; ++v) {
      const int source = source_index(axis.mode, v, axis.extent);
      CHECK(source == walked_source(axis, v), "at " << v << " of " << axis.extent);
      if (source >= 0) copies[static_cast<std::size_t>(source)].insert(v);
    }
    for (int h = 0; h < axis.extent; ++h) {
      const int count = virtual_count(axis.mode, h, axis.extent, axis.before, axis.after);
      std::set<int> found;
      for (int i = 0; i < count; ++i) {
        found.insert(nth_virtual(axis.mode, h, axis.extent, axis.before, i));
      }
      CHECK(static_cast<int>(found.size()) == count && found == copies[static_cast<std::size_t>(h)],
            "the copies of " << h << " of " << axis.extent);
    }
  }
}

// Taps and outputs that read input element h.
using Readers = std::set<std::pair<int, int>>;

void test_classes() {
  for (int stride = 1; stride <= 5; ++stride) {
    for (int dilation = 1; dilation <= 6; ++dilation) {
      for (int taps = 1; taps <= 5; ++taps) {
        for (int pad = 0; pad <= 4; ++pad) {
          for (int extent = 1; extent <= 12; ++extent) {
            const int reach = extent + 2 * pad - dilation * (taps - 1) - 1;
            if (reach < 0) continue;
            const int outputs = reach / stride + 1;
            std::vector<Readers> expected(static_cast<std::size_t>(extent)), found = expected;
            for (int o = 0; o < outputs; ++o) {
              for (int t = 0; t < taps; ++t) {
                const int v = virtual_index(o, t, stride, pad, dilation);
                CHECK(output_index(v, t, stride, pad, dilation, outputs) == o, "output " << o);
                if (v < 0 || v >= extent) continue;
                expected[static_cast<std::size_t>(v)].emplace(t, o);
              }
            }
            int common = stride, other = dilation;
            while (other != 0) common = std::exchange(other, common % other);
            const int tap_step = stride / common, output_step = dilation / common;
            int elements = 0;
            for (int residue = 0; residue < stride; ++residue) {
              const AxisClass axis =
                  axis_class(residue, extent, taps, stride, pad, dilation, tap_step);
              elements += axis.count;
              for (int i = 0; i < axis.count; ++i) {
                for (int j = 0; j < axis.taps; ++j) {
                  const int o = i + axis.first_output - j * output_step;
                  if (o < 0 || o >= outputs) continue;
                  found[static_cast<std::size_t>(axis.residue + i * stride)].emplace(
                      axis.first_tap + j * tap_step, o);
                }
              }
            }
            CHECK(elements == extent && found == expected,
                  "stride " << stride << ", dilation " << dilation << ", taps " << taps);
          }
        }
      }
    }
  }
}

ConvParams params_of(std::int64_t h, std::int64_t w, std::int64_t stride_h, std::int64_t stride_w) {
  ConvArguments a;
  a.input_size = {2, 3, h, w};
  a.weight_size = {5, 3, 1, 1};
  a.stride = {stride_h, stride_w};
  a.padding = {0, 0};
  a.dilation = {1, 1};
  a.groups = 1;
  return channels_last_params(convext::make_conv_problem(a));
}

void test_pixels() {
  const int P = 3, Q = 5;
  const Divisor by_P(P), by_Q(Q);
  for (int from = 0; from < 40; ++from) {
    for (int by : {0, 1, 4, 5, 8, 16, 37}) {
      Pixel at = pixel_at(from, by_P, by_Q);
      CHECK((at.n * P + at.p) * Q + at.q == from && at.p < P && at.q < Q, "pixel " << from);
      advance(&at, by, P, Q);
      const Pixel to = pixel_at(from + by, by_P, by_Q);
      CHECK(at.n == to.n && at.p == to.p && at.q == to.q, from << " and " << by);
    }
  }
  // Every input pixel belongs to one class, and comes once in it.
  for (const auto& [h, w, stride_h, stride_w] :
       {std::array{7, 5, 2, 3}, std::array{4, 9, 4, 1}, std::array{1, 3, 3, 2}}) {
    const ConvParams v = params_of(h, w, stride_h, stride_w);
    std::set<std::array<int, 3>> seen;
    for (int i = 0; i < stride_h; ++i) {
      for (int j = 0; j < stride_w; ++j) {
        const ClassPixels pixels{axis_class(i, h, 1, stride_h, 0, 1, v.tap_step_h),
                                 axis_class(j, w, 1, stride_w, 0, 1, v.tap_step_w)};
        for (std::int64_t index = 0; index < v.N * pixels.in_image(); ++index) {
          const Pixel at = pixels.at(v, index);
          const bool is_new = seen.insert({at.n, i + at.p * stride_h, j + at.q * stride_w}).second;
          CHECK(is_new && i + at.p * stride_h < h && j + at.q * stride_w < w, "pixel " << index);
        }
      }
    }
    CHECK(static_cast<int>(seen.size()) == 2 * h * w, seen.size() << " pixels");
  }
}

void test_depth() {
  for (int channels : {1, 7, 8, 9, 16, 17}) {
    TapWalk walk{3, channels, 8};
    for (int r = 0; r < 2; ++r) {
      for (int s = 0; s < 3; ++s) {
        for (int c = 0; c < channels; c += 8, walk.next()) {
          CHECK(walk.r == r && walk.s == s && walk.c == c, channels << " channels");
        }
      }
    }
  }
  for (int channels = 1; channels <= 4; ++channels) {
    for (int j = 0; j < 1 << 14; ++j) {
      CHECK(few_quotient(j, channels) == j / channels, j << " / " << channels);
    }
  }
  for (int extent = 1; extent < 40; ++extent) {
    for (int size : {1, 3, 8}) {
      CHECK(block_count(extent, size) == (extent + size - 1) / size, extent << " by " << size);
    }
  }
  unsigned rest = 2 + 3 * (4 + 5 * 6);
  const int first = take(&rest, 3), second = take(&rest, 5);
  CHECK(first == 2 && second == 4 && rest == 6, "places in a grid");
}

// Whether the addresses that threads access at once meet all different banks.
bool are_apart(const std::vector<int>& offsets, int bytes) {
  std::set<int> banks;
  for (int offset : offsets) {
    for (int word = 0; word < bytes / 4; ++word) banks.insert((offset / 4 + word) % 32);
  }
  return static_cast<int>(banks.size()) == static_cast<int>(offsets.size()) * bytes / 4;
}

void test_swizzles() {
  std::set<int> places;
  for (int row = 0; row < 32; ++row) {
    for (int chunk = 0; chunk < 4; ++chunk) places.insert(depth_row_offset(row, chunk));
  }
  CHECK(places.size() == 128 && *places.rbegin() == 127 * 16, "each chunk has its place");
  for (int row = 0; row < 32; row += 8) {
    for (int chunk = 0; chunk < 4; ++chunk) {
      std::vector<int> rows;
      for (int i = 0; i < 8; ++i) rows.push_back(depth_row_offset(row + i, chunk));
      CHECK(are_apart(rows, 16), "ldmatrix of chunk " << chunk << " from row " << row);
    }
  }
  for (int element : {2, 4, 8}) {
    const int depths = 64 / element, bytes = 64 * element, chunks = bytes / 16;
    places.clear();
    for (int depth = 0; depth < depths; ++depth) {
      for (int chunk = 0; chunk < chunks; ++chunk) {
        places.insert(lane_row_offset(depth, chunk, bytes, element));
      }
    }
    CHECK(static_cast<int>(places.size()) == depths * chunks &&
              *places.rbegin() == (depths * chunks - 1) * 16,
          "each chunk has its place, of elements of " << element);
    for (int chunk = 0; element == 2 && chunk < chunks; ++chunk) {
      std::vector<int> rows;
      for (int i = 0; i < 8; ++i) rows.push_back(lane_row_offset(i, chunk, bytes, element));
      CHECK(are_apart(rows, 16), "ldmatrix of chunk " << chunk);
    }
    for (int chunk = 0; element == 4 && chunk < chunks; chunk += 2) {
      std::vector<int> elements;
      for (int depth = 0; depth < 4; ++depth) {
        for (int lane = 0; lane < 8; ++lane) {
          elements.push_back(lane_row_offset(depth, chunk + lane / 4, bytes, element) +
                             lane % 4 * 4);
        }
      }
      CHECK(are_apart(elements, 4), "a warp's loads from chunk " << chunk);
    }
  }
}

void test_shares() {
  for (std::int64_t whole : {1, 2, 9, 255, 256, 10000}) {
    for (std::int64_t parts : {1, 2, 3, 7, 300, 20000}) {
      const Shares shares = cut(whole, parts);
      CHECK(shares.count >= 1 && shares.count <= parts && shares.size * shares.count >= whole &&
                shares.size * (shares.count - 1) < whole,
            whole << " in " << parts);
    }
  }
  const Shares few = split_pixels(params_of(8, 8, 1, 1), 1);
  CHECK(few.count == 1, "128 pixels in " << few.count);
  const ConvParams large = params_of(512, 512, 1, 1);
  for (std::int64_t tiles : {1, 30, 512, 100000}) {
    const Shares shares = split_pixels(large, tiles);
    CHECK(shares.size <= 8192 && shares.count * shares.size >= 2 * 512 * 512, tiles << " tiles");
  }
}

}  // namespace

void test_cuda_index_math() {
  test_divisors();
  test_padding();
  test_classes();
  test_pixels();
  test_depth();
  test_swizzles();
  test_shares();
}

}  // namespace convext_tests
