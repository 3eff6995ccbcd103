#include "transport/tls_stream.h"

#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "engine/assert.h"
#include "transport/tls_bio.h"
#include "transport/tls_state.h"
#include "transport/tls_verify.h"

namespace sealift {
namespace {

constexpr const char* kReading = "reading from";
constexpr const char* kWriting = "writing to";
constexpr const char* kHandshaking = "in the TLS handshake with";
constexpr std::size_t kRecordBytes = 16u << 10;  // the most one TLS record carries
constexpr Millis kLingerMax{1'000};              // for the peer to read why it was refused
constexpr int kAlertReasonBase = SSL_AD_REASON_OFFSET;

// What the macro SSL_set_tlsext_host_name does, with a cast that can be searched for. OpenSSL
// copies.
bool send_server_name(SSL* ssl, const std::string& name) {
  return SSL_ctrl(ssl, SSL_CTRL_SET_TLSEXT_HOSTNAME, TLSEXT_NAMETYPE_host_name,
                  const_cast<char*>(name.c_str())) == 1;
}

// Cuts several spans into records: small parts share one, large parts are used where they lie.
class RecordCutter {
 public:
  explicit RecordCutter(std::span<const ByteView> parts) : parts_(parts) {}

  // Empty at the end. The view is valid until the next call.
  ByteView next() {
    skip_finished();
    if (parts_.empty()) return {};
    if (rest().size() >= kRecordBytes) return take(kRecordBytes);
    std::size_t filled = 0;
    while (!parts_.empty() && filled < kRecordBytes) {
      const ByteView piece = take(std::min(rest().size(), kRecordBytes - filled));
      std::ranges::copy(piece, buffer_.begin() + static_cast<std::ptrdiff_t>(filled));
      filled += piece.size();
      skip_finished();
    }
    return ByteView(buffer_).first(filled);
  }

 private:
  [[nodiscard]] ByteView rest() const { return parts_.front().subspan(used_); }
  ByteView take(std::size_t bytes) {
    const ByteView piece = rest().first(bytes);
    used_ += bytes;
    return piece;
  }
  void skip_finished() {
    while (!parts_.empty() && used_ == parts_.front().size()) {
      parts_ = parts_.subspan(1);
      used_ = 0;
    }
  }

  std::span<const ByteView> parts_;
  std::size_t used_ = 0;  // bytes of parts_.front() that are gone
  std::array<std::byte, kRecordBytes> buffer_;
};

class TlsStream final : public Stream {
 public:
  TlsStream(Link link, std::shared_ptr<const TlsState> state, std::uint64_t key_bytes_max)
      : link_(std::move(link)), state_(std::move(state)), key_bytes_max_(key_bytes_max) {
    socket_.fd = link_.fd.get();
    report_.peer_role = is_client() ? TlsRole::kServer : TlsRole::kClient;
  }

  Result<void> handshake(const TlsHandshake& options);

  Result<std::size_t> read_some(MutableBytes out) override;
  Result<void> write_parts(std::span<const ByteView> parts) override;
  Result<void> end_writes() override;
  void shutdown() override;
  [[nodiscard]] std::string peer() const override { return link_.peer; }
  [[nodiscard]] std::optional<SharedSecret> shared_secret(const std::string& label) override;

 private:
  // What one attempt on the SSL object came to: bytes moved, or the poll events to wait for.
  struct Step {
    std::size_t bytes = 0;
    short wait = 0;
  };

  [[nodiscard]] bool is_client() const { return state_->role == TlsRole::kClient; }
  Result<void> prepare(const std::string& expected_name);
  Result<Step> handshake_step();
  Result<Step> read_step(MutableBytes out);
  Result<Step> write_step(ByteView bytes);
  Result<Step> close_step();
  Result<Step> conclude(int code, const char* doing);  // an attempt did not succeed: wait or fail?
  Error attempt_error(int code, const char* doing);
  Error handshake_error(Error error);
  void linger();

  const Link link_;
  const std::shared_ptr<const TlsState> state_;
  const std::uint64_t key_bytes_max_;
  std::atomic<bool> down_{false};  // shutdown() was called on this side
  std::string expected_name_;      // constant after handshake()

  std::mutex mutex_;  // guards everything below; never held while waiting
  BioSocket socket_;
  VerifyReport report_;
  std::optional<Error> dead_;  // TLS itself broke: every later call gets the same answer
  std::uint64_t key_bytes_ = 0;
  SslPtr ssl_;  // last: goes first, and its BIO points at socket_
};

Result<void> TlsStream::prepare(const std::string& expected_name) {
  const std::lock_guard lock(mutex_);
  expected_name_ = expected_name;
  ERR_clear_error();
  ssl_.reset(SSL_new(state_->ctx.get()));
  BioPtr bio = make_bio(state_->bio_method.get(), &socket_);
  bool made = ssl_ != nullptr && bio != nullptr;
  if (made) {
    SSL_set_bio(ssl_.get(), bio.get(), bio.get());
    static_cast<void>(bio.release());
    SSL_set_app_data(ssl_.get(), &report_);
  }
  if (made && is_client()) {
    SEALIFT_ASSERT(!expected_name.empty());
    SSL_set_connect_state(ssl_.get());
    std::array<unsigned char, sizeof(in6_addr)> ip{};
    const char* name = expected_name.c_str();
    if (::inet_pton(AF_INET, name, ip.data()) == 1 || ::inet_pton(AF_INET6, name, ip.data()) == 1) {
      made = X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl_.get()), name) == 1;
    } else {
      SSL_set_hostflags(ssl_.get(),
                        X509_CHECK_FLAG_NEVER_CHECK_SUBJECT | X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
      made = SSL_set1_host(ssl_.get(), name) == 1 && send_server_name(ssl_.get(), expected_name);
    }
  } else if (made) {
    SSL_set_accept_state(ssl_.get());
  }
  if (!made) {
    return fail(ErrorClass::kLocalFault, "setting up TLS with {} as \"{}\": {}", link_.peer,
                expected_name, openssl_reason());
  }
  return {};
}

Result<void> TlsStream::handshake(const TlsHandshake& options) {
  SEALIFT_CHECK(prepare(options.expected_name));
  for (;;) {
    if (link_.cancel.cancelled()) return fail(link_.cancelled_error(kHandshaking));
    auto step = handshake_step();
    if (!step) {
      linger();
      return fail(std::move(step.error()));
    }
    if (step->wait == 0) return {};
    switch (wait_for(link_.fd.get(), step->wait, link_.cancel, options.deadline)) {
      case Wake::kReady:
        break;
      case Wake::kCancelled:
        return fail(link_.cancelled_error(kHandshaking));
      case Wake::kTimedOut:
        return fail(ErrorClass::kDisconnected,
                    "the TLS handshake with {} did not end in time; does the peer speak TLS?",
                    link_.peer);
    }
  }
}

Result<TlsStream::Step> TlsStream::handshake_step() {
  const std::lock_guard lock(mutex_);
  ERR_clear_error();
  const int code = SSL_do_handshake(ssl_.get());
  if (code == 1) return Step{};
  auto step = conclude(code, kHandshaking);
  if (!step) return fail(handshake_error(std::move(step.error())));
  return step;
}

// REQUIRES: mutex_ is held, and the attempt was the last OpenSSL call of this thread.
Result<TlsStream::Step> TlsStream::conclude(int code, const char* doing) {
  const int verdict = SSL_get_error(ssl_.get(), code);
  if (verdict == SSL_ERROR_WANT_READ) return Step{0, POLLIN};
  if (verdict == SSL_ERROR_WANT_WRITE) return Step{0, POLLOUT};
  Error error = attempt_error(verdict, doing);
  if (down_) {
    error = {ErrorClass::kDisconnected,
             fmt::format("the connection to {} was shut down on this side", link_.peer)};
  }
  if (verdict == SSL_ERROR_SSL) dead_ = error;  // the other thread gets this same answer
  return fail(std::move(error));
}

Error TlsStream::attempt_error(int verdict, const char* doing) {
  if (verdict == SSL_ERROR_ZERO_RETURN) return link_.closed_error();
  const unsigned long oldest = ERR_peek_error();
  const int reason = ERR_GET_REASON(oldest);
  const std::string text = openssl_reason();
  if (verdict == SSL_ERROR_SYSCALL || oldest == 0) {
    return {ErrorClass::kDisconnected,
            fmt::format("{} {}: {}", doing, link_.peer,
                        socket_.code != 0 ? errno_text(socket_.code) : "the connection ended")};
  }
  if (reason > kAlertReasonBase && reason <= kAlertReasonBase + 255) {
    return alert_error(reason - kAlertReasonBase, link_.peer);
  }
  if (reason == SSL_R_UNEXPECTED_EOF_WHILE_READING) {
    return {ErrorClass::kDisconnected,
            fmt::format("the connection to {} was cut: it ended without the closing TLS record",
                        link_.peer)};
  }
  if (reason == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE) {
    return {ErrorClass::kPolicy,
            fmt::format("the peer {} presented no certificate; it needs one issued by the CA in {}",
                        link_.peer, state_->ca_path)};
  }
  return {ErrorClass::kMalformed, fmt::format("TLS error {} {}: {}", doing, link_.peer, text)};
}

// In a handshake there is more to say: whose certificate was wrong, or that the peer has no TLS.
Error TlsStream::handshake_error(Error error) {
  if (report_.code != X509_V_OK) {
    return verify_error(report_, "the certificate of " + link_.peer, expected_name_,
                        state_->ca_path);
  }
  if (!socket_.opening_is_tls()) {
    std::string opening;
    for (std::size_t i = 0; i < socket_.heard; ++i) {
      opening += fmt::format("{}{:02x}", i == 0 ? "" : " ", socket_.opening[i]);
    }
    return {
        ErrorClass::kPolicy,
        fmt::format("the peer {} speaks plain text where TLS is required (its first bytes are {})",
                    link_.peer, opening)};
  }
  if (socket_.ended && error.cls == ErrorClass::kDisconnected) {
    error.detail = fmt::format(
        "the peer {} closed the connection in the TLS handshake; does it speak TLS?", link_.peer);
  }
  return error;
}

// The alert that says why lies in the socket. Closing with unread bytes would reset the connection
// and could take the alert away from the peer, so read until the peer closes, for a moment.
void TlsStream::linger() {
  ::shutdown(link_.fd.get(), SHUT_WR);
  const Deadline deadline = Deadline::after(kLingerMax);
  std::array<std::byte, 4096> sink{};
  while (wait_for(link_.fd.get(), POLLIN, link_.cancel, deadline) == Wake::kReady) {
    if (::recv(link_.fd.get(), sink.data(), sink.size(), MSG_DONTWAIT) <= 0) return;
    if (deadline.remaining() == Millis{0}) return;
  }
}

Result<TlsStream::Step> TlsStream::read_step(MutableBytes out) {
  const std::lock_guard lock(mutex_);
  if (dead_) return fail(*dead_);
  ERR_clear_error();
  socket_.code = 0;
  std::size_t got = 0;
  const int code = SSL_read_ex(ssl_.get(), out.data(), out.size(), &got);
  if (code == 1) return Step{got, 0};
  return conclude(code, kReading);
}

Result<TlsStream::Step> TlsStream::write_step(ByteView bytes) {
  const std::lock_guard lock(mutex_);
  if (dead_) return fail(*dead_);
  ERR_clear_error();
  socket_.code = 0;
  if (key_bytes_ >= key_bytes_max_ &&
      SSL_key_update(ssl_.get(), SSL_KEY_UPDATE_NOT_REQUESTED) == 1) {
    key_bytes_ = 0;
  }
  std::size_t sent = 0;
  const int code = SSL_write_ex(ssl_.get(), bytes.data(), bytes.size(), &sent);
  if (code == 1) {
    key_bytes_ += sent;
    return Step{sent, 0};
  }
  auto step = conclude(code, kWriting);
  if (step || dead_ || down_) return step;
  // The socket is gone. The peer may have said why before it closed: an alert is waiting to be
  // read.
  std::byte sink{};
  std::size_t got = 0;
  ERR_clear_error();
  const int peeked = SSL_peek_ex(ssl_.get(), &sink, 1, &got);
  if (peeked != 1 && SSL_get_error(ssl_.get(), peeked) == SSL_ERROR_SSL) {
    Error why = attempt_error(SSL_ERROR_SSL, kReading);
    if (why.cls != ErrorClass::kDisconnected) {
      dead_ = why;
      return fail(std::move(why));
    }
  }
  ERR_clear_error();
  return step;
}

Result<TlsStream::Step> TlsStream::close_step() {
  const std::lock_guard lock(mutex_);
  if (dead_) return fail(*dead_);
  ERR_clear_error();
  socket_.code = 0;
  const int code = SSL_shutdown(ssl_.get());
  if (code >= 0) return Step{};  // 0: sent, and the peer's own is not here yet
  return conclude(code, kWriting);
}

Result<std::size_t> TlsStream::read_some(MutableBytes out) {
  SEALIFT_ASSERT(!out.empty());
  const Deadline deadline = Deadline::after(link_.idle_timeout);
  for (;;) {
    if (link_.cancel.cancelled()) return fail(link_.cancelled_error(kReading));
    SEALIFT_TRY(const Step step, read_step(out));
    if (step.wait == 0) return step.bytes;
    SEALIFT_CHECK(link_.wait(step.wait, deadline, kReading));
  }
}

Result<void> TlsStream::write_parts(std::span<const ByteView> parts) {
  RecordCutter cutter(parts);
  Deadline deadline = Deadline::after(link_.idle_timeout);
  for (ByteView record = cutter.next(); !record.empty(); record = cutter.next()) {
    while (!record.empty()) {
      if (link_.cancel.cancelled()) return fail(link_.cancelled_error(kWriting));
      SEALIFT_TRY(const Step step, write_step(record));
      record = record.subspan(step.bytes);
      if (step.wait == 0) {
        deadline = Deadline::after(link_.idle_timeout);
      } else {
        SEALIFT_CHECK(link_.wait(step.wait, deadline, kWriting));
      }
    }
  }
  return {};
}

Result<void> TlsStream::end_writes() {
  const Deadline deadline = Deadline::after(link_.idle_timeout);
  for (;;) {
    if (link_.cancel.cancelled()) return fail(link_.cancelled_error(kWriting));
    SEALIFT_TRY(const Step step, close_step());
    if (step.wait == 0) break;
    SEALIFT_CHECK(link_.wait(step.wait, deadline, kWriting));
  }
  ::shutdown(link_.fd.get(), SHUT_WR);
  return {};
}

std::optional<SharedSecret> TlsStream::shared_secret(const std::string& label) {
  const std::lock_guard lock(mutex_);
  SharedSecret secret{};
  ERR_clear_error();
  const int made =
      SSL_export_keying_material(ssl_.get(), reinterpret_cast<unsigned char*>(secret.data()),
                                 secret.size(), label.data(), label.size(), nullptr, 0, 0);
  ERR_clear_error();
  return made == 1 ? std::optional(secret) : std::nullopt;
}

void TlsStream::shutdown() {
  down_ = true;
  {
    const std::lock_guard lock(mutex_);
    ERR_clear_error();
    if (!dead_ && SSL_get_shutdown(ssl_.get()) == 0) SSL_shutdown(ssl_.get());  // best effort
    ERR_clear_error();
  }
  ::shutdown(link_.fd.get(), SHUT_RDWR);
}

}  // namespace

Result<std::unique_ptr<Stream>> start_tls(Link link, const TlsContext& context,
                                          const TlsHandshake& handshake) {
  auto stream =
      std::make_unique<TlsStream>(std::move(link), context.state(), handshake.key_bytes_max);
  SEALIFT_CHECK(stream->handshake(handshake));
  return std::unique_ptr<Stream>(std::move(stream));
}

}  // namespace sealift
