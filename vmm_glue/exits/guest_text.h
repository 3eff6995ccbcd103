// Text that a guest wrote, made fit for a log line.
//
// Plain function: no ownership, no threads, no failure.
#pragma once

#include <cstddef>
#include <string>

#include "engine/types.h"

namespace sealift {

// Printable ASCII stays; backslash, quotes and all else become \xNN. What lies beyond `bytes_max`
// bytes of input is left out, so the result has at most 4 * bytes_max characters.
inline std::string escape_guest_text(ByteView text, std::size_t bytes_max) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  for (const std::byte byte : text.first(text.size() < bytes_max ? text.size() : bytes_max)) {
    const auto code = std::to_integer<unsigned char>(byte);
    const char character = static_cast<char>(code);
    if (code >= 0x20 && code < 0x7f && character != '\\' && character != '"' && character != '\'') {
      out += character;
    } else {
      out += {'\\', 'x', kDigits[code >> 4], kDigits[code & 0xf]};
    }
  }
  return out;
}

}  // namespace sealift
