#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <utility>

#include "transport/connect.h"
#include "transport/socket_address.h"

namespace sealift {
namespace {

constexpr int kBacklog = 64;
constexpr Millis kDirectoryLockMax{1'000};

Failure listen_failure(const Address& address, int code) {
  const bool ours = code == EMFILE || code == ENFILE || code == ENOMEM || code == ENOBUFS;
  return fail(ours ? ErrorClass::kLocalFault : ErrorClass::kUsage, "listen on {}: {}",
              to_string(address), errno_text(code));
}

// Two processes that start together must not each find the other's file stale, so the directory is
// locked from the first look at the file until somebody listens on it.
Result<UniqueFd> lock_directory(const Address& address) {
  const std::size_t slash = address.path.rfind('/');
  const std::string dir = slash == std::string::npos ? "." : address.path.substr(0, slash + 1);
  UniqueFd fd(::open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) return listen_failure(address, errno);
  const Deadline deadline = Deadline::after(kDirectoryLockMax);
  const CancelToken nobody;
  while (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK && errno != EINTR) return listen_failure(address, errno);
    if (deadline.remaining() == Millis{0}) {
      return fail(ErrorClass::kLocalFault, "listen on {}: another process keeps {} locked",
                  to_string(address), dir);
    }
    wait_for(-1, 0, nobody, Deadline::after(Millis{10}));
  }
  return fd;
}

Result<void> remove_stale(const Address& address, const SocketAddress& name) {
  struct stat info{};
  if (::lstat(address.path.c_str(), &info) != 0) {
    if (errno == ENOENT) return {};
    return listen_failure(address, errno);
  }
  if (!S_ISSOCK(info.st_mode)) {
    return fail(ErrorClass::kUsage, "listen on {}: the file exists and is not a socket",
                to_string(address));
  }
  SEALIFT_TRY(const UniqueFd probe, make_socket(AF_UNIX));
  const int code = ::connect(probe.get(), name.get(), name.bytes) == 0 ? 0 : errno;
  if (code != ECONNREFUSED) {
    return fail(ErrorClass::kUsage, "listen on {}: another process listens there already",
                to_string(address));
  }
  if (::unlink(address.path.c_str()) != 0) return listen_failure(address, errno);
  return {};
}

Result<void> bind_and_listen(int fd, const Address& address, const SocketAddress& name) {
  if (address.kind == Address::Kind::kTcp) {
    const int on = 1;
    static_cast<void>(::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on));
  } else if (::fchmod(fd, 0600) != 0) {  // bind() gives the file this mode, with no moment between
    return listen_failure(address, errno);
  }
  if (::bind(fd, name.get(), name.bytes) != 0) return listen_failure(address, errno);
  if (::listen(fd, kBacklog) == 0) return {};
  const int code = errno;
  if (address.kind == Address::Kind::kUnix) ::unlink(address.path.c_str());
  return listen_failure(address, code);
}

}  // namespace

Result<Listener> Listener::bind(const Address& address) {
  SEALIFT_TRY(const auto names, resolve(address, Purpose::kListen));
  const SocketAddress& name = names.front();
  SEALIFT_TRY(UniqueFd fd, make_socket(name.family()));
  if (address.kind == Address::Kind::kTcp) {
    SEALIFT_CHECK(bind_and_listen(fd.get(), address, name));
    SEALIFT_TRY(const Address bound, local_address(fd.get()));
    return Listener(std::move(fd), bound);
  }
  SEALIFT_TRY(const UniqueFd lock, lock_directory(address));
  SEALIFT_CHECK(remove_stale(address, name));
  SEALIFT_CHECK(bind_and_listen(fd.get(), address, name));
  Listener listener(std::move(fd), address);
  SEALIFT_CHECK(listener.remember_file());
  return listener;
}

Listener::Listener(UniqueFd fd, Address address)
    : fd_(std::move(fd)), address_(std::move(address)) {}

Listener::Listener(Listener&& other) noexcept
    : fd_(std::move(other.fd_)),
      address_(std::move(other.address_)),
      file_device_(std::exchange(other.file_device_, 0)),
      file_inode_(std::exchange(other.file_inode_, 0)) {}

Result<void> Listener::remember_file() {
  struct stat info{};
  if (::lstat(address_.path.c_str(), &info) != 0) return listen_failure(address_, errno);
  file_device_ = info.st_dev;
  file_inode_ = info.st_ino;
  return {};
}

Listener::~Listener() {
  if (file_inode_ == 0) return;
  struct stat info{};
  const bool ours = ::lstat(address_.path.c_str(), &info) == 0 && info.st_dev == file_device_ &&
                    info.st_ino == file_inode_;
  if (ours) ::unlink(address_.path.c_str());
}

Result<Incoming> Listener::accept(const CancelToken& cancel) {
  for (;;) {
    if (wait_for(fd_.get(), POLLIN, cancel, Deadline::after(kNoTimeout)) == Wake::kCancelled) {
      return fail(ErrorClass::kCancelled, "cancelled while listening on {}", to_string(address_));
    }
    UniqueFd fd(::accept4(fd_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!fd) {
      const int code = errno;
      if (code == EMFILE || code == ENFILE || code == ENOMEM || code == ENOBUFS) {
        return fail(ErrorClass::kLocalFault, "accept on {}: {}", to_string(address_),
                    errno_text(code));
      }
      continue;  // the client went away between poll() and accept(): not our trouble
    }
    tune_connection(fd.get());
    if (address_.kind == Address::Kind::kUnix) {
      return Incoming{std::move(fd), "a client of " + to_string(address_)};
    }
    auto peer = peer_address(fd.get());
    if (!peer) continue;
    return Incoming{std::move(fd), to_string(*peer)};
  }
}

}  // namespace sealift
