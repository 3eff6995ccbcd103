// Base64 (RFC 4648, section 4), as etcd's gateway carries keys and values.
//
// Threads: plain functions. Failure: decoding what is not base64 gives nothing.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace sealift {

std::string base64(std::string_view bytes);
std::optional<std::string> from_base64(std::string_view text);

}  // namespace sealift
