// The rungs of Hopper, compiled by nvcc for sm_90a alone.
#include "hopper.cuh"
