#include "cpu_features.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include <cstdlib>
#include <stdexcept>

namespace convext {
namespace {

constexpr Isa kBestFirst[] = {Isa::kAvx512Bf16, Isa::kAvx512, Isa::kAvx2, Isa::kGeneric};

#if defined(__x86_64__)
// Clang's builtin knows F16C only since version 18. It needs the same registers as AVX2.
bool cpu_has_f16c() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C) != 0;
}
// The compiler's builtins also ask the operating system whether it saves the wide registers.
bool cpu_has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && cpu_has_f16c();
}
bool cpu_has_avx512() {
  return cpu_has_avx2() && __builtin_cpu_supports("avx512f") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd");
}
bool cpu_has_avx512_bf16() { return cpu_has_avx512() && __builtin_cpu_supports("avx512bf16"); }
#else
bool cpu_has_avx2() { return false; }
bool cpu_has_avx512() { return false; }
bool cpu_has_avx512_bf16() { return false; }
#endif

}  // namespace

std::vector<std::pair<std::string, bool>> cpu_features() {
  std::vector<std::pair<std::string, bool>> features;
#if defined(__x86_64__)
#define CONVEXT_FEATURE(name) features.emplace_back(name, __builtin_cpu_supports(name) != 0)
  CONVEXT_FEATURE("avx");
  CONVEXT_FEATURE("avx2");
  CONVEXT_FEATURE("fma");
  features.emplace_back("f16c", cpu_has_f16c());
  CONVEXT_FEATURE("avx512f");
  CONVEXT_FEATURE("avx512bw");
  CONVEXT_FEATURE("avx512cd");
  CONVEXT_FEATURE("avx512dq");
  CONVEXT_FEATURE("avx512vl");
  features.emplace_back("avx512_bf16", __builtin_cpu_supports("avx512bf16") != 0);
#undef CONVEXT_FEATURE
#endif
  return features;
}

bool isa_compiled(Isa isa) {
  switch (isa) {
    case Isa::kGeneric: return true;
#if defined(CONVEXT_HAVE_AVX2)
    case Isa::kAvx2: return true;
#endif
#if defined(CONVEXT_HAVE_AVX512)
    case Isa::kAvx512: return true;
#endif
#if defined(CONVEXT_HAVE_AVX512_BF16)
    case Isa::kAvx512Bf16: return true;
#endif
    default: return false;
  }
}

bool isa_includes(Isa isa, Isa part) {
  return isa == part || (isa == Isa::kAvx512Bf16 && part == Isa::kAvx512);
}

bool isa_runnable(Isa isa) {
  if (!isa_compiled(isa)) return false;
  if (isa == Isa::kAvx2) return cpu_has_avx2();
  if (isa == Isa::kAvx512) return cpu_has_avx512();
  if (isa == Isa::kAvx512Bf16) return cpu_has_avx512_bf16();
  return true;
}

std::vector<Isa> runnable_isas() {
  std::vector<Isa> isas;
  for (Isa isa : kBestFirst) {
    if (isa_runnable(isa)) isas.push_back(isa);
  }
  return isas;
}

Isa active_isa() {
  const char* wanted = std::getenv("CONVEXT_CPU_ISA");
  if (wanted == nullptr || *wanted == '\0') return runnable_isas().front();
  std::string runnable;
  for (Isa isa : runnable_isas()) {
    if (std::string(to_string(isa)) == wanted) return isa;
    runnable += std::string(runnable.empty() ? "" : ", ") + to_string(isa);
  }
  for (Isa isa : kBestFirst) {
    if (std::string(to_string(isa)) == wanted) {
      throw std::runtime_error(
          std::string("CONVEXT_CPU_ISA=") + wanted +
          (isa_compiled(isa) ? ": this CPU cannot run it" : ": this build does not have it") +
          "; what can run here: " + runnable);
    }
  }
  throw std::runtime_error(
      std::string("CONVEXT_CPU_ISA must be one of generic, avx2, avx512, avx512_bf16, but got '") +
      wanted + "'");
}

}  // namespace convext
