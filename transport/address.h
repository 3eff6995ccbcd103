// Address: where a peer listens, written the way an operator types it.
//
//   tcp:HOST:PORT   tcp:[::1]:PORT   unix:PATH
//
// Threads: plain value. Failure: text that is not one of the forms is kUsage and says why.
// Invariants: parse_address(to_string(a)) == a for every address that parse_address() returned.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "engine/result.h"

namespace sealift {

inline constexpr std::size_t kUnixPathBytesMax = 107;  // sockaddr_un::sun_path less its final zero

struct Address {
  enum class Kind : std::uint8_t { kTcp, kUnix };
  Kind kind = Kind::kTcp;
  std::string host;        // kTcp: a name, or an IPv4/IPv6 number without brackets
  std::uint16_t port = 0;  // kTcp: 0 means "any free port", for a listener only
  std::string path;        // kUnix
  friend bool operator==(const Address&, const Address&) = default;
};

Result<Address> parse_address(std::string_view text);
std::string to_string(const Address& address);

}  // namespace sealift
