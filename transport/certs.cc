#include "transport/certs.h"

#include <arpa/inet.h>
#include <openssl/rand.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "transport/fd.h"
#include "transport/openssl_ptr.h"
#include "transport/pem_file.h"
#include "transport/tls_verify.h"

namespace sealift {
namespace {

constexpr long kBackdateSeconds = 3600;  // clocks of two hosts differ
constexpr long kDaySeconds = 86'400;
constexpr std::size_t kHostNamesMax = 64;
constexpr int kSerialBits = 127;

struct NewFile {
  std::string path, text;
  mode_t mode;
};

Failure openssl_failure(std::string_view doing) {
  return fail(ErrorClass::kLocalFault, "{}: {}", doing, openssl_reason());
}

// All of them, or none: what was created before a failure is removed.
Result<void> create_files(const std::vector<NewFile>& files) {
  for (std::size_t i = 0; i < files.size(); ++i) {
    auto created = create_file(files[i].path, files[i].text, files[i].mode);
    if (created) continue;
    for (std::size_t done = 0; done < i; ++done) ::unlink(files[done].path.c_str());
    return created;
  }
  return {};
}

Result<void> make_directory(const std::string& dir) {
  if (::mkdir(dir.c_str(), 0700) == 0 || errno == EEXIST) return {};
  return fail(ErrorClass::kUsage, "making the directory {}: {}", dir, errno_text(errno));
}

Result<KeyPtr> make_key() {
  KeyPtr key(EVP_PKEY_Q_keygen(nullptr, nullptr, "EC", "P-256"));
  if (!key) return openssl_failure("making a private key");
  return key;
}

Result<void> add_extension(X509* certificate, X509* issuer, int nid, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  using ExtensionPtr = OpensslPtr<X509_EXTENSION, &X509_EXTENSION_free>;
  const ExtensionPtr extension(X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str()));
  if (!extension || X509_add_ext(certificate, extension.get(), -1) != 1) {
    return openssl_failure(fmt::format("adding {}={} to a certificate", OBJ_nid2sn(nid), value));
  }
  return {};
}

Result<std::string> random_serial(X509* certificate) {
  const BignumPtr serial(BN_new());
  if (!serial || BN_rand(serial.get(), kSerialBits, BN_RAND_TOP_ONE, BN_RAND_BOTTOM_ANY) != 1 ||
      BN_to_ASN1_INTEGER(serial.get(), X509_get_serialNumber(certificate)) == nullptr) {
    return openssl_failure("making a serial number");
  }
  std::array<unsigned char, kSerialBits / 8 + 1> bytes{};
  BN_bn2binpad(serial.get(), bytes.data(), static_cast<int>(bytes.size()));
  std::string text;
  for (const unsigned char byte : std::span(bytes).first(4)) text += fmt::format("{:02x}", byte);
  return text;
}

Result<void> set_subject(X509* certificate, const std::string& common_name) {
  constexpr std::size_t kCommonNameBytesMax = 64;
  const std::string text = common_name.substr(0, kCommonNameBytesMax);
  std::vector<unsigned char> bytes(text.begin(), text.end());
  if (X509_NAME_add_entry_by_NID(X509_get_subject_name(certificate), NID_commonName, MBSTRING_UTF8,
                                 bytes.data(), static_cast<int>(bytes.size()), -1, 0) != 1) {
    return openssl_failure("naming a certificate");
  }
  return {};
}

// A certificate with everything but subject, issuer and extensions.
Result<X509Ptr> blank_certificate(EVP_PKEY* key, int days) {
  X509Ptr certificate(X509_new());
  if (!certificate || X509_set_version(certificate.get(), X509_VERSION_3) != 1 ||
      X509_set_pubkey(certificate.get(), key) != 1 ||
      X509_gmtime_adj(X509_getm_notBefore(certificate.get()), -kBackdateSeconds) == nullptr ||
      X509_gmtime_adj(X509_getm_notAfter(certificate.get()), days * kDaySeconds) == nullptr) {
    return openssl_failure("making a certificate");
  }
  return certificate;
}

bool is_ip(const std::string& name) {
  std::array<unsigned char, sizeof(in6_addr)> bytes{};
  return ::inet_pton(AF_INET, name.c_str(), bytes.data()) == 1 ||
         ::inet_pton(AF_INET6, name.c_str(), bytes.data()) == 1;
}

bool is_dns(const std::string& name) {
  const auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '.' || c == '_';
  };
  return !name.empty() && name.size() <= 253 && name.front() != '.' && name.front() != '-' &&
         std::ranges::all_of(name, allowed);
}

// "DNS:a.example,IP:192.0.2.1"
Result<std::string> subject_names(const std::vector<std::string>& names) {
  if (names.empty() || names.size() > kHostNamesMax) {
    return fail(ErrorClass::kUsage, "a host certificate has 1 to {} names, not {}", kHostNamesMax,
                names.size());
  }
  std::string text;
  for (const std::string& name : names) {
    const bool ip = is_ip(name);
    if (!ip && !is_dns(name)) {
      return fail(ErrorClass::kUsage, "\"{}\" is neither a DNS name nor an IP address",
                  printable(name));
    }
    if (!text.empty()) text += ",";
    text += (ip ? "IP:" : "DNS:") + name;
  }
  return text;
}

struct Authority {
  X509Ptr certificate;
  KeyPtr key;
  std::string pem;
};

Result<Authority> read_authority(const std::string& dir) {
  Authority ca;
  SEALIFT_TRY(auto certificates, read_certificates(dir + "/ca.pem"));
  SEALIFT_TRY(ca.key, read_private_key(dir + "/ca.key"));
  ca.certificate = std::move(certificates.front());
  SEALIFT_TRY(ca.pem, pem_of(ca.certificate.get()));
  ERR_clear_error();
  if (X509_check_private_key(ca.certificate.get(), ca.key.get()) != 1) {
    ERR_clear_error();
    return fail(ErrorClass::kPolicy, "the private key {0}/ca.key does not match {0}/ca.pem", dir);
  }
  return ca;
}

Result<X509Ptr> issue(const Authority& ca, EVP_PKEY* key, const std::vector<std::string>& names,
                      int days) {
  SEALIFT_TRY(const std::string alternative, subject_names(names));
  SEALIFT_TRY(X509Ptr host, blank_certificate(key, days));
  if (ASN1_TIME_compare(X509_get0_notAfter(host.get()), X509_get0_notAfter(ca.certificate.get())) >
      0) {
    return fail(ErrorClass::kUsage, "a certificate of {} days would outlive its CA, which ends {}",
                days, time_text(X509_get0_notAfter(ca.certificate.get())));
  }
  SEALIFT_TRY(const std::string serial, random_serial(host.get()));
  SEALIFT_CHECK(set_subject(host.get(), names.front()));
  if (X509_set_issuer_name(host.get(), X509_get_subject_name(ca.certificate.get())) != 1) {
    return openssl_failure("naming the issuer of a certificate");
  }
  const std::array<std::pair<int, std::string>, 6> extensions{{
      {NID_basic_constraints, "critical,CA:FALSE"},
      {NID_key_usage, "critical,digitalSignature"},
      {NID_ext_key_usage, "serverAuth,clientAuth"},
      {NID_subject_alt_name, alternative},
      {NID_subject_key_identifier, "hash"},
      {NID_authority_key_identifier, "keyid:always"},
  }};
  for (const auto& [nid, value] : extensions) {
    SEALIFT_CHECK(add_extension(host.get(), ca.certificate.get(), nid, value));
  }
  if (X509_sign(host.get(), ca.key.get(), EVP_sha256()) == 0) {
    return openssl_failure("signing a certificate");
  }
  return host;
}

}  // namespace

Result<void> make_ca(const std::string& dir) {
  ERR_clear_error();
  SEALIFT_CHECK(make_directory(dir));
  SEALIFT_TRY(const KeyPtr key, make_key());
  SEALIFT_TRY(const X509Ptr ca, blank_certificate(key.get(), kCaDays));
  SEALIFT_TRY(const std::string serial, random_serial(ca.get()));
  SEALIFT_CHECK(set_subject(ca.get(), "Sealift migration CA " + serial));
  if (X509_set_issuer_name(ca.get(), X509_get_subject_name(ca.get())) != 1) {
    return openssl_failure("naming the issuer of a certificate");
  }
  SEALIFT_CHECK(add_extension(ca.get(), ca.get(), NID_basic_constraints, "critical,CA:TRUE"));
  SEALIFT_CHECK(add_extension(ca.get(), ca.get(), NID_key_usage, "critical,keyCertSign,cRLSign"));
  SEALIFT_CHECK(add_extension(ca.get(), ca.get(), NID_subject_key_identifier, "hash"));
  if (X509_sign(ca.get(), key.get(), EVP_sha256()) == 0) {
    return openssl_failure("signing a certificate");
  }
  SEALIFT_TRY(std::string certificate_pem, pem_of(ca.get()));
  SEALIFT_TRY(std::string key_pem, pem_of(key.get()));
  return create_files({{dir + "/ca.pem", std::move(certificate_pem), 0644},
                       {dir + "/ca.key", std::move(key_pem), 0600}});
}

Result<void> make_host_certificate(const std::string& ca_dir, const std::string& out_dir,
                                   const std::vector<std::string>& names, int days) {
  if (days < 1 || days > kHostDaysMax) {
    return fail(ErrorClass::kUsage, "a host certificate is valid for 1 to {} days, not {}",
                kHostDaysMax, days);
  }
  SEALIFT_TRY(const Authority ca, read_authority(ca_dir));
  SEALIFT_TRY(const KeyPtr key, make_key());
  SEALIFT_TRY(const X509Ptr host, issue(ca, key.get(), names, days));
  SEALIFT_TRY(std::string certificate_pem, pem_of(host.get()));
  SEALIFT_TRY(std::string key_pem, pem_of(key.get()));
  SEALIFT_CHECK(make_directory(out_dir));
  std::vector<NewFile> files{{out_dir + "/host.key", std::move(key_pem), 0600},
                             {out_dir + "/host.pem", std::move(certificate_pem), 0644}};
  if (out_dir != ca_dir) files.push_back({out_dir + "/ca.pem", ca.pem, 0644});
  return create_files(files);
}

}  // namespace sealift
