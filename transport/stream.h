// Stream: a reliable, ordered, two-way flow of bytes between two hosts; over tcp, unix or TLS.
//
// Owner:    whoever holds the unique_ptr. It must outlive every call into it.
// Threads:  one thread may read while another one writes; end_writes() counts as a write.
//           shutdown() and peer() may be called from any thread at any time.
// Failure:  kCancelled when the token of the stream is cancelled; kDisconnected when the peer
// closed,
//           the link failed or no byte moved for the idle timeout; kPolicy when a TLS peer refuses
//           this host's certificate (TLS 1.3 tells a client only on its first read); kMalformed for
//           bytes that are not TLS. After a failed write the stream is good for reads and
//           shutdown() only.
// Invariants: read_some() never returns 0. No operation raises SIGPIPE or throws.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "engine/result.h"
#include "engine/types.h"
#include "transport/cancel.h"
#include "transport/fd.h"

namespace sealift {

inline constexpr Millis kIdleTimeoutDefault{30'000};

using SharedSecret = std::array<std::byte, 32>;

class Stream {
 public:
  Stream() = default;
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  virtual ~Stream() = default;

  // Waits for at least one byte. REQUIRES: out is not empty.
  virtual Result<std::size_t> read_some(MutableBytes out) = 0;
  // Writes all parts, in order, as if they were one; copies none that is large.
  virtual Result<void> write_parts(std::span<const ByteView> parts) = 0;
  // Tells the peer that no more bytes come; reading goes on.
  virtual Result<void> end_writes() = 0;
  // Ends both directions now; blocked reads and writes of this side fail with kDisconnected.
  virtual void shutdown() = 0;
  [[nodiscard]] virtual std::string peer() const = 0;
  // What only the two ends of this connection know, one for each `label`: TLS's exporter (RFC 8446,
  // 7.5). Empty where the connection has no keys.
  // A stream around another one passes it on.
  [[nodiscard]] virtual std::optional<SharedSecret> shared_secret(const std::string& label) = 0;

  // Fills all parts, in order. Bytes arrive where the parts lie wherever the stream can do that.
  virtual Result<void> read_parts(std::span<const MutableBytes> parts);
  Result<void> read_exact(MutableBytes out);
  Result<void> write_all(ByteView bytes) { return write_parts({&bytes, 1}); }
};

// What every stream over a socket is made of. REQUIRES: fd is connected and non-blocking.
struct Link {
  UniqueFd fd;
  std::string peer;  // for people: "tcp:192.0.2.1:7000"
  Millis idle_timeout = kIdleTimeoutDefault;
  CancelToken cancel;

  // Waits until the socket is ready; `doing` is "reading from" or "writing to".
  [[nodiscard]] Result<void> wait(short events, Deadline deadline, const char* doing) const;
  [[nodiscard]] Error cancelled_error(const char* doing) const;
  [[nodiscard]] Error closed_error() const;
};

std::unique_ptr<Stream> make_socket_stream(Link link);

}  // namespace sealift
