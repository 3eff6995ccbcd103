// Assertions for our own bugs, on in release builds. Nothing a guest or a peer sends may reach one.
#pragma once

namespace sealift {
[[noreturn]] void assert_failed(const char* condition, const char* file, int line);
}

#define SEALIFT_ASSERT(condition) \
  ((condition) ? static_cast<void>(0) : ::sealift::assert_failed(#condition, __FILE__, __LINE__))
