// Calls of small convolutions without Python between (short_ways.cpp).
#pragma once

#include <pybind11/pybind11.h>

void add_short_ways(pybind11::module_& m);
