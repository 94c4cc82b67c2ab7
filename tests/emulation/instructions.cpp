// Tests what the emulation says Hopper's instructions do, each against a second statement of what
// the PTX ISA documents, and that it reports their misuse.
//
//     usage: convext_emulation_instructions [part of a test's name]
#include "instructions.h"

#include <chrono>

int main(int argc, char** argv) {
  const std::string filter = argc > 1 ? argv[1] : "";
  int passed = 0, failed = 0;
  for (const auto& tests : {convext_tests::copy_tests(), convext_tests::product_tests(),
                            convext_tests::misuse_tests()}) {
    for (const convext_tests::Test& test : tests) {
      if (std::string(test.name).find(filter) == std::string::npos) continue;
      const auto start = std::chrono::steady_clock::now();
      std::string failure;
      try {
        test.run();
      } catch (const emu::Error& error) {
        failure = error.what();
      }
      const double seconds =
          std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      std::printf("%-44s %6.2f s  %s\n", test.name, seconds, failure.empty() ? "right" : "WRONG");
      if (!failure.empty()) std::printf("    %s\n", failure.c_str());
      std::fflush(stdout);
      ++(failure.empty() ? passed : failed);
    }
  }
  std::printf("%d instruction tests passed, %d failed\n", passed, failed);
  return failed == 0 && passed > 0 ? 0 : 1;
}
