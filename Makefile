# `make demo` and `make test` are all a fresh machine needs: Python 3.10+, make and a C++ compiler.
#
#   PYTHON       the interpreter of the virtual environment      (python3)
#   VENV         where the virtual environment is                (.venv)
#   TORCH        the torch to install, as pip takes it           (torch==2.13.0)
#   TORCH_INDEX  a package index to take torch from              (pip's own)
#   NVCC         pypi: install NVIDIA's compiler, for CUDA kernels where no CUDA toolkit is
#   PYTEST_ARGS  further arguments of pytest
#   BENCH_ARGS   further arguments of `convext bench` and its commands
#   DEMO_ARGS    further arguments of `convext demo`

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
NVCC ?=
PYTEST_ARGS ?=
BENCH_ARGS ?=
DEMO_ARGS ?=

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help install demo test docs lint format test-gpu bench-gpu gpu-package bench bench-models accuracy wheel clean

export PIP_DISABLE_PIP_VERSION_CHECK := 1
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --quiet --quiet
STAMPS := $(VENV)/stamps
BUILD_TOOLS := "scikit-build-core>=0.11" "pybind11>=2.13" "cmake>=3.24" "ninja>=1.11"
SOURCES := pyproject.toml CMakeLists.txt $(shell find csrc -type f 2>/dev/null)
CXX_FILES = $(shell git ls-files '*.cpp' '*.h' '*.cuh' '*.cu')

help:
	@echo "make demo    install, then train a small CNN with nn.Conv2d and with ConvExt2d side by side"
	@echo "make test    install, then run the tests"
	@echo "make test-gpu  build and run the tests of the CUDA kernels, on a machine with a GPU"
	@echo "make bench-gpu  time them against cuDNN"
	@echo "make docs    install, then build the documentation into build/docs"
	@echo "make lint    check style, types and compiler warnings"
	@echo "make format  rewrite the sources in the project's style"
	@echo "make bench   install, then time convext against torch, layer by layer (under 25 minutes)"
	@echo "make bench-models  the same for whole models"
	@echo "make accuracy      measure errors against float64 and renew docs/accuracy.md"
	@echo "make wheel   build a wheel into dist/ and import it in a clean environment"
	@echo "make clean   remove builds and caches (the virtual environment stays)"

demo: $(STAMPS)/convext
	@"$(VENV)/bin/convext" demo $(DEMO_ARGS)

# Two threads for each of pytest's processes: more of both would only stand in each other's way.
test: $(STAMPS)/test
	@OMP_NUM_THREADS=2 $(PY) -m pytest -n auto --maxprocesses 8 $(PYTEST_ARGS)

# On a machine with a GPU, and without a network: by the Python that has torch, pybind11 and pytest.
GPU_PACKAGE := build/gpu/package
GPU_ARCH ?= native
gpu-package:
	@cmake -S . -B build/gpu -G Ninja --log-level=WARNING -DCONVEXT_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=$(GPU_ARCH) \
	  -DPython_EXECUTABLE="$$(command -v $(PYTHON))"
	@cmake --build build/gpu -- --quiet
	@rm -rf $(GPU_PACKAGE) && cmake --install build/gpu --prefix $(GPU_PACKAGE) >/dev/null
	@cp -r python/convext/. $(GPU_PACKAGE)/convext/

test-gpu: gpu-package
	@PYTHONPATH="$(abspath $(GPU_PACKAGE))" CONVEXT_TEST_DEVICE=cuda \
	  $(PYTHON) -m pytest tests/gpu tests/test_opinfo.py $(PYTEST_ARGS)

bench-gpu: gpu-package
	@PYTHONPATH="$(abspath $(GPU_PACKAGE))" $(PYTHON) -m convext bench gpu $(BENCH_ARGS)

# A warning is an error: a formula, a link or a marker in a source that is not there any more.
docs: $(STAMPS)/docs
	@$(PY) -m sphinx -W --keep-going -q -b html docs build/docs
	@echo "build/docs/index.html"

bench: $(STAMPS)/convext
	@"$(VENV)/bin/convext" bench $(BENCH_ARGS)

bench-models: $(STAMPS)/models
	@"$(VENV)/bin/convext" bench models $(BENCH_ARGS)

accuracy: $(STAMPS)/convext
	@"$(VENV)/bin/convext" bench accuracy --markdown docs/accuracy.md $(BENCH_ARGS)

install: $(STAMPS)/convext

lint: $(STAMPS)/dev
	"$(VENV)/bin/ruff" check .
	"$(VENV)/bin/ruff" format --check .
	"$(VENV)/bin/mypy"
	"$(VENV)/bin/clang-format" --dry-run -Werror $(CXX_FILES)
	@echo "building with warnings as errors"
	@"$(VENV)/bin/cmake" -S . -B build/lint -G Ninja --log-level=WARNING -DCONVEXT_WERROR=ON -DCONVEXT_CUDA=OFF \
	  -DCMAKE_MAKE_PROGRAM="$(abspath $(VENV))/bin/ninja" -DPython_EXECUTABLE="$(abspath $(PY))"
	@"$(VENV)/bin/cmake" --build build/lint -- --quiet
	@if nm -C --defined-only $$(ls build/lint/CMakeFiles/convext_core.dir/csrc/cpu/isa_{avx512,avx2,generic}.cpp.o 2>/dev/null) | grep ' W '; then \
	  echo "These functions of an ISA unit could replace those of other units: give them internal linkage." >&2; \
	  exit 1; fi

format: $(STAMPS)/dev
	"$(VENV)/bin/ruff" check --fix .
	"$(VENV)/bin/ruff" format .
	"$(VENV)/bin/clang-format" -i $(CXX_FILES)

wheel: $(STAMPS)/build-tools
	@rm -rf dist build/clean-venv
	@$(PIP) wheel --no-build-isolation --no-deps --wheel-dir dist .
	@if $(PY) -m zipfile -l dist/*.whl | grep -E ' ?(csrc|tests)/'; then \
	  echo "The wheel holds files that belong to the source tree only." >&2; exit 1; fi
	@$(PYTHON) -m venv build/clean-venv
	@build/clean-venv/bin/python -m pip --quiet --quiet install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	@build/clean-venv/bin/python -m pip --quiet --quiet install dist/*.whl
	@cd build/clean-venv && bin/python -c 'import convext, torch; x = torch.randn(2, 3, 8, 8); \
	  print("imported convext", convext.__version__, tuple(convext.ConvExt2d(3, 4, 3)(x).shape))'
	@rm -rf build/clean-venv
	@ls dist/*.whl

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find python tests -name __pycache__ -type d -prune -exec rm -rf {} +

# ------------------------------------------------------------------ installing

# What is missing is said in one sentence, before pip and CMake can say it in a hundred lines.
$(STAMPS)/venv:
	@command -v $(PYTHON) >/dev/null || { echo "convext needs Python 3.10 or newer: '$(PYTHON)' was not found." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "convext needs Python 3.10 or newer: '$(PYTHON)' is $$($(PYTHON) -V); set PYTHON to another." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "'$(PYTHON)' has no venv module: install it (python3-venv on Debian)." >&2; exit 1; }
	@test -x "$(PY)" || { echo "creating $(VENV)"; $(PYTHON) -m venv "$(VENV)"; }
	@mkdir -p $(@D) && touch $@

$(STAMPS)/build-tools: $(STAMPS)/venv
	@compiler="$${CXX:-}"; for name in c++ g++ clang++; do \
	  test -n "$$compiler" || ! command -v $$name >/dev/null || compiler=$$name; done; \
	  test -n "$$compiler" || \
	  { echo "convext needs a C++17 compiler: install g++ or clang++, or set CXX." >&2; exit 1; }; \
	  command -v $${compiler%% *} >/dev/null || \
	  { echo "convext needs a C++17 compiler: CXX is '$$compiler', which was not found." >&2; exit 1; }
	@$(PY) -c 'import pathlib, sys, sysconfig; sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())' || \
	  { echo "The headers of '$(PYTHON)' are missing: install them (python3-dev on Debian, python3-devel on Fedora)." >&2; exit 1; }
	@echo "installing $(TORCH) and the build tools"
	@$(PIP) install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	@$(PIP) install $(BUILD_TOOLS) $(if $(filter pypi,$(NVCC)),nvidia-cuda-nvcc nvidia-cuda-cccl)
	@touch $@

$(STAMPS)/convext: $(STAMPS)/build-tools $(SOURCES)
	@echo "building convext (some minutes; more where nvcc is)"
	@$(PIP) install --no-build-isolation --editable ".[cli,bench]"
	@touch $@

# convext itself is there by now, so these only add what the extra names.
$(STAMPS)/test $(STAMPS)/dev $(STAMPS)/models $(STAMPS)/docs: $(STAMPS)/%: $(STAMPS)/convext pyproject.toml
	@echo "installing what 'convext[$*]' needs"
	@$(PIP) install "convext[$*]"
	@touch $@
