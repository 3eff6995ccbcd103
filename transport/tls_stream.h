// TLS over a connected socket: the handshake, then a Stream. Internal to transport/.
//
// Owner, threads, failure: as stream.h says. An SSL object is not thread-safe, so one mutex guards
// it and is never held while waiting: a blocked reader does not hold up the writer. Invariants: no
// stream comes out of a handshake that did not prove the peer.
#pragma once

#include <memory>
#include <string>

#include "transport/cancel.h"
#include "transport/stream.h"
#include "transport/tls.h"

namespace sealift {

// AES-GCM in TLS 1.3 keeps its margin for about 2^24 full records; new keys long before that.
inline constexpr std::uint64_t kTlsKeyBytesMax = 64ULL << 30;

struct TlsHandshake {
  Deadline deadline;
  std::string expected_name;                      // client: the name or IP the server must prove
  std::uint64_t key_bytes_max = kTlsKeyBytesMax;  // tests lower it
};

// Client or server as `context` says. REQUIRES: a client gives an expected name.
Result<std::unique_ptr<Stream>> start_tls(Link link, const TlsContext& context,
                                          const TlsHandshake& handshake);

}  // namespace sealift
