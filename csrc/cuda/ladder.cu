// The rungs, compiled by nvcc for every architecture.
#include "ladder.cuh"
