#include "transport/announce.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <netpacket/packet.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <span>

namespace sealift {
namespace {

constexpr std::uint16_t kEtherArp = 0x0806;
constexpr std::uint16_t kEtherRarp = 0x8035;
constexpr std::uint16_t kArpRequest = 1;
constexpr std::uint16_t kRarpRequest = 3;

class FrameWriter {
 public:
  explicit FrameWriter(AnnounceFrame& frame) : frame_(frame) {}
  void u16(std::uint16_t value) {
    byte(static_cast<std::uint8_t>(value >> 8));
    byte(static_cast<std::uint8_t>(value));
  }
  void byte(std::uint8_t value) { frame_[at_++] = static_cast<std::byte>(value); }
  void bytes(std::span<const std::uint8_t> values) {
    for (const std::uint8_t value : values) byte(value);
  }

 private:
  AnnounceFrame& frame_;
  std::size_t at_ = 0;
};

bool parse_mac(std::string_view text, std::array<std::uint8_t, 6>& mac) {
  if (text.size() != 17) return false;
  for (std::size_t i = 0; i < mac.size(); ++i) {
    const char* first = text.data() + 3 * i;
    const auto [end, status] = std::from_chars(first, first + 2, mac[i], 16);
    if (status != std::errc() || end != first + 2) return false;
    if (i + 1 < mac.size() && *end != ':') return false;
  }
  const bool zero = std::all_of(mac.begin(), mac.end(), [](std::uint8_t b) { return b == 0; });
  return !zero && (mac[0] & 1) == 0;  // not a group's address
}

std::string mac_text(const std::array<std::uint8_t, 6>& mac) {
  return fmt::format("{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", mac[0], mac[1], mac[2], mac[3],
                     mac[4], mac[5]);
}

}  // namespace

Result<AnnounceTarget> parse_announce(std::string_view text) {
  const std::size_t first = text.find(',');
  const std::size_t second = first == std::string_view::npos ? first : text.find(',', first + 1);
  AnnounceTarget target;
  target.interface = std::string(text.substr(0, first));
  const bool has_mac =
      first != std::string_view::npos &&
      parse_mac(
          text.substr(first + 1, second == std::string_view::npos ? second : second - first - 1),
          target.mac);
  bool good = has_mac && !target.interface.empty() && target.interface.size() < IFNAMSIZ;
  if (good && second != std::string_view::npos) {
    const std::string address(text.substr(second + 1));
    target.ipv4.emplace();
    good = ::inet_pton(AF_INET, address.c_str(), target.ipv4->data()) == 1;
  }
  if (good) return target;
  return fail(ErrorClass::kUsage,
              "announce={} is not IFACE,MAC or IFACE,MAC,IPV4, as tap0,52:54:00:12:34:56,192.0.2.7",
              text);
}

std::string to_string(const AnnounceTarget& target) {
  std::string text = fmt::format("{},{}", target.interface, mac_text(target.mac));
  if (const auto& ip = target.ipv4) {
    text += fmt::format(",{}.{}.{}.{}", (*ip)[0], (*ip)[1], (*ip)[2], (*ip)[3]);
  }
  return text;
}

AnnounceFrame announce_frame(const AnnounceTarget& target) {
  constexpr std::array<std::uint8_t, 6> kBroadcast{0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
  constexpr std::array<std::uint8_t, 6> kNoMac{};
  const std::array<std::uint8_t, 4> ip = target.ipv4.value_or(std::array<std::uint8_t, 4>{});
  AnnounceFrame frame{};
  FrameWriter out(frame);
  out.bytes(kBroadcast);
  out.bytes(target.mac);
  out.u16(target.ipv4 ? kEtherArp : kEtherRarp);
  out.u16(1);       // Ethernet
  out.u16(0x0800);  // IPv4
  out.byte(6);
  out.byte(4);
  out.u16(target.ipv4 ? kArpRequest : kRarpRequest);
  out.bytes(target.mac);  // sender
  out.bytes(ip);
  out.bytes(target.ipv4 ? kNoMac : target.mac);  // whom it asks about
  out.bytes(ip);
  return frame;
}

Result<AnnouncePort> AnnouncePort::open(const AnnounceTarget& target) {
  const unsigned index = ::if_nametoindex(target.interface.c_str());
  if (index == 0) {
    return fail(ErrorClass::kUsage, "announce={}: there is no interface {}: {}", to_string(target),
                target.interface, errno_text(errno));
  }
  // Protocol 0: nothing that comes is queued here.
  UniqueFd fd(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) {
    const ErrorClass cls = errno == EPERM ? ErrorClass::kRefused : ErrorClass::kLocalFault;
    return fail(cls, "announce={} needs CAP_NET_RAW when the agent starts: {}", to_string(target),
                errno_text(errno));
  }
  sockaddr_ll address = {};
  address.sll_family = AF_PACKET;
  address.sll_ifindex = static_cast<int>(index);
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return fail(ErrorClass::kLocalFault, "announce={}: {}", to_string(target), errno_text(errno));
  }
  return AnnouncePort(target, std::move(fd));
}

Result<void> AnnouncePort::send() const {
  const auto sent = ::send(fd_.get(), frame_.data(), frame_.size(), 0);
  if (sent == static_cast<ssize_t>(frame_.size())) return {};
  return fail(ErrorClass::kLocalFault, "announcing {}: {}", to_string(target_),
              errno_text(sent < 0 ? errno : EMSGSIZE));
}

}  // namespace sealift
