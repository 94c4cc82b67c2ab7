// Copies as the emulation runs them.
#include "cuda/copies.cuh"
