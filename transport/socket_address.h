// Addresses in the kernel's form, and the options every socket of ours gets. Internal to
// transport/.
//
// Threads: plain values. Failure: kUsage for a name that does not exist, kDisconnected when the
// resolver cannot say now.
#pragma once

#include <sys/socket.h>

#include <string>
#include <vector>

#include "engine/result.h"
#include "transport/address.h"
#include "transport/fd.h"

namespace sealift {

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t bytes = 0;
  [[nodiscard]] const sockaddr* get() const;
  [[nodiscard]] int family() const { return storage.ss_family; }
};

enum class Purpose : bool { kConnect, kListen };

// Every address a name stands for, in the resolver's order; at least one.
Result<std::vector<SocketAddress>> resolve(const Address& address, Purpose purpose);

// Where a socket is bound to (our own end), or connected to (the peer's).
Result<Address> local_address(int fd);
Result<Address> peer_address(int fd);

Result<UniqueFd> make_socket(int family);  // stream socket, non-blocking, close-on-exec
// REQUIRES: dscp < 64, of a socket of that family. 0 and unix sockets: nothing.
Result<void> set_dscp(int fd, int family, std::uint8_t dscp);
void tune_connection(int fd);  // no delay and keep-alive for tcp; harmless for unix

}  // namespace sealift
