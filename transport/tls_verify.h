// The verdict on a certificate, in one sentence with the names and dates in it.
//
// Owner: a VerifyReport lives in the TLS stream it reports on. Threads: one, the handshake's.
// Failure: nothing here fails; describing a failure is its purpose. Peer text is made printable.
#pragma once

#include <ctime>
#include <string>

#include "engine/result.h"
#include "transport/openssl_ptr.h"
#include "transport/tls.h"

namespace sealift {

// The first objection OpenSSL (or our own rule) raised against a chain.
struct VerifyReport {
  long code = X509_V_OK;
  TlsRole peer_role = TlsRole::kClient;  // what the owner of the certificate wants to be
  std::string subject, issuer;
  std::string not_before, not_after;
  std::string names;  // "DNS:a, IP:192.0.2.1"
};

// Keeps in `report` what `store` says about the certificate it stands at.
void note_objection(VerifyReport& report, X509_STORE_CTX* store);

// A certificate needs the usage of its side spelled out; OpenSSL accepts one that names no usage.
bool allows_role(X509* certificate, TlsRole role);

// SSL verify callback. REQUIRES: SSL_set_app_data(ssl, VerifyReport*).
int verify_certificate(int ok, X509_STORE_CTX* store);

// `whose`: "the certificate of tcp:…", `wanted`: the name the client looked for.
Error verify_error(const VerifyReport& report, const std::string& whose, const std::string& wanted,
                   const std::string& ca_path);

// The peer ended TLS with `alert`: what that says about this host.
Error alert_error(int alert, const std::string& peer);

std::string time_text(const ASN1_TIME* time);
std::string printable(std::string text);

}  // namespace sealift
