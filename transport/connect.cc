#include "transport/connect.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <memory>
#include <string>
#include <utility>

#include "engine/assert.h"
#include "transport/socket_address.h"
#include "transport/tls_stream.h"

namespace sealift {
namespace {

double seconds(Millis timeout) { return std::chrono::duration<double>(timeout).count(); }

Result<UniqueFd> connect_one(const SocketAddress& target, const std::string& name,
                             const ConnectOptions& options, Deadline deadline,
                             const CancelToken& cancel) {
  SEALIFT_TRY(UniqueFd fd, make_socket(target.family()));
  tune_connection(fd.get());
  SEALIFT_CHECK(set_dscp(fd.get(), target.family(), options.dscp));
  int code = ::connect(fd.get(), target.get(), target.bytes) == 0 ? 0 : errno;
  // A unix socket whose queue is full says EAGAIN and gives nothing to wait for.
  while (code == EAGAIN && target.family() == AF_UNIX) {
    const Deadline retry = Deadline::earlier(deadline, Deadline::after(Millis{20}));
    if (wait_for(-1, 0, cancel, retry) == Wake::kCancelled) {
      return fail(ErrorClass::kCancelled, "cancelled while connecting to {}", name);
    }
    if (deadline.remaining() == Millis{0}) break;
    code = ::connect(fd.get(), target.get(), target.bytes) == 0 ? 0 : errno;
  }
  if (code == EINPROGRESS || code == EINTR) {
    switch (wait_for(fd.get(), POLLOUT, cancel, deadline)) {
      case Wake::kReady:
        break;
      case Wake::kCancelled:
        return fail(ErrorClass::kCancelled, "cancelled while connecting to {}", name);
      case Wake::kTimedOut:
        return fail(ErrorClass::kDisconnected, "connect to {}: no answer within {:g} s", name,
                    seconds(options.connect_timeout));
    }
    socklen_t bytes = sizeof code;
    if (::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &code, &bytes) != 0) code = errno;
  }
  if (code != 0) {
    return fail(ErrorClass::kDisconnected, "connect to {}: {}", name, errno_text(code));
  }
  return fd;
}

// Tries each address of a name, with a fair share of the time; the last one's error is the answer.
Result<UniqueFd> connect_any(const Address& address, const ConnectOptions& options,
                             Deadline deadline, const CancelToken& cancel) {
  const std::string name = to_string(address);
  SEALIFT_TRY(const auto targets, resolve(address, Purpose::kConnect));
  for (std::size_t i = 0;; ++i) {
    const auto left = static_cast<Millis::rep>(targets.size() - i);
    const Millis remaining = deadline.remaining();
    const Deadline share =
        remaining == kNoTimeout ? deadline : Deadline::after(Millis{remaining.count() / left});
    auto fd = connect_one(targets[i], name, options, share, cancel);
    if (fd || left == 1 || fd.error().cls == ErrorClass::kCancelled) return fd;
  }
}

}  // namespace

Result<std::unique_ptr<Stream>> connect(const Address& address, const ConnectOptions& options,
                                        const CancelToken& cancel) {
  SEALIFT_ASSERT(options.tls == nullptr || options.tls->role() == TlsRole::kClient);
  const bool tcp = address.kind == Address::Kind::kTcp;
  const std::string& wanted = options.expected_name.empty() ? address.host : options.expected_name;
  if (tcp && address.port == 0) {
    return fail(ErrorClass::kUsage, "{} cannot be connected to: port 0", to_string(address));
  }
  if (options.tls != nullptr && wanted.empty()) {
    return fail(ErrorClass::kUsage, "TLS over {} needs the name the server must prove",
                to_string(address));
  }
  const Deadline deadline = Deadline::after(options.connect_timeout);
  SEALIFT_TRY(UniqueFd fd, connect_any(address, options, deadline, cancel));
  Link link{std::move(fd), to_string(address), options.idle_timeout, cancel};
  if (options.tls == nullptr) return make_socket_stream(std::move(link));
  return start_tls(std::move(link), *options.tls, TlsHandshake{deadline, wanted});
}

Result<std::unique_ptr<Stream>> accept_stream(Incoming incoming, const AcceptOptions& options,
                                              const CancelToken& cancel) {
  SEALIFT_ASSERT(options.tls == nullptr || options.tls->role() == TlsRole::kServer);
  Link link{std::move(incoming.fd), std::move(incoming.peer), options.idle_timeout, cancel};
  if (options.tls == nullptr) return make_socket_stream(std::move(link));
  const Deadline deadline = Deadline::after(options.handshake_timeout);
  return start_tls(std::move(link), *options.tls, TlsHandshake{deadline, {}});
}

}  // namespace sealift
