// The ladder as the emulation runs it.
#include "cuda/ladder.cuh"
