// Runs every rung of the CUDA ladder on random small problems, in several orders of its threads,
// and compares with the reference to the bit.
//
//     usage: convext_emulation [problems a rung] [seed] [part of a rung's name] [orders] [stop]
//
// With a fifth argument it ends at the first failure. Exit code 0 if all results were right and nothing was done that CUDA leaves undefined.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "cuda/ladder.h"
#include "cuda_host.h"
#include "problems.h"

namespace convext_tests {
namespace {

using convext::bytes_of;
using convext::cuda::Rung;

struct Storage {
  Storage(const Case& made, const std::vector<double>& values,
          const std::vector<std::int64_t>& size, bool channels_last, const char* name, bool at_end,
          bool fill, std::int64_t columns_apart = 0)
      : dtype(made.problem.dtype),
        size(size),
        shift(made.shift),
        buffer(bytes_within(made, channels_last, columns_apart), name, at_end) {
    if (!fill) {
      before.assign(buffer.data(), buffer.data() + buffer.size());
      return;
    }
    for_each([&](std::int64_t i, std::int64_t at) {
      store(dtype, data(), at, values[static_cast<std::size_t>(i)]);
    });
    buffer.read_only();
  }

  char* data() const { return buffer.data() + shift * bytes_of(dtype); }

  // That nothing was written between the elements, nor beside them. Throws emu::Error.
  void verify() const {
    buffer.verify();
    std::vector<char> after(buffer.data(), buffer.data() + buffer.size());
    const auto element = static_cast<std::size_t>(bytes_of(dtype));
    for_each([&](std::int64_t, std::int64_t at) {
      const std::size_t place = static_cast<std::size_t>(at + shift) * element;
      std::memcpy(&after[place], &before[place], element);
    });
    if (after != before) throw emu::Error("a write between the elements of the result");
  }

  // f(index in NCHW order, place in memory)
  template <class F>
  void for_each(F&& f) const {
    std::int64_t i = 0;
    for (std::int64_t n = 0; n < size[0]; ++n) {
      for (std::int64_t c = 0; c < size[1]; ++c) {
        for (std::int64_t h = 0; h < size[2]; ++h) {
          for (std::int64_t w = 0; w < size[3]; ++w) {
            f(i++, n * strides[0] + c * strides[1] + h * strides[2] + w * strides[3]);
          }
        }
      }
    }
  }

  DType dtype;
  std::vector<std::int64_t> size;
  std::int64_t shift, strides[4];
  emu::Buffer<char> buffer;
  std::vector<char> before;  // of a result

 private:
  // Sets the strides: those of a part of a tensor with `gap` more channels, or columns, and with
  // `columns_apart` more columns.
  std::size_t bytes_within(const Case& made, bool channels_last, std::int64_t columns_apart) {
    std::vector<std::int64_t> whole = size;
    whole[channels_last ? 1 : 3] += made.gap;
    whole[3] += columns_apart;
    strides_of(whole, channels_last, strides);
    std::int64_t last = shift;
    for (std::size_t i = 0; i < 4; ++i) last += (size[i] - 1) * strides[i];
    return static_cast<std::size_t>((last + 1) * bytes_of(dtype));
  }
};

// Throws emu::Error.
void run(const Rung& rung, const Case& made, bool at_end) {
  const ConvProblem& p = made.problem;
  const DType dtype = p.dtype;
  const auto storage = [&](const std::vector<double>& values, std::vector<std::int64_t> size,
                           const char* name, bool is_result, std::int64_t columns_apart) {
    return Storage(made, values, size, made.channels_last, name, at_end, !is_result, columns_apart);
  };
  // Of the rungs that want adjacent channels, some take an input that has none.
  const bool lies_alike = !(rung.channels_last && rung.any_input && at_end);
  Storage input(made, made.input, input_size(p), made.channels_last && lies_alike, "input", at_end,
                rung.pass != Pass::kDgrad, made.columns_apart);
  Storage weight = storage(made.weight, weight_size(p), "weight", rung.pass == Pass::kWgrad, 0);
  Storage output =
      storage(made.output, output_size(p), "output", rung.pass == Pass::kFprop, made.columns_apart);
  // A dense vector.
  Storage bias(made, made.bias, {1, static_cast<std::int64_t>(made.bias.size()), 1, 1}, true,
               "bias", at_end, rung.pass != Pass::kBgrad);
  auto params = convext::cuda::make_params(p, input.strides, weight.strides, output.strides);
  params.aligned = made.shift * bytes_of(dtype) % 16 == 0;
  std::string why;
  if (!rung.can(params, &why)) throw emu::Error("refused: " + why);
  emu::Buffer<char> workspace(static_cast<std::size_t>(rung.workspace_bytes(params)), "workspace",
                              at_end);
  convext::cuda::Operands operands;
  operands.input = input.data();
  operands.weight = weight.data();
  operands.output = output.data();
  operands.bias = made.with_bias ? bias.data() : nullptr;
  operands.workspace = workspace.data();
  Storage& result = rung.pass == Pass::kFprop   ? output
                    : rung.pass == Pass::kDgrad ? input
                    : rung.pass == Pass::kWgrad ? weight
                                                : bias;
  operands.result = result.data();
  rung.run(params, operands, nullptr);
  result.verify();
  workspace.verify();
  result.for_each([&](std::int64_t i, std::int64_t at) {
    double expected[1];
    store(dtype, expected, 0, made.expected[static_cast<std::size_t>(i)]);
    const double wanted = fetch(dtype, expected, 0), found = fetch(dtype, result.data(), at);
    if (!(found == wanted)) {
      throw emu::Error(
          emu::format("element %lld is %g, %g is right", static_cast<long long>(i), found, wanted));
    }
  });
}

// A tensor of 2, 4, 8 or 16 byte elements, copied to another order of its dimensions. Throws
// emu::Error.
void run_copy(std::mt19937* random, int number) {
  const auto pick = [&](int low, int high) {
    return std::uniform_int_distribution<int>(low, high)(*random);
  };
  const std::int64_t bytes = std::int64_t{2} << number % 4;
  // Some in whole vectors, some parts of a larger tensor: their rows do not follow each other, or
  // their pixels have other channels between them.
  const bool vectors = number % 3 != 1;
  const int step = vectors ? 4 : 1;
  const std::vector<std::int64_t> size{pick(1, 2), step * pick(1, vectors ? 20 : 70), pick(1, 9),
                                       step * pick(1, vectors ? 3 : 9)};
  const int gap = vectors ? 0 : 2;
  const std::vector<std::int64_t> whole{size[0], size[1] + (number % 3 == 2),
                                        size[2] + pick(0, gap), size[3] + pick(0, gap)};
  const bool channels_last = number % 8 < 4;
  std::int64_t from[4], to[4];
  strides_of(whole, channels_last, from);
  strides_of(size, !channels_last, to);
  const auto count = [](const std::vector<std::int64_t>& sizes) {
    return static_cast<std::size_t>(sizes[0] * sizes[1] * sizes[2] * sizes[3]);
  };
  emu::Buffer<char> source(count(whole) * static_cast<std::size_t>(bytes), "source", true);
  emu::Buffer<char> result(count(size) * static_cast<std::size_t>(bytes), "result", true);
  for (std::size_t i = 0; i < count(whole) * static_cast<std::size_t>(bytes); ++i) {
    source.data()[i] = static_cast<char>(pick(-128, 127));
  }
  source.read_only();
  const auto as_strides = [](const std::int64_t (&s)[4]) {
    return convext::cuda::Strides{s[0], s[1], s[2], s[3]};
  };
  convext::cuda::run_copy_layout(bytes, {size[0], size[1], size[2], size[3]}, source.data(),
                                 as_strides(from), result.data(), as_strides(to), nullptr);
  result.verify();
  for (std::int64_t n = 0; n < size[0]; ++n) {
    for (std::int64_t c = 0; c < size[1]; ++c) {
      for (std::int64_t h = 0; h < size[2]; ++h) {
        for (std::int64_t w = 0; w < size[3]; ++w) {
          const auto at = [&](const std::int64_t (&s)[4]) {
            return (n * s[0] + c * s[1] + h * s[2] + w * s[3]) * bytes;
          };
          if (std::memcmp(source.data() + at(from), result.data() + at(to),
                          static_cast<std::size_t>(bytes)) != 0) {
            throw emu::Error("an element is not what it was");
          }
        }
      }
    }
  }
}

// A complex weight to its real counterpart, and a gradient of that to one of the complex weight.
// Throws emu::Error.
void run_complex(std::mt19937* random, int number) {
  const auto pick = [&](int low, int high) {
    return std::uniform_int_distribution<int>(low, high)(*random);
  };
  const DType dtypes[] = {DType::kFloat32, DType::kFloat64, DType::kFloat16};
  const DType dtype = dtypes[number % 3];
  const int K = pick(1, 9), C = pick(1, 20), R = pick(1, 3), S = pick(1, 3);
  ConvProblem real;
  real.N = real.H = real.W = real.P = real.Q = real.groups = 1;
  real.stride_h = real.stride_w = real.dilation_h = real.dilation_w = 1;
  real.K = 2 * K, real.C = 2 * C, real.R = R, real.S = S;
  std::int64_t strides[4];
  strides_of({K, C, R, S}, number % 2 == 0, strides);
  const auto params = convext::cuda::make_params(real, strides, strides, strides);
  const std::int64_t elements = std::int64_t{2} * K * C * R * S;
  const auto bytes = [&](std::int64_t count) {
    return static_cast<std::size_t>(count * bytes_of(dtype));
  };
  const auto fill = [&](emu::Buffer<char>* buffer, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) store(dtype, buffer->data(), i, pick(-9, 9));
    buffer->read_only();
  };
  emu::Buffer<char> weight(bytes(elements), "weight", true),
      gradient(bytes(elements), "gradient", true);
  emu::Buffer<char> expanded(bytes(2 * elements), "expanded", true);
  emu::Buffer<char> real_gradient(bytes(2 * elements), "the real gradient", true);
  fill(&weight, elements);
  fill(&real_gradient, 2 * elements);
  convext::cuda::run_expand_complex_weight(dtype, params, weight.data(), expanded.data(), nullptr);
  convext::cuda::run_fold_complex_gradient(dtype, params, real_gradient.data(), gradient.data(),
                                           nullptr);
  expanded.verify();
  gradient.verify();
  for (int k = 0; k < K; ++k) {
    for (int c = 0; c < C; ++c) {
      for (int tap = 0; tap < R * S; ++tap) {
        const std::int64_t at =
            k * strides[0] + c * strides[1] + tap / S * strides[2] + tap % S * strides[3];
        // Element [2k + row][tap][2c + column] of a real weight.
        const auto entry = [&](const emu::Buffer<char>& from, int row, int column) {
          const std::int64_t place = ((2 * k + row) * R * S + tap) * 2 * C + 2 * c + column;
          return fetch(dtype, from.data(), place);
        };
        const double re = fetch(dtype, weight.data(), 2 * at),
                     im = fetch(dtype, weight.data(), 2 * at + 1);
        if (entry(expanded, 0, 0) != re || entry(expanded, 0, 1) != -im ||
            entry(expanded, 1, 0) != im || entry(expanded, 1, 1) != re) {
          throw emu::Error("an element of the expanded weight is wrong");
        }
        const auto& g = real_gradient;
        if (fetch(dtype, gradient.data(), 2 * at) != entry(g, 0, 0) + entry(g, 1, 1) ||
            fetch(dtype, gradient.data(), 2 * at + 1) != entry(g, 1, 0) - entry(g, 0, 1)) {
          throw emu::Error("an element of the folded gradient is wrong");
        }
      }
    }
  }
}

struct Order {
  const char* name;
  emu::Order order;
  std::uint64_t seed;
};
constexpr Order kOrders[] = {{"forward", emu::Order::forward, 1},
                             {"reverse", emu::Order::reverse, 1},
                             {"random 1", emu::Order::random, 1},
                             {"random 2", emu::Order::random, 2}};

// Kernels beside the ladder. How many of them failed.
template <class Run>
long test_helper(const char* name, Run&& run_one, int problems, unsigned seed, int orders) {
  std::mt19937 random(seed);
  long failures = 0;
  for (int number = 0; number < problems; ++number) {
    for (int i = 0; i < orders; ++i) {
      emu::config.order = kOrders[i].order;
      emu::config.seed = kOrders[i].seed + static_cast<std::uint64_t>(number);
      try {
        run_one(&random, number);
      } catch (const emu::Error& error) {
        if (failures++ == 0) std::printf("%s: %s\n", name, error.what());
      }
    }
  }
  return failures > 0 ? 1 : 0;
}

// Each rung up to the first problem that it gets wrong; if `stop`, no further rung then.
int test_ladder(int problems, unsigned seed, const std::string& filter, int orders, bool stop) {
  long pairs = 0, failures = 0;
  const std::pair<std::string, void (*)(std::mt19937*, int)> helpers[] = {
      {"copy_layout", &run_copy}, {"complex_weights", &run_complex}};
  for (const auto& [name, run_one] : helpers) {
    if (name.find(filter) == std::string::npos) continue;
    failures += test_helper(name.c_str(), run_one, problems, seed, orders);
    pairs += problems;
    if (stop && failures > 0) return 1;
  }
  for (const Rung& rung : convext::cuda::ladder()) {
    if (rung.name.find(filter) == std::string::npos) continue;
    std::mt19937 random(seed);
    std::string failure;
    const std::string algorithm = rung.algorithm;
    Wanted wanted;
    wanted.tile = {rung.tile_m, rung.tile_n, rung.tile_k};
    wanted.groups = algorithm.find("wgmma") == 0                   ? Groups::kOfEights
                    : algorithm == "depthwise"                     ? Groups::kOfOneChannel
                    : algorithm == "grouped"                       ? Groups::kOfFewChannels
                    : algorithm.find("first") != std::string::npos ? Groups::kOneOfFewChannels
                                                                   : Groups::kAny;
    wanted.channels_last = rung.channels_last;
    wanted.accepts = [&](const ConvProblem& problem) {
      return rung.can(convext::cuda::channels_last_params(problem), nullptr);
    };
    const auto start = std::chrono::steady_clock::now();
    for (int number = 0; number < problems && failure.empty(); ++number) {
      const Case made = make_case(&random, rung.pass, rung.dtype, wanted, number);
      for (int i = 0; i < orders && failure.empty(); ++i) {
        emu::config.order = kOrders[i].order;
        emu::config.seed = kOrders[i].seed + static_cast<std::uint64_t>(number);
        // Of compute capability 7.5, of 8.6 and 8.9, which run sm_80's code, and of 9.0.
        emu::config.shared_limit = rung.least_capability < 80   ? 64 << 10
                                   : rung.least_capability < 90 ? 99 << 10
                                                                : 227 << 10;
        try {
          run(rung, made, number % 2 == 0);
        } catch (const emu::Error& error) {
          failure = std::string(kOrders[i].name) + " order, " + convext::to_string(made.problem) +
                    ": " + error.what();
        }
      }
      ++pairs;
    }
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    std::printf("%-36s %4d problems %6.2f s  ", rung.name.c_str(), problems, seconds);
    std::printf(failure.empty() ? "right\n" : "WRONG\n    %s\n", failure.c_str());
    failures += failure.empty() ? 0 : 1;
    if (stop && failures > 0) break;
  }
  std::printf("%ld (kernel, problem) pairs%s, %d orders, %ld kernels failed\n", pairs,
              emu::instrumented ? ", every access checked" : "", orders, failures);
  return failures == 0 && pairs > 0 ? 0 : 1;
}

}  // namespace
}  // namespace convext_tests

int main(int argc, char** argv) {
  const int problems = argc > 1 ? std::atoi(argv[1]) : 40;
  const unsigned seed = argc > 2 ? static_cast<unsigned>(std::atoi(argv[2])) : 1;
  const std::string filter = argc > 3 ? argv[3] : "";
  const int orders = argc > 4 ? std::atoi(argv[4]) : 4;
  if (problems < 1 || orders < 1 || orders > 4) {
    std::fprintf(stderr,
                 "usage: %s [problems a rung] [seed] [part of a rung's name] [orders] [stop]\n",
                 argv[0]);
    return 2;
  }
  return convext_tests::test_ladder(problems, seed, filter, orders, argc > 5);
}
