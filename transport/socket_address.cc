#include "transport/socket_address.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/un.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <string>

#include "engine/assert.h"

namespace sealift {
namespace {

constexpr int kKeepAliveIdleSeconds = 15;
constexpr int kKeepAliveIntervalSeconds = 5;
constexpr int kKeepAliveProbes = 3;

SocketAddress unix_address(const std::string& path) {
  sockaddr_un name{};
  SEALIFT_ASSERT(path.size() <= kUnixPathBytesMax && path.size() < sizeof name.sun_path);
  name.sun_family = AF_UNIX;
  path.copy(name.sun_path, path.size());
  SocketAddress result;
  static_assert(sizeof name <= sizeof result.storage);
  std::memcpy(&result.storage, &name, sizeof name);
  result.bytes = sizeof name;
  return result;
}

using GetName = int (*)(int, sockaddr*, socklen_t*);

Result<Address> name_of_end(int fd, GetName get_name) {
  sockaddr_storage storage{};
  socklen_t bytes = sizeof storage;
  void* where = &storage;
  if (get_name(fd, static_cast<sockaddr*>(where), &bytes) != 0) {
    return fail(ErrorClass::kDisconnected, "reading a socket's address: {}", errno_text(errno));
  }
  std::array<char, INET6_ADDRSTRLEN> text{};
  if (storage.ss_family == AF_INET) {
    sockaddr_in name{};
    std::memcpy(&name, &storage, sizeof name);
    ::inet_ntop(AF_INET, &name.sin_addr, text.data(), text.size());
    return Address{Address::Kind::kTcp, text.data(), ntohs(name.sin_port), {}};
  }
  if (storage.ss_family == AF_INET6) {
    sockaddr_in6 name{};
    std::memcpy(&name, &storage, sizeof name);
    ::inet_ntop(AF_INET6, &name.sin6_addr, text.data(), text.size());
    return Address{Address::Kind::kTcp, text.data(), ntohs(name.sin6_port), {}};
  }
  sockaddr_un name{};
  std::memcpy(&name, &storage, sizeof name);
  return Address{Address::Kind::kUnix,
                 {},
                 0,
                 std::string(name.sun_path, ::strnlen(name.sun_path, sizeof name.sun_path))};
}

void set_option(int fd, int level, int name, int value) {
  // Each is an improvement, not a need: a kernel without it still carries the bytes.
  static_cast<void>(::setsockopt(fd, level, name, &value, sizeof value));
}

}  // namespace

const sockaddr* SocketAddress::get() const {
  const void* where = &storage;
  return static_cast<const sockaddr*>(where);
}

Result<std::vector<SocketAddress>> resolve(const Address& address, Purpose purpose) {
  if (address.kind == Address::Kind::kUnix) {
    return std::vector<SocketAddress>{unix_address(address.path)};
  }
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV | (purpose == Purpose::kListen ? AI_PASSIVE : 0);
  addrinfo* list = nullptr;
  const int code =
      ::getaddrinfo(address.host.c_str(), std::to_string(address.port).c_str(), &hints, &list);
  if (code != 0) {
    const bool later = code == EAI_AGAIN || code == EAI_SYSTEM || code == EAI_MEMORY;
    return fail(later ? ErrorClass::kDisconnected : ErrorClass::kUsage,
                "looking up the host \"{}\" of {}: {}", address.host, to_string(address),
                ::gai_strerror(code));
  }
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(list, &::freeaddrinfo);
  std::vector<SocketAddress> found;
  for (const addrinfo* item = list; item != nullptr; item = item->ai_next) {
    SocketAddress one;
    if (item->ai_addrlen > sizeof one.storage) continue;
    std::memcpy(&one.storage, item->ai_addr, item->ai_addrlen);
    one.bytes = item->ai_addrlen;
    found.push_back(one);
  }
  if (found.empty()) {
    return fail(ErrorClass::kUsage, "the host \"{}\" has no address", address.host);
  }
  return found;
}

Result<Address> local_address(int fd) { return name_of_end(fd, &::getsockname); }

Result<Address> peer_address(int fd) { return name_of_end(fd, &::getpeername); }

Result<UniqueFd> make_socket(int family) {
  UniqueFd fd(::socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) return fail(ErrorClass::kLocalFault, "making a socket: {}", errno_text(errno));
  return fd;
}

Result<void> set_dscp(int fd, int family, std::uint8_t dscp) {
  SEALIFT_ASSERT(dscp < 64);
  if (dscp == 0 || family == AF_UNIX) return {};
  const int traffic_class = dscp << 2;  // above the two bits of congestion notification
  const int failed =
      family == AF_INET6
          ? ::setsockopt(fd, IPPROTO_IPV6, IPV6_TCLASS, &traffic_class, sizeof traffic_class)
          : ::setsockopt(fd, IPPROTO_IP, IP_TOS, &traffic_class, sizeof traffic_class);
  if (failed == 0) return {};
  return fail(ErrorClass::kLocalFault, "marking a connection with DSCP {}: {}", dscp,
              errno_text(errno));
}

void tune_connection(int fd) {
  set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, kKeepAliveIdleSeconds);
  set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, kKeepAliveIntervalSeconds);
  set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, kKeepAliveProbes);
}

}  // namespace sealift
