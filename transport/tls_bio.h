// An OpenSSL transport over a socket that never blocks and never raises SIGPIPE.
//
// Owner:   the TLS stream owns both the BioSocket and the BIO that points at it.
// Threads: under the lock of the TLS stream. Failure: the errno of the last call stays in the
// struct.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "transport/openssl_ptr.h"

namespace sealift {

struct BioSocket {
  int fd = -1;
  int code = 0;                           // errno of the last call that failed for good; 0 if none
  bool ended = false;                     // the peer's last byte has been read
  std::size_t heard = 0;                  // bytes of `opening` that are set
  std::array<std::uint8_t, 4> opening{};  // the peer's first bytes: what language it speaks

  [[nodiscard]] bool opening_is_tls() const {
    return heard == 0 || opening[0] == 22 || opening[0] == 21;
  }
};

BioMethodPtr make_bio_method();
BioPtr make_bio(const BIO_METHOD* method, BioSocket* socket);

}  // namespace sealift
