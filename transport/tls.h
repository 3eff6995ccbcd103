// TlsContext: who this host is and whom it believes, read once from a directory.
//
//   ca.pem    the certificate of the only authority that is believed
//   host.pem  this host's certificate, issued by it (intermediates may follow)
//   host.key  this host's private key, readable by its owner only (0600)
//
// Owner:    value; copies share one immutable state. Streams keep the state alive.
// Threads:  any thread after load().
// Failure:  kUsage for a missing or unreadable file; kPolicy for what is wrong with its content.
// Invariants: TLS 1.3 only; both sides present a certificate of the authority, valid today, with
// the
//           extended key usage of their side; a client also checks the name of the server. No
//           session is resumed, so every connection proves all of this anew.
#pragma once

#include <cstdint>
#include <ctime>
#include <memory>
#include <optional>
#include <string>

#include "engine/result.h"

namespace sealift {

enum class TlsRole : std::uint8_t { kClient, kServer };

struct TlsOptions {
  std::optional<std::time_t> now;   // validity is judged at this time; tests set it
  bool present_certificate = true;  // false: a client that proves nothing; tests set it
};

struct TlsState;

class TlsContext {
 public:
  static Result<TlsContext> load(const std::string& dir, TlsRole role,
                                 const TlsOptions& options = {});

  [[nodiscard]] TlsRole role() const;
  [[nodiscard]] const std::shared_ptr<const TlsState>& state() const { return state_; }

 private:
  explicit TlsContext(std::shared_ptr<const TlsState> state) : state_(std::move(state)) {}
  std::shared_ptr<const TlsState> state_;
};

}  // namespace sealift
