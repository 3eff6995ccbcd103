// Little-endian numbers in bytes. Plain functions: no ownership, no threads. Failure: none.
// REQUIRES: `at` and the number's size are within the bytes.
#pragma once

#include <cstdint>

#include "engine/types.h"

namespace sealift::sev {

template <class T>
T get_le(ByteView bytes, std::size_t at) {
  T out = 0;
  for (std::size_t i = 0; i < sizeof(T); ++i) {
    out = static_cast<T>(out | static_cast<T>(std::to_integer<T>(bytes[at + i]) << (8 * i)));
  }
  return out;
}

template <class T>
void append_le(Bytes& out, T number) {
  for (std::size_t i = 0; i < sizeof(T); ++i) out.push_back(std::byte(number >> (8 * i) & 0xff));
}

inline void append(Bytes& out, ByteView part) { out.insert(out.end(), part.begin(), part.end()); }

}  // namespace sealift::sev
