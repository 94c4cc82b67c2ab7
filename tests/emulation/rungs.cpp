// The ladder as the emulation runs it: all of it, or, for builds that are to be quick, the rungs
// that the statements in CONVEXT_SOME_RUNGS add.
#ifdef CONVEXT_SOME_RUNGS

#include "cuda/launchers.cuh"

namespace convext::cuda {

const std::vector<Rung>& ladder() {
  static const std::vector<Rung> some = [] {
    std::vector<Rung> rungs;
    CONVEXT_SOME_RUNGS
    return rungs;
  }();
  return some;
}

}  // namespace convext::cuda

#else
#include "cuda/ladder.cuh"
#endif
