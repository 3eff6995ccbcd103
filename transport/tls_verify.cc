#include "transport/tls_verify.h"

#include <arpa/inet.h>

#include <array>
#include <string>
#include <utility>

namespace sealift {
namespace {

constexpr int kNamesMax = 16;  // names of a certificate that a message lists
constexpr std::size_t kNameBytesMax = 256;

std::string name_text(const X509_NAME* name) {
  BioPtr out(BIO_new(BIO_s_mem()));
  if (!out || X509_NAME_print_ex(out.get(), name, 0, XN_FLAG_ONELINE & ~ASN1_STRFLGS_ESC_MSB) < 0) {
    return "unreadable name";
  }
  char* data = nullptr;
  const long bytes = BIO_get_mem_data(out.get(), &data);
  return printable(std::string(data, static_cast<std::size_t>(bytes)));
}

std::string ip_text(const ASN1_OCTET_STRING* ip) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  const int bytes = ASN1_STRING_length(ip);
  if (bytes != 4 && bytes != 16) return "unreadable";
  ::inet_ntop(bytes == 4 ? AF_INET : AF_INET6, ASN1_STRING_get0_data(ip), text.data(), text.size());
  return text.data();
}

std::string alternative_names(X509* certificate) {
  using NamesPtr = OpensslPtr<GENERAL_NAMES, &GENERAL_NAMES_free>;
  const NamesPtr names(static_cast<GENERAL_NAMES*>(
      X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr)));
  if (!names) return "no name at all";
  std::string text;
  const int count = sk_GENERAL_NAME_num(names.get());
  for (int i = 0; i < count && i < kNamesMax; ++i) {
    int type = 0;
    const void* value = GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names.get(), i), &type);
    if (type != GEN_DNS && type != GEN_IPADD) continue;
    const auto* string = static_cast<const ASN1_STRING*>(value);
    if (!text.empty()) text += ", ";
    if (type == GEN_IPADD) {
      text += "IP:" + ip_text(string);
    } else {
      std::string dns(static_cast<std::size_t>(ASN1_STRING_length(string)), '\0');
      const unsigned char* data = ASN1_STRING_get0_data(string);
      for (std::size_t at = 0; at < dns.size(); ++at) dns[at] = static_cast<char>(data[at]);
      text += "DNS:" + printable(std::move(dns));
    }
  }
  if (count > kNamesMax) text += ", …";
  return text.empty() ? "no DNS or IP name" : text;
}

const char* usage_of(TlsRole role) {
  return role == TlsRole::kClient ? "client (clientAuth)" : "server (serverAuth)";
}

}  // namespace

std::string printable(std::string text) {
  if (text.size() > kNameBytesMax) text.resize(kNameBytesMax);
  for (char& c : text) {
    if (c < ' ' || c > '~') c = '?';
  }
  return text;
}

std::string time_text(const ASN1_TIME* time) {
  std::tm when{};
  if (time == nullptr || ASN1_TIME_to_tm(time, &when) != 1) return "an unreadable date";
  return fmt::format("{:04}-{:02}-{:02} {:02}:{:02}:{:02} UTC", when.tm_year + 1900,
                     when.tm_mon + 1, when.tm_mday, when.tm_hour, when.tm_min, when.tm_sec);
}

void note_objection(VerifyReport& report, X509_STORE_CTX* store) {
  if (report.code != X509_V_OK) return;  // later ones follow from the first
  report.code = X509_STORE_CTX_get_error(store);
  X509* certificate = X509_STORE_CTX_get_current_cert(store);
  if (certificate == nullptr) return;
  report.subject = name_text(X509_get_subject_name(certificate));
  report.issuer = name_text(X509_get_issuer_name(certificate));
  report.not_before = time_text(X509_get0_notBefore(certificate));
  report.not_after = time_text(X509_get0_notAfter(certificate));
  report.names = alternative_names(certificate);
}

bool allows_role(X509* certificate, TlsRole role) {
  if ((X509_get_extension_flags(certificate) & EXFLAG_XKUSAGE) == 0) return false;
  const unsigned wanted = role == TlsRole::kClient ? XKU_SSL_CLIENT : XKU_SSL_SERVER;
  return (X509_get_extended_key_usage(certificate) & wanted) != 0;
}

int verify_certificate(int ok, X509_STORE_CTX* store) {
  const auto* ssl =
      static_cast<SSL*>(X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx()));
  auto* report = static_cast<VerifyReport*>(SSL_get_app_data(ssl));
  if (ok == 1 && X509_STORE_CTX_get_error_depth(store) == 0 &&
      !allows_role(X509_STORE_CTX_get_current_cert(store), report->peer_role)) {
    X509_STORE_CTX_set_error(store, X509_V_ERR_INVALID_PURPOSE);
    ok = 0;
  }
  if (ok == 0) note_objection(*report, store);
  return ok;
}

Error verify_error(const VerifyReport& report, const std::string& whose, const std::string& wanted,
                   const std::string& ca_path) {
  const std::string subject = fmt::format("{} ({})", whose, report.subject);
  std::string text;
  switch (report.code) {
    case X509_V_ERR_CERT_HAS_EXPIRED:
      text = fmt::format("{} expired on {}", subject, report.not_after);
      break;
    case X509_V_ERR_CERT_NOT_YET_VALID:
      text = fmt::format("{} is valid only from {}; is a clock wrong?", subject, report.not_before);
      break;
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
      text = fmt::format("{} is self-signed, not issued by the CA in {}", subject, ca_path);
      break;
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_CERT_SIGNATURE_FAILURE:
      text = fmt::format("{} was issued by \"{}\", which is not the CA in {}", subject,
                         report.issuer, ca_path);
      break;
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
      text = fmt::format("{} is not valid for the name \"{}\": it names {}", subject, wanted,
                         report.names);
      break;
    case X509_V_ERR_INVALID_PURPOSE:
      text = fmt::format("{} does not allow use as a TLS {}", subject, usage_of(report.peer_role));
      break;
    default:
      text = fmt::format("{} is refused: {}", subject, X509_verify_cert_error_string(report.code));
  }
  return {ErrorClass::kPolicy, std::move(text)};
}

Error alert_error(int alert, const std::string& peer) {
  const char* text = SSL_alert_desc_string_long(alert);
  switch (alert) {
    case SSL3_AD_NO_CERTIFICATE:
    case TLS13_AD_CERTIFICATE_REQUIRED:
      return {ErrorClass::kPolicy,
              fmt::format("the peer {} requires a certificate and this host presented none "
                          "(TLS alert {})",
                          peer, alert)};
    case SSL_AD_BAD_CERTIFICATE:
    case SSL_AD_UNSUPPORTED_CERTIFICATE:
    case SSL_AD_CERTIFICATE_REVOKED:
    case SSL_AD_CERTIFICATE_EXPIRED:
    case SSL_AD_CERTIFICATE_UNKNOWN:
    case SSL_AD_UNKNOWN_CA:
    case SSL_AD_ACCESS_DENIED:
    case SSL_AD_DECRYPT_ERROR:
      return {ErrorClass::kPolicy,
              fmt::format("the peer {} refused this host's certificate: {} (TLS alert {})", peer,
                          text, alert)};
    default:
      return {ErrorClass::kPeerFault,
              fmt::format("the peer {} ended TLS: {} (TLS alert {})", peer, text, alert)};
  }
}

}  // namespace sealift
