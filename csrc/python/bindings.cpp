// convext._C: plans, the kernel table, CPU features and build information. No torch in here.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>

#include "../conv_plan.h"
#include "../cpu/measure_peaks.h"
#include "../cpu/scratch.h"
#include "../cuda_library.h"
#include "../plan/cpu_features.h"
#include "../plan/kernel_table.h"
#include "../plan/options.h"
#include "../run.h"
#include "short_ways.h"

namespace py = pybind11;

namespace {

using convext::ConvPlan;
using convext::ConvProblem;

convext::DType parse_dtype(const std::string& name) {
  for (int i = 0; i < convext::kDTypeCount; ++i) {
    const auto dtype = static_cast<convext::DType>(i);
    if (name == convext::to_string(dtype)) return dtype;
  }
  throw py::value_error(
      "dtype must be one of float32, float64, bfloat16, float16, int8, uint8, int16, int32, int64, "
      "but got '" +
      name + "'");
}

convext::Pass parse_pass(const std::string& name) {
  for (auto pass : {convext::Pass::kFprop, convext::Pass::kDgrad, convext::Pass::kWgrad,
                    convext::Pass::kBgrad}) {
    if (name == convext::to_string(pass)) return pass;
  }
  throw py::value_error("pass_ must be one of fprop, dgrad, wgrad, bgrad, but got '" + name + "'");
}

ConvProblem make_problem(const std::vector<std::int64_t>& input_size,
                         const std::vector<std::int64_t>& weight_size,
                         const std::vector<std::int64_t>& stride,
                         const std::vector<std::int64_t>& padding,
                         const std::vector<std::int64_t>& dilation, std::int64_t groups,
                         const std::string& padding_mode, const std::string& dtype,
                         const std::string& input_layout, const std::string& weight_layout) {
  return convext::make_conv_problem(
      {input_size, weight_size, stride, padding, dilation, groups, padding_mode, parse_dtype(dtype),
       convext::parse_layout(input_layout), convext::parse_layout(weight_layout)});
}

ConvPlan make_plan(const ConvProblem& problem, const std::string& pass, const std::string& force) {
  convext::PlanOptions options = convext::current_options();
  if (!force.empty()) options.force = force;
  return convext::explain_plan(problem, parse_pass(pass), options);
}

py::dict build_info() {
  py::dict info;
  info["version"] = CONVEXT_VERSION;
  info["compiler"] = CONVEXT_CXX_COMPILER;
  info["cxx_flags"] = CONVEXT_CXX_FLAGS;
  info["torch_target_version"] = CONVEXT_TORCH_TARGET_VERSION;
  info["cuda"] = CONVEXT_HAVE_CUDA != 0;
  info["cuda_report"] = CONVEXT_CUDA_REPORT;
  std::vector<std::string> isas;
  for (auto isa : {convext::Isa::kAvx512Bf16, convext::Isa::kAvx512, convext::Isa::kAvx2,
                   convext::Isa::kGeneric}) {
    if (convext::isa_compiled(isa)) isas.push_back(convext::to_string(isa));
  }
  info["isas"] = isas;
  return info;
}

py::list kernels() {
  py::list rows;
  for (const convext::KernelInfo& kernel : convext::kernel_table()) {
    py::dict row;
    row["name"] = kernel.name;
    row["pass"] = convext::to_string(kernel.pass);
    row["algorithm"] = convext::to_string(kernel.algorithm);
    row["dtype"] = convext::to_string(kernel.dtype);
    row["layout"] = kernel.layout;
    row["tile"] = std::to_string(kernel.mr) + "x" + std::to_string(kernel.nr);
    row["arch"] = convext::to_string(kernel.isa);
    row["mr"] = kernel.mr;
    row["nr"] = kernel.nr;
    row["error_growth"] = kernel.error_growth;
    row["exact_on_integers"] = kernel.exact_on_integers;
    const bool runnable = convext::isa_runnable(kernel.isa);
    row["runnable"] = runnable;
    row["reason"] = runnable ? "" : std::string("this CPU cannot run ") + to_string(kernel.isa);
    rows.append(row);
  }
  return rows;
}

// ---- CUDA: what the library of its kernels tells, once it is loaded -----------------------------

const convext::CudaLibrary& loaded_cuda() {
  const convext::CudaLibrary* library = convext::cuda_library();
  if (library == nullptr) throw std::runtime_error("convext's CUDA kernels are not loaded");
  return *library;
}

py::dict as_dict(const convext::CudaKernel& kernel) {
  py::dict row;
  row["name"] = kernel.name;
  row["pass"] = convext::to_string(kernel.pass);
  row["algorithm"] = kernel.algorithm;
  row["dtype"] = convext::to_string(kernel.dtype);
  row["layout"] = kernel.channels_last ? "nhwc" : "any";
  row["tile"] = std::to_string(kernel.tile_m) + "x" + std::to_string(kernel.tile_n) + "x" +
                std::to_string(kernel.tile_k);
  row["mr"] = kernel.tile_m;
  row["nr"] = kernel.tile_n;
  row["least_capability"] = kernel.least_capability;
  row["most_capability"] = kernel.most_capability;
  row["only_forced"] = kernel.only_forced;
  row["rounds_to_tf32"] = kernel.rounds_to_tf32;
  return row;
}

py::list cuda_kernels() {
  py::list rows;
  for (const convext::CudaKernel& kernel : loaded_cuda().kernels()) rows.append(as_dict(kernel));
  return rows;
}

py::dict cuda_plan(const ConvProblem& problem, const std::string& pass, int compute_capability,
                   int multiprocessors, bool tf32, const std::string& force) {
  const convext::PlanOptions options = convext::current_options();
  const convext::CudaChoice choice = loaded_cuda().plan(
      problem, parse_pass(pass), {compute_capability, multiprocessors, tf32},
      force.empty() ? convext::cuda_force_for(options.force, parse_pass(pass)) : force,
      options.workspace_limit);
  py::dict plan = as_dict(choice.kernel);
  plan["workspace_bytes"] = choice.workspace_bytes;
  plan["reason"] = choice.reason;
  plan["refused"] = choice.refused;
  return plan;
}

// `query` is kept for good, and asked on whichever thread runs a convolution.
void connect_tf32(const py::function& query) {
  static PyObject* kept = nullptr;
  Py_XDECREF(kept);
  kept = py::function(query).release().ptr();
  convext::set_tf32_query([]() -> bool {
    const py::gil_scoped_acquire gil;
    return py::reinterpret_borrow<py::function>(kept)().cast<bool>();
  });
}

py::dict measure_peaks(int threads, std::int64_t buffer_bytes) {
  if (threads < 1 || threads > 4096) throw py::value_error("threads must be from 1 to 4096");
  if (buffer_bytes < 2 * threads) throw py::value_error("buffer_bytes is too small");
  const convext::Isa isa = convext::current_options().isa;
  convext::Peaks peaks;
  {
    py::gil_scoped_release release;
    peaks = convext::measure_peaks(isa, threads, buffer_bytes);
  }
  py::dict found;
  found["float32_gflops"] = peaks.float32 / 1e9;
  found["float64_gflops"] = peaks.float64 / 1e9;
  found["copy_gbytes"] = peaks.copy / 1e9;
  return found;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Plans, the kernel table, CPU features and build information of convext.";

  py::class_<ConvProblem> problem(m, "ConvProblem");
  problem.def(py::init(&make_problem), py::arg("input_size"), py::arg("weight_size"),
              py::arg("stride") = std::vector<std::int64_t>{1, 1},
              py::arg("padding") = std::vector<std::int64_t>{0, 0},
              py::arg("dilation") = std::vector<std::int64_t>{1, 1}, py::arg("groups") = 1,
              py::arg("padding_mode") = "zeros", py::arg("dtype") = "float32",
              py::arg("input_layout") = "contiguous", py::arg("weight_layout") = "contiguous");
#define CONVEXT_FIELD(name) problem.def_readonly(#name, &ConvProblem::name)
  CONVEXT_FIELD(N);
  CONVEXT_FIELD(C);
  CONVEXT_FIELD(H);
  CONVEXT_FIELD(W);
  CONVEXT_FIELD(K);
  CONVEXT_FIELD(R);
  CONVEXT_FIELD(S);
  CONVEXT_FIELD(P);
  CONVEXT_FIELD(Q);
  CONVEXT_FIELD(pad_top);
  CONVEXT_FIELD(pad_bottom);
  CONVEXT_FIELD(pad_left);
  CONVEXT_FIELD(pad_right);
  CONVEXT_FIELD(stride_h);
  CONVEXT_FIELD(stride_w);
  CONVEXT_FIELD(dilation_h);
  CONVEXT_FIELD(dilation_w);
  CONVEXT_FIELD(groups);
#undef CONVEXT_FIELD
  problem.def_property_readonly(
      "padding_mode", [](const ConvProblem& p) { return convext::to_string(p.padding_mode); });
  problem.def_property_readonly("dtype",
                                [](const ConvProblem& p) { return convext::to_string(p.dtype); });
  problem.def_property_readonly(
      "input_layout", [](const ConvProblem& p) { return convext::to_string(p.input_layout); });
  problem.def_property_readonly(
      "weight_layout", [](const ConvProblem& p) { return convext::to_string(p.weight_layout); });
  problem.def("__repr__", [](const ConvProblem& p) { return convext::to_string(p); });

  py::class_<ConvPlan>(m, "Plan")
      .def_property_readonly("pass_", [](const ConvPlan& p) { return convext::to_string(p.pass); })
      .def_property_readonly("kernel", [](const ConvPlan& p) { return p.kernel->name; })
      .def_property_readonly("algorithm",
                             [](const ConvPlan& p) { return to_string(p.kernel->algorithm); })
      .def_property_readonly("isa", [](const ConvPlan& p) { return to_string(p.kernel->isa); })
      .def_property_readonly("mr", [](const ConvPlan& p) { return p.kernel->mr; })
      .def_property_readonly("nr", [](const ConvPlan& p) { return p.kernel->nr; })
      .def_readonly("problem", &ConvPlan::problem)
      .def_readonly("pixel_block", &ConvPlan::pixel_block)
      .def_readonly("channel_block", &ConvPlan::channel_block)
      .def_readonly("splits", &ConvPlan::splits)
      .def_readonly("one_thread", &ConvPlan::one_thread)
      .def_readonly("workspace_bytes", &ConvPlan::workspace_bytes)
      .def_readonly("thread_workspace_bytes", &ConvPlan::thread_workspace_bytes)
      .def_property_readonly("cycles",
                             [](const ConvPlan& p) {
                               py::dict cycles;
                               cycles["multiply"] = p.cost.multiply;
                               cycles["move"] = p.cost.move;
                               cycles["memory"] = p.cost.memory;
                               return cycles;
                             })
      .def_property_readonly("blocking", &convext::blocking_of)
      .def_readonly("reason", &ConvPlan::reason)
      .def_readonly("refused", &ConvPlan::refused)
      .def("__str__", [](const ConvPlan& p) { return convext::to_string(p); })
      .def("__repr__", [](const ConvPlan& p) { return "<Plan " + p.kernel->name + ">"; });

  m.def("plan", &make_plan, py::arg("problem"), py::arg("pass_") = "fprop", py::arg("force") = "");
  m.def("build_info", &build_info);
  m.def("cpu_features", [] {
    py::dict features;
    for (const auto& [name, present] : convext::cpu_features()) features[name.c_str()] = present;
    return features;
  });
  m.def("isas", [] {
    std::vector<std::string> names;
    for (auto isa : convext::runnable_isas()) names.push_back(convext::to_string(isa));
    return names;
  });
  m.def("active_isa", [] { return convext::to_string(convext::current_options().isa); });
  m.def("kernels", &kernels);
  m.def("set_batch_invariant", &convext::set_batch_invariant, py::arg("on"));
  m.def("batch_invariant", [] { return convext::current_options().batch_invariant; });
  m.def("set_forced_plan", &convext::set_forced_plan, py::arg("spec"));
  m.def("forced_plan", [] { return convext::current_options().force; });
  // None: no limit.
  using Limit = std::optional<std::int64_t>;
  const auto as_limit = [](std::int64_t bytes) {
    return bytes == convext::kNoLimit ? Limit() : Limit(bytes);
  };
  m.def(
      "set_workspace_limit",
      [as_limit](Limit bytes) {
        return as_limit(convext::set_workspace_limit(bytes.value_or(convext::kNoLimit)));
      },
      py::arg("bytes"));
  m.def("workspace_limit",
        [as_limit] { return as_limit(convext::current_options().workspace_limit); });
  m.def("held_workspace", &convext::held_scratch);
  m.def("free_workspace", &convext::free_scratch);
  add_short_ways(m);
  m.def("cuda_loaded", [] { return convext::cuda_library() != nullptr; });
  m.def("cuda_kernels", &cuda_kernels);
  m.def("cuda_plan", &cuda_plan, py::arg("problem"), py::arg("pass_"),
        py::arg("compute_capability"), py::arg("multiprocessors"), py::arg("tf32") = false,
        py::arg("force") = "");
  m.def("connect_tf32", &connect_tf32, py::arg("query"));
  m.def("kernel_runs", [] {
    py::dict runs;
    for (const convext::KernelInfo& kernel : convext::kernel_table()) {
      runs[kernel.name.c_str()] = convext::kernel_runs(kernel.index);
    }
    for (const auto& [kernel, count] : convext::cuda_runs()) runs[kernel.c_str()] = count;
    return runs;
  });
  m.def("reset_kernel_runs", [] {
    convext::reset_kernel_runs();
    convext::reset_cuda_runs();
    convext::forget_runs();
  });
  // None where no kernel of this pass has run.
  m.def(
      "last_run",
      [](const std::string& pass) -> std::optional<std::pair<std::string, ConvProblem>> {
        const convext::KernelRun run = convext::last_run(parse_pass(pass));
        if (run.kernel.empty()) return std::nullopt;
        return std::make_pair(run.kernel, run.problem);
      },
      py::arg("pass_"));
  m.def("nominal_clock", &convext::nominal_clock);
  m.def("measure_peaks", &measure_peaks, py::arg("threads"),
        py::arg("buffer_bytes") = std::int64_t{1} << 27);
}
