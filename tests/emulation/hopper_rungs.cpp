// The rungs of Hopper as the emulation runs them.
#include "cuda/hopper.cuh"
