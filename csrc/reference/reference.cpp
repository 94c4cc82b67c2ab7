#include "reference.h"

#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "../half.h"

namespace convext {
namespace {

// How one storage type is summed and read.
template <class T>
struct Arithmetic {
  using Sum = std::uint64_t;
  static Sum read(T value) { return static_cast<Sum>(static_cast<std::int64_t>(value)); }
  static T write(Sum sum) { return static_cast<T>(sum); }
};
template <>
struct Arithmetic<float> {
  using Sum = double;
  static Sum read(float value) { return value; }
  static float write(Sum sum) { return static_cast<float>(sum); }
};
template <>
struct Arithmetic<double> {
  using Sum = double;
  static Sum read(double value) { return value; }
  static double write(Sum sum) { return sum; }
};
template <>
struct Arithmetic<BFloat16> {
  using Sum = double;
  static Sum read(BFloat16 value) { return widen(value); }
  static BFloat16 write(Sum sum) { return narrow_bfloat16(static_cast<float>(sum)); }
};
template <>
struct Arithmetic<Float16> {
  using Sum = double;
  static Sum read(Float16 value) { return widen(value); }
  static Float16 write(Sum sum) { return narrow_float16(static_cast<float>(sum)); }
};

template <class T>
struct Accessor {
  const TensorView& view;
  T& operator()(std::int64_t a, std::int64_t b, std::int64_t c, std::int64_t d) const {
    return static_cast<T*>(view.data)[a * view.stride[0] + b * view.stride[1] + c * view.stride[2] +
                                      d * view.stride[3]];
  }
  auto read(std::int64_t a, std::int64_t b, std::int64_t c, std::int64_t d) const {
    return Arithmetic<T>::read((*this)(a, b, c, d));
  }
};

// The padded index rule, written out here a second time on purpose: the fast kernels use
// resolve_padding (axis_map.h), and the reference must not share a mistake with them.
bool source_index(std::int64_t v, std::int64_t extent, PaddingMode mode, std::int64_t* source) {
  *source = v;
  if (v >= 0 && v < extent) return true;
  if (mode == PaddingMode::kZeros) return false;
  if (mode == PaddingMode::kReplicate) *source = v < 0 ? 0 : extent - 1;
  if (mode == PaddingMode::kCircular) *source = ((v % extent) + extent) % extent;
  if (mode == PaddingMode::kReflect) *source = v < 0 ? -v : 2 * extent - 2 - v;
  return true;
}

template <class F>
void dispatch(DType dtype, F&& f) {  // f(T{}) for the storage type T
  switch (dtype) {
    case DType::kFloat32: return f(float{});
    case DType::kFloat64: return f(double{});
    case DType::kBFloat16: return f(BFloat16{});
    case DType::kFloat16: return f(Float16{});
    case DType::kInt8: return f(std::int8_t{});
    case DType::kUInt8: return f(std::uint8_t{});
    case DType::kInt16: return f(std::int16_t{});
    case DType::kInt32: return f(std::int32_t{});
    case DType::kInt64: return f(std::int64_t{});
  }
}

// f(T{}, O{}): T is what is read, O what is written; they differ only where a caller wants the
// float32 sums of half-precision data (complex numbers of half-precision parts).
template <class F>
void dispatch(DType read, DType written, F&& f) {
  dispatch(read, [&](auto tag) {
    using T = decltype(tag);
    if (written == read) return f(T{}, T{});
    if constexpr (std::is_same_v<T, Float16> || std::is_same_v<T, BFloat16>) {
      if (written == DType::kFloat32) return f(T{}, float{});
    }
    throw std::runtime_error(std::string("the reference cannot read ") + to_string(read) +
                             " and write " + to_string(written));
  });
}

// Calls visit(r, s, h, w) for every input element that output pixel (p, q) reads.
template <class F>
void for_each_term(const ConvProblem& pr, std::int64_t p, std::int64_t q, F&& visit) {
  for (std::int64_t r = 0; r < pr.R; ++r) {
    std::int64_t h;
    if (!source_index(p * pr.stride_h - pr.pad_top + r * pr.dilation_h, pr.H, pr.padding_mode,
                      &h)) {
      continue;
    }
    for (std::int64_t s = 0; s < pr.S; ++s) {
      std::int64_t w;
      if (!source_index(q * pr.stride_w - pr.pad_left + s * pr.dilation_w, pr.W, pr.padding_mode,
                        &w)) {
        continue;
      }
      visit(r, s, h, w);
    }
  }
}

}  // namespace

void reference_fprop(const ConvProblem& pr, const ConvTensors& t, const Threads& threads) {
  dispatch(t.input.dtype, t.output.dtype, [&](auto read_tag, auto written_tag) {
    using T = decltype(read_tag);
    using O = decltype(written_tag);
    using Sum = typename Arithmetic<T>::Sum;
    const Accessor<T> input{t.input}, weight{t.weight}, bias{t.bias};
    const Accessor<O> output{t.output};
    const std::int64_t cg = pr.channels_per_group(), kg = pr.outputs_per_group();
    threads.run(pr.N * pr.K, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t n = item / pr.K, k = item % pr.K, c0 = k / kg * cg;
        for (std::int64_t p = 0; p < pr.P; ++p) {
          for (std::int64_t q = 0; q < pr.Q; ++q) {
            Sum sum = t.bias.data ? bias.read(0, k, 0, 0) : Sum{0};
            for_each_term(pr, p, q, [&](auto r, auto s, auto h, auto w) {
              for (std::int64_t c = 0; c < cg; ++c) {
                sum += weight.read(k, c, r, s) * input.read(n, c0 + c, h, w);
              }
            });
            output(n, k, p, q) = Arithmetic<O>::write(sum);
          }
        }
      }
    });
  });
}

void reference_dgrad(const ConvProblem& pr, const ConvTensors& t, const Threads& threads) {
  dispatch(t.output.dtype, t.input.dtype, [&](auto read_tag, auto written_tag) {
    using T = decltype(read_tag);
    using O = decltype(written_tag);
    using Sum = typename Arithmetic<T>::Sum;
    const Accessor<T> grad_output{t.output}, weight{t.weight};
    const Accessor<O> grad_input{t.input};
    const std::int64_t cg = pr.channels_per_group(), kg = pr.outputs_per_group();
    threads.run(pr.N * pr.C, [&](std::int64_t begin, std::int64_t end) {
      std::vector<Sum> plane(pr.H * pr.W);
      for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t n = item / pr.C, c = item % pr.C, k0 = c / cg * kg;
        plane.assign(plane.size(), Sum{0});
        for (std::int64_t k = k0; k < k0 + kg; ++k) {
          for (std::int64_t p = 0; p < pr.P; ++p) {
            for (std::int64_t q = 0; q < pr.Q; ++q) {
              const Sum grad = grad_output.read(n, k, p, q);
              for_each_term(pr, p, q, [&](auto r, auto s, auto h, auto w) {
                plane[h * pr.W + w] += grad * weight.read(k, c % cg, r, s);
              });
            }
          }
        }
        for (std::int64_t h = 0; h < pr.H; ++h) {
          for (std::int64_t w = 0; w < pr.W; ++w) {
            grad_input(n, c, h, w) = Arithmetic<O>::write(plane[h * pr.W + w]);
          }
        }
      }
    });
  });
}

void reference_wgrad(const ConvProblem& pr, const ConvTensors& t, const Threads& threads) {
  dispatch(t.output.dtype, t.weight.dtype, [&](auto read_tag, auto written_tag) {
    using T = decltype(read_tag);
    using O = decltype(written_tag);
    using Sum = typename Arithmetic<T>::Sum;
    const Accessor<T> input{t.input}, grad_output{t.output};
    const Accessor<O> grad_weight{t.weight};
    const std::int64_t cg = pr.channels_per_group(), kg = pr.outputs_per_group();
    threads.run(pr.K * cg, [&](std::int64_t begin, std::int64_t end) {
      std::vector<Sum> taps(pr.taps());
      for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t k = item / cg, c = item % cg, source = k / kg * cg + c;
        taps.assign(taps.size(), Sum{0});
        for (std::int64_t n = 0; n < pr.N; ++n) {
          for (std::int64_t p = 0; p < pr.P; ++p) {
            for (std::int64_t q = 0; q < pr.Q; ++q) {
              const Sum grad = grad_output.read(n, k, p, q);
              for_each_term(pr, p, q, [&](auto r, auto s, auto h, auto w) {
                taps[r * pr.S + s] += grad * input.read(n, source, h, w);
              });
            }
          }
        }
        for (std::int64_t r = 0; r < pr.R; ++r) {
          for (std::int64_t s = 0; s < pr.S; ++s) {
            grad_weight(k, c, r, s) = Arithmetic<O>::write(taps[r * pr.S + s]);
          }
        }
      }
    });
  });
}

void reference_bgrad(const ConvProblem& pr, const ConvTensors& t, const Threads& threads) {
  dispatch(t.output.dtype, t.bias.dtype, [&](auto read_tag, auto written_tag) {
    using T = decltype(read_tag);
    using O = decltype(written_tag);
    using Sum = typename Arithmetic<T>::Sum;
    const Accessor<T> grad_output{t.output};
    const Accessor<O> grad_bias{t.bias};
    threads.run(pr.K, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t k = begin; k < end; ++k) {
        Sum sum{0};
        for (std::int64_t n = 0; n < pr.N; ++n) {
          for (std::int64_t p = 0; p < pr.P; ++p) {
            for (std::int64_t q = 0; q < pr.Q; ++q) sum += grad_output.read(n, k, p, q);
          }
        }
        grad_bias(0, k, 0, 0) = Arithmetic<O>::write(sum);
      }
    });
  });
}

}  // namespace convext
