#include "engine/assert.h"

#include <cstdio>
#include <cstdlib>

namespace sealift {

void assert_failed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "sealift: assertion failed: %s (%s:%d)\n", condition, file, line);
  std::fflush(stderr);
  std::abort();
}

}  // namespace sealift
