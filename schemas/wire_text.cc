#include "schemas/wire_text.h"

#include <cstddef>
#include <cstdint>

#include "engine/limits.h"

namespace sealift {
namespace {

bool is_control(std::uint32_t code) { return code < 0x20 || (code >= 0x7f && code <= 0x9f); }

// Bytes of the allowed character that `text` starts with; 0 if it starts with none. REQUIRES:
// !text.empty().
std::size_t character_bytes(std::string_view text) {
  const auto at = [&](std::size_t i) -> std::uint32_t {
    return static_cast<unsigned char>(text[i]);
  };
  const std::uint32_t lead = at(0);
  if (lead < 0x80) return is_control(lead) ? 0 : 1;
  const std::size_t bytes = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || text.size() < bytes) return 0;
  std::uint32_t code = lead & (0x7fU >> bytes);
  for (std::size_t i = 1; i < bytes; ++i) {
    if ((at(i) & 0xc0) != 0x80) return 0;
    code = code << 6 | (at(i) & 0x3f);
  }
  constexpr std::uint32_t kSmallest[] = {0x80, 0x800,
                                         0x10000};  // of 2, 3 and 4 bytes: no overlong form
  const bool surrogate = code >= 0xd800 && code <= 0xdfff;
  if (code < kSmallest[bytes - 2] || code > 0x10ffff || surrogate || is_control(code)) return 0;
  return bytes;
}

}  // namespace

bool is_wire_text(std::string_view text) {
  while (!text.empty()) {
    const std::size_t bytes = character_bytes(text);
    if (bytes == 0) return false;
    text.remove_prefix(bytes);
  }
  return true;
}

std::string to_wire_text(std::string_view text) {
  std::string clean;
  while (!text.empty()) {
    const std::size_t bytes = character_bytes(text);
    const std::size_t taken = bytes == 0 ? 1 : bytes;
    if (clean.size() + taken > limits::kTextBytesMax) break;
    if (bytes == 0) {
      const char c = text.front();
      clean += c == '\n' || c == '\r' || c == '\t' ? ' ' : '?';
    } else {
      clean += text.substr(0, bytes);
    }
    text.remove_prefix(taken);
  }
  return clean;
}

}  // namespace sealift
