#include "cuda_library.h"

#include <atomic>
#include <mutex>

namespace convext {
namespace {

std::atomic<const CudaLibrary*> the_library{nullptr};
std::atomic<bool (*)()> the_query{nullptr};

std::mutex runs_mutex;
std::map<std::string, std::int64_t> runs;  // guarded by it

}  // namespace

const CudaLibrary* cuda_library() { return the_library.load(); }
void set_cuda_library(const CudaLibrary* library) { the_library.store(library); }

void count_cuda_run(const std::string& kernel) {
  const std::lock_guard<std::mutex> lock(runs_mutex);
  ++runs[kernel];
}
std::map<std::string, std::int64_t> cuda_runs() {
  const std::lock_guard<std::mutex> lock(runs_mutex);
  return runs;
}
void reset_cuda_runs() {
  const std::lock_guard<std::mutex> lock(runs_mutex);
  runs.clear();
}

bool tf32_allowed() {
  bool (*const query)() = the_query.load();
  return query != nullptr && query();
}
void set_tf32_query(bool (*query)()) { the_query.store(query); }

}  // namespace convext
