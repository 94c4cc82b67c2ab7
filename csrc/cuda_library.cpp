#include "cuda_library.h"

#include <atomic>

namespace convext {
namespace {

std::atomic<const CudaLibrary*> the_library{nullptr};
std::atomic<bool (*)()> the_query{nullptr};

}  // namespace

const CudaLibrary* cuda_library() { return the_library.load(); }
void set_cuda_library(const CudaLibrary* library) { the_library.store(library); }

bool tf32_allowed() {
  bool (*const query)() = the_query.load();
  return query != nullptr && query();
}
void set_tf32_query(bool (*query)()) { the_query.store(query); }

}  // namespace convext
