// How two hosts come to share a Stream: connect() on one side, a Listener on the other.
//
// Owner:    the caller owns what is returned. A TlsContext passed by pointer outlives the call.
// Threads:  a Listener is used by one thread; connect() and accept_stream() by any.
// Failure:  kUsage for an address that cannot work; kDisconnected when nobody answers in time;
//           kPolicy for certificates; kCancelled at once when the token is cancelled.
// Invariants: Listener::accept() never waits for what a client sends: the TLS handshake is a call
// of
//           its own, so a silent client cannot keep others out. A unix socket file has mode 0600,
//           replaces only a file nobody listens on, and goes away with its Listener.
//
// A host name is looked up by the system resolver, which cannot be cancelled while it runs; numbers
// and names in /etc/hosts do not wait.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "engine/result.h"
#include "transport/address.h"
#include "transport/cancel.h"
#include "transport/fd.h"
#include "transport/stream.h"
#include "transport/tls.h"

namespace sealift {

inline constexpr Millis kConnectTimeoutDefault{10'000};

struct ConnectOptions {
  Millis connect_timeout = kConnectTimeoutDefault;  // connection and TLS handshake together
  Millis idle_timeout = kIdleTimeoutDefault;
  const TlsContext* tls = nullptr;  // null: plain text
  std::string expected_name;        // what the server must prove; empty: the host of the address
  std::uint8_t dscp = 0;            // 0 to 63: how routers are to treat it; 0: as anything else
};

Result<std::unique_ptr<Stream>> connect(const Address& address, const ConnectOptions& options,
                                        const CancelToken& cancel);

// A connection that was accepted, before a byte of it has been read.
struct Incoming {
  UniqueFd fd;
  std::string peer;
};

class Listener {
 public:
  static Result<Listener> bind(const Address& address);
  Listener(Listener&& other) noexcept;
  Listener& operator=(Listener&&) = delete;
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;
  ~Listener();

  // The address with the port the kernel chose when port 0 was asked for.
  [[nodiscard]] const Address& bound_address() const { return address_; }

  // The next connection. kLocalFault when this host is out of descriptors or memory: try later.
  Result<Incoming> accept(const CancelToken& cancel);

 private:
  Listener(UniqueFd fd, Address address);
  Result<void> remember_file();

  UniqueFd fd_;
  Address address_;
  std::uint64_t file_device_ = 0, file_inode_ = 0;  // of the unix socket file; 0 if none is ours
};

struct AcceptOptions {
  Millis handshake_timeout = kConnectTimeoutDefault;
  Millis idle_timeout = kIdleTimeoutDefault;
  const TlsContext* tls = nullptr;  // null: plain text
};

// Makes a stream of an accepted connection; with TLS this is the handshake, and it may take a
// while.
Result<std::unique_ptr<Stream>> accept_stream(Incoming incoming, const AcceptOptions& options,
                                              const CancelToken& cancel);

}  // namespace sealift
