// What tells a network where a guest's address is now: one Ethernet frame that switches and
// neighbours learn from, and a port that sends it.
//
// Spec:    RARP request (RFC 903: type 0x8035, operation 3) where only the MAC is known; with an
//          IPv4 address an ARP announcement (RFC 826, RFC 5227 section 2.3). IEEE 802.3: at least
//          60 bytes without the checksum. packet(7).
// Owner:   whoever opened the port. Threads: one at a time.
// Failure: kUsage (a text that is no announcement), kRefused (no CAP_NET_RAW), kLocalFault.
// Invariant: the port receives nothing.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "engine/result.h"
#include "transport/fd.h"

namespace sealift {

struct AnnounceTarget {
  std::string interface;  // of the host, where the guest's frames leave
  std::array<std::uint8_t, 6> mac{};
  std::optional<std::array<std::uint8_t, 4>> ipv4;
};

// "IFACE,MAC[,IPV4]", as "tap0,52:54:00:12:34:56,192.0.2.7". A MAC that names no single station is
// refused.
Result<AnnounceTarget> parse_announce(std::string_view text);
std::string to_string(const AnnounceTarget& target);

using AnnounceFrame = std::array<std::byte, 60>;
AnnounceFrame announce_frame(const AnnounceTarget& target);

class AnnouncePort {
 public:
  // Needs CAP_NET_RAW; send() does not.
  static Result<AnnouncePort> open(const AnnounceTarget& target);
  Result<void> send() const;
  const AnnounceTarget& target() const { return target_; }

 private:
  AnnouncePort(AnnounceTarget target, UniqueFd fd)
      : target_(std::move(target)), frame_(announce_frame(target_)), fd_(std::move(fd)) {}

  AnnounceTarget target_;
  AnnounceFrame frame_;
  UniqueFd fd_;
};

}  // namespace sealift
