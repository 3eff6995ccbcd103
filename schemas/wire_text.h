// Text on the wire: UTF-8 without control characters, at most limits::kTextBytesMax bytes. Plain
// functions.
//
// Control characters are refused because text of a peer ends in logs and on terminals.
#pragma once

#include <string>
#include <string_view>

namespace sealift {

// Valid UTF-8 (no surrogates, nothing above U+10FFFF, no overlong form), none of U+0000–U+001F and
// U+007F–U+009F.
bool is_wire_text(std::string_view text);

// The nearest text that is_wire_text() and fits: what is not allowed becomes '?', line breaks and
// tabs a space, and the end is cut between characters.
std::string to_wire_text(std::string_view text);

}  // namespace sealift
