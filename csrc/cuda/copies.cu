// Copies, compiled by nvcc for every architecture.
#include "copies.cuh"
