#include "complex.h"

#include "half.h"

namespace convext {
namespace {

// The real (0) or imaginary (1) parts of a complex tensor.
TensorView part_of(const TensorView& complex_view, int part) {
  TensorView view = complex_view;
  view.data = static_cast<char*>(view.data) + part * bytes_of(view.dtype);
  for (std::int64_t& stride : view.stride) stride *= 2;
  return view;
}

// out = first + sign * second, element by element; the terms hold float32 or float64 sums.
template <class Real>
void combine(const TensorView& out, const TensorView& first, const TensorView& second, Real sign,
             const Threads& threads) {
  const auto at = [](const TensorView& v, std::int64_t a, std::int64_t b, std::int64_t c,
                     std::int64_t d) {
    return a * v.stride[0] + b * v.stride[1] + c * v.stride[2] + d * v.stride[3];
  };
  threads.run(out.size[0] * out.size[1], [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t plane = begin; plane < end; ++plane) {
      const std::int64_t a = plane / out.size[1], b = plane % out.size[1];
      for (std::int64_t c = 0; c < out.size[2]; ++c) {
        for (std::int64_t d = 0; d < out.size[3]; ++d) {
          const Real sum = static_cast<const Real*>(first.data)[at(first, a, b, c, d)] +
                           sign * static_cast<const Real*>(second.data)[at(second, a, b, c, d)];
          const std::int64_t i = at(out, a, b, c, d);
          if (out.dtype == DType::kFloat16) {
            static_cast<Float16*>(out.data)[i] = narrow_float16(static_cast<float>(sum));
          } else {
            static_cast<Real*>(out.data)[i] = sum;
          }
        }
      }
    }
  });
}

// The tensor that a pass writes.
TensorView& written(Pass pass, ConvTensors* tensors) {
  switch (pass) {
    case Pass::kFprop: return tensors->output;
    case Pass::kDgrad: return tensors->input;
    case Pass::kWgrad: return tensors->weight;
    default: return tensors->bias;
  }
}

// The tensors of a real convolution over one part of each operand, which writes to `sum`.
ConvTensors real_tensors(Pass pass, const ConvTensors& tensors, int first_part, int second_part,
                         const TensorView& sum) {
  ConvTensors real = tensors;
  if (pass == Pass::kFprop || pass == Pass::kWgrad) {
    real.input = part_of(tensors.input, pass == Pass::kFprop ? first_part : second_part);
  }
  if (pass == Pass::kDgrad || pass == Pass::kWgrad) {
    real.output = part_of(tensors.output, first_part);
  }
  if (pass == Pass::kFprop || pass == Pass::kDgrad) {
    real.weight = part_of(tensors.weight, second_part);
  }
  written(pass, &real) = sum;
  return real;
}

}  // namespace

DType complex_sum_dtype(DType part) {
  return part == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
}

void run_complex(const ConvProblem& complex_problem, Pass pass, const ConvTensors& tensors,
                 const TensorView& first, const TensorView& second, const Threads& threads) {
  ConvProblem problem = complex_problem;
  // Parts lie two real numbers apart, whatever the tensors' layouts.
  problem.input_layout = problem.weight_layout = Layout::kStrided;
  if (pass == Pass::kBgrad) {  // linear: part by part
    for (int part = 0; part < 2; ++part) {
      ConvTensors real = tensors;
      real.output = part_of(tensors.output, part);
      real.bias = part_of(tensors.bias, part);
      run_plan(current_plan(problem, pass), real, threads);
    }
    return;
  }
  ConvTensors result = tensors;
  const TensorView complex_result = written(pass, &result);
  const int conjugate = pass == Pass::kFprop ? 1 : -1;
  for (int part = 0; part < 2; ++part) {
    // With the second operand conjugated, or not: part 0 is a*c -/+ b*d, part 1 is b*c +/- a*d.
    ConvTensors real = real_tensors(pass, tensors, part, 0, first);
    if (pass == Pass::kFprop && tensors.bias.data) real.bias = part_of(tensors.bias, part);
    run_plan(current_plan(problem, pass), real, threads);
    real = real_tensors(pass, tensors, 1 - part, 1, second);
    real.bias = TensorView{};
    run_plan(current_plan(problem, pass), real, threads);
    const int sign = part == 0 ? -conjugate : conjugate;
    const TensorView out = part_of(complex_result, part);
    if (first.dtype == DType::kFloat64) {
      combine<double>(out, first, second, sign, threads);
    } else {
      combine<float>(out, first, second, static_cast<float>(sign), threads);
    }
  }
}

}  // namespace convext
