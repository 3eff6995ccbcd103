// FuzzInput: a fuzzer's bytes, taken from the front. Where they end, zeros follow.
// FUZZ_CHECK: an invariant of a target; a violation ends the process, which is what a fuzzer finds.
//
// Plain value: no threads, no failure.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>

#include "engine/types.h"

namespace sealift::fuzz {

class FuzzInput {
 public:
  FuzzInput(const std::uint8_t* data, std::size_t bytes)
      : rest_(std::as_bytes(std::span(data, bytes))) {}

  template <class T>
  T take() {
    T out{};
    const ByteView some = take_bytes(sizeof out);
    std::memcpy(&out, some.data(), some.size());
    return out;
  }
  // At most `bytes`.
  ByteView take_bytes(std::size_t bytes) {
    const ByteView some = rest_.first(std::min(bytes, rest_.size()));
    rest_ = rest_.subspan(some.size());
    return some;
  }
  bool empty() const { return rest_.empty(); }

 private:
  ByteView rest_;
};

}  // namespace sealift::fuzz

#define FUZZ_CHECK(condition)                                                        \
  do {                                                                               \
    if (!(condition)) {                                                              \
      std::fprintf(stderr, "%s:%d: violated: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                  \
    }                                                                                \
  } while (false)
