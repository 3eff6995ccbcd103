#include "transport/address.h"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <string>
#include <string_view>
#include <system_error>

namespace sealift {
namespace {

constexpr std::string_view kForms = "tcp:HOST:PORT, tcp:[IPV6]:PORT or unix:PATH";
constexpr std::size_t kHostBytesMax = 253;  // the longest name DNS allows

Result<std::uint16_t> parse_port(std::string_view digits, std::string_view text) {
  unsigned port = 0;
  const char* end = digits.data() + digits.size();
  const auto [rest, error] = std::from_chars(digits.data(), end, port);
  if (digits.empty() || error != std::errc{} || rest != end || port > UINT16_MAX) {
    return fail(ErrorClass::kUsage, "address \"{}\": port \"{}\" is not a number from 0 to 65535",
                text, digits);
  }
  return static_cast<std::uint16_t>(port);
}

bool plausible_host(std::string_view host) {
  return std::ranges::none_of(
      host, [](char c) { return c <= ' ' || c == '/' || c == '[' || c == ']' || c == '\x7f'; });
}

Result<Address> parse_tcp(std::string_view rest, std::string_view text) {
  const std::size_t colon = rest.rfind(':');
  const std::size_t bracket = rest.rfind(']');
  const bool inside_brackets = bracket != std::string_view::npos && colon < bracket;
  if (colon == std::string_view::npos || inside_brackets) {
    return fail(ErrorClass::kUsage, "address \"{}\" has no port; the form is tcp:HOST:PORT", text);
  }
  std::string_view host = rest.substr(0, colon);
  if (host.starts_with('[') && host.ends_with(']')) {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string_view::npos) {
    return fail(ErrorClass::kUsage,
                "address \"{}\": an IPv6 host is written in brackets, as in tcp:[::1]:PORT", text);
  }
  if (host.empty()) return fail(ErrorClass::kUsage, "address \"{}\" has no host", text);
  if (host.size() > kHostBytesMax || !plausible_host(host)) {
    return fail(ErrorClass::kUsage, "address \"{}\": \"{}\" is not a host name or an IP address",
                text, host);
  }
  SEALIFT_TRY(const std::uint16_t port, parse_port(rest.substr(colon + 1), text));
  return Address{Address::Kind::kTcp, std::string(host), port, {}};
}

Result<Address> parse_unix(std::string_view path, std::string_view text) {
  if (path.empty()) return fail(ErrorClass::kUsage, "address \"{}\" has no path", text);
  if (path.size() > kUnixPathBytesMax) {
    return fail(ErrorClass::kUsage,
                "address \"{}\": the path has {} bytes and a unix socket path at most {}", text,
                path.size(), kUnixPathBytesMax);
  }
  if (path.find('\0') != std::string_view::npos) {
    return fail(ErrorClass::kUsage, "the path of a unix address holds a zero byte");
  }
  return Address{Address::Kind::kUnix, {}, 0, std::string(path)};
}

}  // namespace

Result<Address> parse_address(std::string_view text) {
  if (text.starts_with("tcp:")) return parse_tcp(text.substr(4), text);
  if (text.starts_with("unix:")) return parse_unix(text.substr(5), text);
  return fail(ErrorClass::kUsage, "address \"{}\" is not one of {}", text, kForms);
}

std::string to_string(const Address& address) {
  if (address.kind == Address::Kind::kUnix) return "unix:" + address.path;
  const bool ipv6 = address.host.find(':') != std::string::npos;
  return fmt::format(fmt::runtime(ipv6 ? "tcp:[{}]:{}" : "tcp:{}:{}"), address.host, address.port);
}

}  // namespace sealift
