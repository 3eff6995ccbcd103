#include "transport/tls_bio.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

namespace sealift {
namespace {

static_assert(EAGAIN == EWOULDBLOCK);

BioSocket* socket_of(BIO* bio) { return static_cast<BioSocket*>(BIO_get_data(bio)); }

int on_write(BIO* bio, const char* data, std::size_t bytes, std::size_t* written) {
  BioSocket* socket = socket_of(bio);
  BIO_clear_retry_flags(bio);
  ssize_t sent = 0;
  do {
    sent = ::send(socket->fd, data, bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
  } while (sent < 0 && errno == EINTR);
  if (sent >= 0) {
    *written = static_cast<std::size_t>(sent);
    return 1;
  }
  if (errno == EAGAIN) {
    BIO_set_retry_write(bio);
  } else {
    socket->code = errno;
  }
  return 0;
}

void remember_opening(BioSocket* socket, const char* data, std::size_t bytes) {
  for (std::size_t i = 0; i < bytes && socket->heard < socket->opening.size(); ++i) {
    socket->opening[socket->heard++] = static_cast<std::uint8_t>(data[i]);
  }
}

int on_read(BIO* bio, char* data, std::size_t bytes, std::size_t* got) {
  BioSocket* socket = socket_of(bio);
  BIO_clear_retry_flags(bio);
  ssize_t read = 0;
  do {
    read = ::recv(socket->fd, data, bytes, MSG_DONTWAIT);
  } while (read < 0 && errno == EINTR);
  if (read > 0) {
    *got = static_cast<std::size_t>(read);
    remember_opening(socket, data, *got);
    return 1;
  }
  if (read == 0) {
    socket->ended = true;
  } else if (errno == EAGAIN) {
    BIO_set_retry_read(bio);
  } else {
    socket->code = errno;
  }
  return 0;
}

long on_ctrl(BIO* bio, int command, long /*number*/, void* /*pointer*/) {
  if (command == BIO_CTRL_FLUSH) return 1;
  if (command == BIO_CTRL_EOF) return socket_of(bio)->ended ? 1 : 0;
  return 0;
}

}  // namespace

BioMethodPtr make_bio_method() {
  // A type number of our own is needed for BIO_find_type() only, which nobody calls.
  BioMethodPtr method(BIO_meth_new(BIO_TYPE_SOURCE_SINK, "sealift socket"));
  if (!method || BIO_meth_set_write_ex(method.get(), &on_write) != 1 ||
      BIO_meth_set_read_ex(method.get(), &on_read) != 1 ||
      BIO_meth_set_ctrl(method.get(), &on_ctrl) != 1) {
    return nullptr;
  }
  return method;
}

BioPtr make_bio(const BIO_METHOD* method, BioSocket* socket) {
  BioPtr bio(BIO_new(method));
  if (!bio) return nullptr;
  BIO_set_data(bio.get(), socket);
  BIO_set_init(bio.get(), 1);
  return bio;
}

}  // namespace sealift
