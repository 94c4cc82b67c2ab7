#include "instructions.h"
namespace convext_tests { std::vector<Test> copy_tests() { return {}; } }
