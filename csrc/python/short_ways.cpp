// The short way from Python to the operators, and the one place that decides whether a call may
// take it. In Python the same questions take longer than a small convolution does, so they are
// asked from here, straight through CPython's interface; torch is reached through the Python
// objects that `connect` is given, never through its headers.
#include "short_ways.h"

#include <string>

#include "../conv_problem.h"
#include "../cuda_library.h"

namespace py = pybind11;

namespace {

using convext::Geometry;

// What `connect` was given. References are kept for good.
struct Connections {
  PyObject* tensor = nullptr;  // types without ideas of their own
  PyObject* parameter = nullptr;
  PyObject* watchers = nullptr;  // tuple of functions: any true answer bars the short way
  PyObject* compiler = nullptr;  // torch.compiler's and torch.autograd.forward_ad's names
  PyObject* forward_ad = nullptr;
  PyObject* grad_enabled = nullptr;
  PyObject* forward = nullptr;   // the operator _conv2d
  PyObject* apply = nullptr;     // and as a node of autograd's graph
  PyObject* backward = nullptr;  // the operator _conv2d_backward
  PyObject *requires_grad, *is_cpu, *is_cuda, *ndim, *is_compiling,
      *current_level;  // interned names
};
Connections the;

// Each answer: 1 yes, 0 no, -1 a Python exception.

int truth(PyObject* object) {  // steals the reference
  if (object == nullptr) return -1;
  const int answer = object == Py_True    ? 1
                     : object == Py_False ? 0
                     : object == Py_None  ? 0
                                          : PyObject_IsTrue(object);
  Py_DECREF(object);
  return answer;
}

int has(PyObject* object, PyObject* name) { return truth(PyObject_GetAttr(object, name)); }

// Whether nothing but plain autograd watches this thread's operators.
int is_eager() {
  PyObject* compiling = PyDict_GetItemWithError(the.compiler, the.is_compiling);
  if (compiling == nullptr) return PyErr_Occurred() ? -1 : 0;
  if (compiling != Py_False) return 0;
  PyObject* level = PyDict_GetItemWithError(the.forward_ad, the.current_level);
  if (level == nullptr) return PyErr_Occurred() ? -1 : 0;
  const long current_level = PyLong_AsLong(level);
  if (current_level == -1 && PyErr_Occurred()) return -1;
  if (current_level >= 0) return 0;
  const Py_ssize_t count = PyTuple_GET_SIZE(the.watchers);
  for (Py_ssize_t i = 0; i < count; ++i) {
    const int watches = truth(PyObject_CallNoArgs(PyTuple_GET_ITEM(the.watchers, i)));
    if (watches != 0) return watches < 0 ? -1 : 0;
  }
  return 1;
}

bool is_plain(PyObject* object) {
  PyObject* const type = reinterpret_cast<PyObject*>(Py_TYPE(object));
  return type == the.tensor || type == the.parameter;
}

// Whether the operators have kernels of their own where the tensor is.
int has_kernels(PyObject* tensor) {
  const int cpu = has(tensor, the.is_cpu);
  if (cpu != 0 || convext::cuda_library() == nullptr) return cpu;
  return has(tensor, the.is_cuda);
}

bool take_int(PyObject* object, std::int64_t* value) {
  if (!PyLong_CheckExact(object)) return false;
  int overflow = 0;
  *value = PyLong_AsLongLongAndOverflow(object, &overflow);
  return overflow == 0;
}

// One integer for both, or a tuple of two.
bool take_pair(PyObject* object, std::int64_t* first, std::int64_t* second) {
  if (PyTuple_CheckExact(object)) {
    return PyTuple_GET_SIZE(object) == 2 && take_int(PyTuple_GET_ITEM(object, 0), first) &&
           take_int(PyTuple_GET_ITEM(object, 1), second);
  }
  if (!take_int(object, first)) return false;
  *second = *first;
  return true;
}

bool take_padding(PyObject* object, Geometry* g) {
  if (PyTuple_CheckExact(object) && PyTuple_GET_SIZE(object) == 4) {
    return take_int(PyTuple_GET_ITEM(object, 0), &g->pad_left) &&
           take_int(PyTuple_GET_ITEM(object, 1), &g->pad_right) &&
           take_int(PyTuple_GET_ITEM(object, 2), &g->pad_top) &&
           take_int(PyTuple_GET_ITEM(object, 3), &g->pad_bottom);
  }
  if (!take_pair(object, &g->pad_top, &g->pad_left)) return false;
  g->pad_bottom = g->pad_top;
  g->pad_right = g->pad_left;
  return true;
}

bool take_padding_mode(PyObject* object, Geometry* g) {
  using convext::PaddingMode;
  if (!PyUnicode_CheckExact(object)) return false;
  for (auto mode : {PaddingMode::kZeros, PaddingMode::kReflect, PaddingMode::kReplicate,
                    PaddingMode::kCircular}) {
    if (PyUnicode_CompareWithASCIIString(object, convext::to_string(mode)) == 0) {
      g->padding_mode = mode;
      return true;
    }
  }
  return false;
}

// The packed geometry, or -1 for what is better normalised, or refused, in Python.
std::int64_t pack(PyObject* stride, PyObject* padding, PyObject* dilation, PyObject* groups,
                  PyObject* padding_mode) {
  Geometry g;
  const bool usual = take_pair(stride, &g.stride_h, &g.stride_w) && take_padding(padding, &g) &&
                     take_pair(dilation, &g.dilation_h, &g.dilation_w) &&
                     take_int(groups, &g.groups) && take_padding_mode(padding_mode, &g);
  return usual ? convext::pack_geometry(g) : -1;
}

PyObject* nothing() { Py_RETURN_NONE; }
PyObject* nothing_unless_error(int answer) { return answer < 0 ? nullptr : nothing(); }

// short_conv2d(input, weight, bias, stride, padding, dilation, groups, padding_mode)
PyObject* short_conv2d(PyObject*, PyObject* const* args, Py_ssize_t count) {
  if (count != 8 || the.tensor == nullptr) {
    PyErr_SetString(PyExc_TypeError, "short_conv2d takes 8 arguments");
    return nullptr;
  }
  PyObject *input = args[0], *weight = args[1], *bias = args[2];
  if (!is_plain(input) || !is_plain(weight)) return nothing();
  if (bias != Py_None && !is_plain(bias)) return nothing();
  const std::int64_t geometry = pack(args[3], args[4], args[5], args[6], args[7]);
  if (geometry < 0) return nothing();
  // Before any attribute is read: what watches this thread would see that too.
  if (const int eager = is_eager(); eager <= 0) return nothing_unless_error(eager);
  for (PyObject* tensor : {input, weight, bias}) {
    if (tensor == bias && bias == Py_None) continue;
    if (const int ours = has_kernels(tensor); ours <= 0) return nothing_unless_error(ours);
  }
  PyObject* dimensions = PyObject_GetAttr(input, the.ndim);
  if (dimensions == nullptr) return nullptr;
  const long rank = PyLong_AsLong(dimensions);
  Py_DECREF(dimensions);
  if (rank != 4) return nothing();

  int needs_grad = 0;
  for (PyObject* tensor : {weight, input, bias}) {
    if (tensor != Py_None) needs_grad = has(tensor, the.requires_grad);
    if (needs_grad != 0) break;
  }
  if (needs_grad > 0) needs_grad = truth(PyObject_CallNoArgs(the.grad_enabled));
  if (needs_grad < 0) return nullptr;
  PyObject* packed = PyLong_FromLongLong(geometry);
  if (packed == nullptr) return nullptr;
  PyObject* const call[] = {input, weight, bias, packed};
  PyObject* result = PyObject_Vectorcall(needs_grad ? the.apply : the.forward, call, 4, nullptr);
  Py_DECREF(packed);
  return result;
}

// short_conv2d_backward(grad_output, input, weight, geometry, needs_input_grad)
PyObject* short_conv2d_backward(PyObject*, PyObject* const* args, Py_ssize_t count) {
  if (count != 5 || !PyTuple_Check(args[4]) || PyTuple_GET_SIZE(args[4]) < 3) {
    PyErr_SetString(PyExc_TypeError, "short_conv2d_backward takes 5 arguments");
    return nullptr;
  }
  for (int i = 0; i < 3; ++i) {
    if (!is_plain(args[i])) return nothing();
  }
  const int records = truth(PyObject_CallNoArgs(the.grad_enabled));  // a derivative of this one
  if (records != 0) return records < 0 ? nullptr : nothing();
  if (const int eager = is_eager(); eager <= 0) return nothing_unless_error(eager);
  for (int i = 0; i < 3; ++i) {
    if (const int ours = has_kernels(args[i]); ours <= 0) return nothing_unless_error(ours);
  }
  long mask = 0;
  for (int i = 0; i < 3; ++i) {
    if (PyTuple_GET_ITEM(args[4], i) == Py_True) mask |= 1 << i;
  }
  PyObject* packed_mask = PyLong_FromLong(mask);
  if (packed_mask == nullptr) return nullptr;
  PyObject* const call[] = {args[0], args[1], args[2], args[3], packed_mask};
  PyObject* result = PyObject_Vectorcall(the.backward, call, 5, nullptr);
  Py_DECREF(packed_mask);
  return result;
}

PyCFunction as_c_function(PyObject* (*function)(PyObject*, PyObject* const*, Py_ssize_t)) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

PyMethodDef methods[] = {
    {"short_conv2d", as_c_function(&short_conv2d), METH_FASTCALL,
     "The convolution, or None: then this is a call for the long way."},
    {"short_conv2d_backward", as_c_function(&short_conv2d_backward), METH_FASTCALL,
     "The three gradients, or None: then this is a call for the long way."},
    {nullptr, nullptr, 0, nullptr},
};

void connect(const py::object& tensor, const py::object& parameter, const py::tuple& watchers,
             const py::object& compiler, const py::object& forward_ad,
             const py::object& grad_enabled, const py::object& forward, const py::object& apply,
             const py::object& backward) {
  const auto keep = [](const py::object& object) { return py::object(object).release().ptr(); };
  the.watchers = keep(watchers);
  the.compiler = keep(compiler.attr("__dict__"));
  the.forward_ad = keep(forward_ad.attr("__dict__"));
  the.grad_enabled = keep(grad_enabled);
  the.forward = keep(forward);
  the.apply = keep(apply);
  the.backward = keep(backward);
  the.requires_grad = PyUnicode_InternFromString("requires_grad");
  the.is_cpu = PyUnicode_InternFromString("is_cpu");
  the.is_cuda = PyUnicode_InternFromString("is_cuda");
  the.ndim = PyUnicode_InternFromString("ndim");
  the.is_compiling = PyUnicode_InternFromString("_is_compiling_flag");
  the.current_level = PyUnicode_InternFromString("_current_level");
  the.parameter = keep(parameter);
  the.tensor = keep(tensor);
}

}  // namespace

void add_short_ways(py::module_& m) {
  if (PyModule_AddFunctions(m.ptr(), methods) != 0) throw py::error_already_set();
  m.def("connect_short_ways", &connect, py::arg("tensor"), py::arg("parameter"),
        py::arg("watchers"), py::arg("compiler"), py::arg("forward_ad"), py::arg("grad_enabled"),
        py::arg("forward"), py::arg("apply"), py::arg("backward"));
  m.def("is_eager", [] {
    const int eager = is_eager();
    if (eager < 0) throw py::error_already_set();
    return eager != 0;
  });
  m.def("pack_geometry", [](const py::object& stride, const py::object& padding,
                            const py::object& dilation, const py::object& groups,
                            const py::object& padding_mode) {
    return pack(stride.ptr(), padding.ptr(), dilation.ptr(), groups.ptr(), padding_mode.ptr());
  });
}
