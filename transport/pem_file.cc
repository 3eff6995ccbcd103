#include "transport/pem_file.h"

#include <fcntl.h>
#include <openssl/pem.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string>
#include <utility>

#include "transport/fd.h"

namespace sealift {
namespace {

constexpr std::size_t kFileBytesMax = 1u << 20;
enum class Secret : bool { kNo, kYes };

int refuse_passphrase(char* /*buffer*/, int /*size*/, int /*writing*/, void* /*data*/) { return 0; }

Result<void> check_file(int fd, const std::string& path, Secret secret) {
  struct stat info{};
  if (::fstat(fd, &info) != 0) {
    return fail(ErrorClass::kUsage, "stat {}: {}", path, errno_text(errno));
  }
  if (!S_ISREG(info.st_mode)) {
    return fail(ErrorClass::kUsage, "{} is not a regular file", path);
  }
  if (secret == Secret::kYes && (info.st_mode & 077) != 0) {
    return fail(ErrorClass::kPolicy,
                "the private key {} can be used by others (permissions {:04o}); it needs 0600",
                path, info.st_mode & 07777);
  }
  return {};
}

Result<std::string> read_file(const std::string& path, Secret secret) {
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file) {
    if (errno == ENOENT) return fail(ErrorClass::kUsage, "the file {} is missing", path);
    return fail(ErrorClass::kUsage, "the file {} cannot be read: {}", path, errno_text(errno));
  }
  SEALIFT_CHECK(check_file(file.get(), path, secret));
  std::string text;
  std::array<char, 4096> part{};
  for (;;) {
    const ssize_t got = ::read(file.get(), part.data(), part.size());
    if (got == 0) return text;
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      return fail(ErrorClass::kUsage, "the file {} cannot be read: {}", path, errno_text(errno));
    }
    text.append(part.data(), static_cast<std::size_t>(got));
    if (text.size() > kFileBytesMax) {
      return fail(ErrorClass::kUsage, "the file {} is longer than {} bytes", path, kFileBytesMax);
    }
  }
}

BioPtr bio_over(const std::string& text) {
  return BioPtr(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

Result<std::string> text_of(const BioPtr& bio, bool written) {
  char* data = nullptr;
  const long bytes = bio ? BIO_get_mem_data(bio.get(), &data) : 0;
  if (!written || bytes <= 0) {
    return fail(ErrorClass::kLocalFault, "encoding PEM: {}", openssl_reason());
  }
  return std::string(data, static_cast<std::size_t>(bytes));
}

}  // namespace

Result<std::vector<X509Ptr>> read_certificates(const std::string& path) {
  SEALIFT_TRY(const std::string text, read_file(path, Secret::kNo));
  const BioPtr bio = bio_over(text);
  std::vector<X509Ptr> found;
  ERR_clear_error();
  while (bio) {
    X509Ptr next(PEM_read_bio_X509(bio.get(), nullptr, &refuse_passphrase, nullptr));
    if (!next) break;
    found.push_back(std::move(next));
  }
  const bool at_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
  const std::string reason = openssl_reason();
  if (found.empty() && at_end) {
    return fail(ErrorClass::kPolicy, "the file {} holds no PEM certificate", path);
  }
  if (!at_end) {
    return fail(ErrorClass::kPolicy, "the file {} holds a damaged certificate: {}", path, reason);
  }
  return found;
}

Result<KeyPtr> read_private_key(const std::string& path) {
  SEALIFT_TRY(std::string text, read_file(path, Secret::kYes));
  const BioPtr bio = bio_over(text);
  ERR_clear_error();
  KeyPtr key(bio ? PEM_read_bio_PrivateKey(bio.get(), nullptr, &refuse_passphrase, nullptr)
                 : nullptr);
  OPENSSL_cleanse(text.data(), text.size());
  if (!key) {
    return fail(ErrorClass::kPolicy, "the file {} holds no usable private key: {}", path,
                openssl_reason());
  }
  return key;
}

Result<std::string> pem_of(const X509* certificate) {
  const BioPtr bio(BIO_new(BIO_s_mem()));
  return text_of(bio, bio && PEM_write_bio_X509(bio.get(), certificate) == 1);
}

Result<std::string> pem_of(const EVP_PKEY* key) {
  const BioPtr bio(BIO_new(BIO_s_secmem()));
  return text_of(bio, bio && PEM_write_bio_PrivateKey(bio.get(), key, nullptr, nullptr, 0, nullptr,
                                                      nullptr) == 1);
}

Result<void> create_file(const std::string& path, const std::string& text, mode_t mode) {
  const UniqueFd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode));
  if (!file) {
    if (errno == EEXIST) {
      return fail(ErrorClass::kUsage, "the file {} exists already and is not overwritten", path);
    }
    return fail(ErrorClass::kUsage, "creating {}: {}", path, errno_text(errno));
  }
  std::size_t done = 0;
  while (done < text.size()) {
    const ssize_t wrote = ::write(file.get(), text.data() + done, text.size() - done);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) {
      const int code = errno;
      ::unlink(path.c_str());
      return fail(ErrorClass::kLocalFault, "writing {}: {}", path, errno_text(code));
    }
    done += static_cast<std::size_t>(wrote);
  }
  if (::fsync(file.get()) != 0) {
    const int code = errno;
    ::unlink(path.c_str());
    return fail(ErrorClass::kLocalFault, "writing {}: {}", path, errno_text(code));
  }
  return {};
}

}  // namespace sealift
