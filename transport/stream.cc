#include "transport/stream.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "engine/assert.h"

namespace sealift {
namespace {

constexpr const char* kReading = "reading from";
constexpr const char* kWriting = "writing to";
constexpr std::size_t kPartsMax = 64;  // parts handed to the kernel at a time

static_assert(EAGAIN == EWOULDBLOCK);
bool would_block(int code) { return code == EAGAIN; }

class SocketStream final : public Stream {
 public:
  explicit SocketStream(Link link) : link_(std::move(link)) { SEALIFT_ASSERT(bool{link_.fd}); }

  Result<std::size_t> read_some(MutableBytes out) override {
    SEALIFT_ASSERT(!out.empty());
    iovec vec{out.data(), out.size()};
    msghdr message{};
    message.msg_iov = &vec;
    message.msg_iovlen = 1;
    return receive_some(message);
  }

  Result<void> write_parts(std::span<const ByteView> parts) override {
    return move_all(parts, [&](msghdr& message) { return send_some(message); });
  }

  Result<void> read_parts(std::span<const MutableBytes> parts) override {
    return move_all(parts, [&](msghdr& message) { return receive_some(message); });
  }

  Result<void> end_writes() override {
    if (::shutdown(link_.fd.get(), SHUT_WR) != 0) return fail(socket_error(kWriting, errno));
    return {};
  }

  void shutdown() override {
    down_ = true;
    ::shutdown(link_.fd.get(), SHUT_RDWR);
  }

  [[nodiscard]] std::string peer() const override { return link_.peer; }
  [[nodiscard]] std::optional<SharedSecret> shared_secret(const std::string&) override {
    return std::nullopt;
  }

 private:
  // Moves all parts by calls of `move_some`, which says how many bytes it moved.
  template <class Part, class MoveSome>
  static Result<void> move_all(std::span<const Part> parts, MoveSome move_some) {
    std::size_t skip = 0;  // bytes of parts.front() that are moved already
    while (!parts.empty()) {
      std::array<iovec, kPartsMax> vec;  // NOLINT(cppcoreguidelines-pro-type-member-init)
      std::size_t count = 0;
      for (const Part part : parts.first(std::min(parts.size(), kPartsMax))) {
        const Part rest = count == 0 ? part.subspan(skip) : part;
        // iovec has no const form; sendmsg() only reads through it.
        vec[count++] = {const_cast<std::byte*>(rest.data()), rest.size()};
      }
      msghdr message{};
      message.msg_iov = vec.data();
      message.msg_iovlen = count;
      SEALIFT_TRY(std::size_t moved, move_some(message));
      moved += skip;
      while (!parts.empty() && moved >= parts.front().size()) {
        moved -= parts.front().size();
        parts = parts.subspan(1);
      }
      skip = moved;
    }
    return {};
  }

  // One sendmsg() that moved at least one byte, or none because nothing was left to move.
  Result<std::size_t> send_some(const msghdr& message) {
    const Deadline deadline = Deadline::after(link_.idle_timeout);
    for (;;) {
      if (link_.cancel.cancelled()) return fail(link_.cancelled_error(kWriting));
      const ssize_t sent = ::sendmsg(link_.fd.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent >= 0) return static_cast<std::size_t>(sent);
      if (errno == EINTR) continue;
      if (!would_block(errno)) return fail(socket_error(kWriting, errno));
      SEALIFT_CHECK(link_.wait(POLLOUT, deadline, kWriting));
    }
  }

  // One recvmsg() that moved at least one byte. REQUIRES: there is room for one.
  Result<std::size_t> receive_some(msghdr& message) {
    const Deadline deadline = Deadline::after(link_.idle_timeout);
    for (;;) {
      if (link_.cancel.cancelled()) return fail(link_.cancelled_error(kReading));
      const ssize_t got = ::recvmsg(link_.fd.get(), &message, MSG_DONTWAIT);
      if (got > 0) return static_cast<std::size_t>(got);
      if (got == 0) return fail(down_ ? shut_down_error() : link_.closed_error());
      if (errno == EINTR) continue;
      if (!would_block(errno)) return fail(socket_error(kReading, errno));
      SEALIFT_CHECK(link_.wait(POLLIN, deadline, kReading));
    }
  }

  [[nodiscard]] Error shut_down_error() const {
    return {ErrorClass::kDisconnected,
            fmt::format("the connection to {} was shut down on this side", link_.peer)};
  }

  [[nodiscard]] Error socket_error(const char* doing, int code) const {
    if (down_) return shut_down_error();
    return {ErrorClass::kDisconnected,
            fmt::format("{} {}: {}", doing, link_.peer, errno_text(code))};
  }

  const Link link_;
  std::atomic<bool> down_{false};  // shutdown() was called on this side
};

}  // namespace

Result<void> Stream::read_parts(std::span<const MutableBytes> parts) {
  for (const MutableBytes part : parts) SEALIFT_CHECK(read_exact(part));
  return {};
}

Result<void> Stream::read_exact(MutableBytes out) {
  std::size_t got = 0;
  while (got < out.size()) {
    auto some = read_some(out.subspan(got));
    if (!some) {
      Error error = std::move(some.error());
      if (got > 0) error.detail += fmt::format(" after {} of {} bytes", got, out.size());
      return fail(std::move(error));
    }
    got += *some;
  }
  return {};
}

Result<void> Link::wait(short events, Deadline deadline, const char* doing) const {
  switch (wait_for(fd.get(), events, cancel, deadline)) {
    case Wake::kReady:
      return {};
    case Wake::kCancelled:
      return fail(cancelled_error(doing));
    case Wake::kTimedOut:
      break;
  }
  return fail(ErrorClass::kDisconnected, "{} {}: no byte moved for {:g} s", doing, peer,
              std::chrono::duration<double>(idle_timeout).count());
}

Error Link::cancelled_error(const char* doing) const {
  return {ErrorClass::kCancelled, fmt::format("cancelled while {} {}", doing, peer)};
}

Error Link::closed_error() const {
  return {ErrorClass::kDisconnected, fmt::format("the peer {} closed the connection", peer)};
}

std::unique_ptr<Stream> make_socket_stream(Link link) {
  return std::make_unique<SocketStream>(std::move(link));
}

}  // namespace sealift
