// Cap'n Proto 0.9.2 for C++20: how schemas/*.cc, and nothing else, includes capnp. Include it
// before generated headers.
//
// capnp/blob.h compares `const char*` with kj::StringPtr and relies on a comparison that kj has
// only up to C++17. g++ 12 finds it by rewriting the operands; clang 16 and later do not.
#pragma once

#include <kj/string.h>

#if defined(__clang__)
namespace kj {
inline bool operator==(const char* a, const StringPtr& b) { return b.operator==(StringPtr(a)); }
inline bool operator!=(const char* a, const StringPtr& b) { return !(b.operator==(StringPtr(a))); }
}  // namespace kj
#endif

#include <capnp/message.h>
#include <capnp/serialize.h>
