#include "transport/tls_verify.h"

#include <gmock/gmock.h>

#include <string>

#include "transport/pem_file.h"
#include "transport/test_support.h"
#include "transport/tls_state.h"

namespace sealift {
namespace {

using test::must;
using testing::HasSubstr;

// Hosts whose certificates our own tool would not make.
class OddCertificate : public testing::Test {
 protected:
  void SetUp() override {
    must(make_ca(dir_.path("ca")));
    must(make_host_certificate(dir_.path("ca"), dir_.path("a"), {"127.0.0.1"}, 30));
  }

  // The certificate of host a without its extended key usage, signed by the CA again.
  X509Ptr without_usage() {
    X509Ptr odd = std::move(must(read_certificates(dir_.path("a/host.pem"))).front());
    const int at = X509_get_ext_by_NID(odd.get(), NID_ext_key_usage, -1);
    const OpensslPtr<X509_EXTENSION, &X509_EXTENSION_free> gone(X509_delete_ext(odd.get(), at));
    const KeyPtr key = must(read_private_key(dir_.path("ca/ca.key")));
    if (X509_sign(odd.get(), key.get(), EVP_sha256()) == 0) std::abort();
    // Read again: what OpenSSL found out about the extensions is kept with the object.
    const std::string pem = must(pem_of(odd.get()));
    must(create_file(dir_.path("odd.pem"), pem, 0600));
    return std::move(must(read_certificates(dir_.path("odd.pem"))).front());
  }

  // The certificate of host a, with itself as its issuer.
  X509Ptr self_signed() {
    X509Ptr odd = std::move(must(read_certificates(dir_.path("a/host.pem"))).front());
    const KeyPtr key = must(read_private_key(dir_.path("a/host.key")));
    const int at = X509_get_ext_by_NID(odd.get(), NID_authority_key_identifier, -1);
    const OpensslPtr<X509_EXTENSION, &X509_EXTENSION_free> gone(X509_delete_ext(odd.get(), at));
    if (X509_set_issuer_name(odd.get(), X509_get_subject_name(odd.get())) != 1 ||
        X509_sign(odd.get(), key.get(), EVP_sha256()) == 0) {
      std::abort();
    }
    const std::string pem = must(pem_of(odd.get()));
    must(create_file(dir_.path("self.pem"), pem, 0600));
    return std::move(must(read_certificates(dir_.path("self.pem"))).front());
  }

  // What each side says when host a presents `odd` as `role`.
  test::Ends meet(X509* odd, TlsRole role) {
    const TlsContext client = must(TlsContext::load(dir_.path("a"), TlsRole::kClient));
    const TlsContext server = must(TlsContext::load(dir_.path("a"), TlsRole::kServer));
    const TlsContext& liar = role == TlsRole::kClient ? client : server;
    if (SSL_CTX_use_certificate(liar.state()->ctx.get(), odd) != 1) std::abort();
    test::PairOptions options;
    options.client_tls = &client;
    options.server_tls = &server;
    return test::try_connect(test::loopback(), options);
  }

  const test::TempDir dir_;
};

TEST_F(OddCertificate, WithoutExtendedKeyUsageNoneIsAssumed) {
  const X509Ptr odd = without_usage();
  const test::Ends by_client = meet(odd.get(), TlsRole::kClient);
  ASSERT_FALSE(by_client.server);
  EXPECT_EQ(by_client.server.error().cls, ErrorClass::kPolicy);
  EXPECT_THAT(by_client.server.error().detail,
              HasSubstr("does not allow use as a TLS client (clientAuth)"));
  const test::Ends by_server = meet(odd.get(), TlsRole::kServer);
  ASSERT_FALSE(by_server.client);
  EXPECT_EQ(by_server.client.error().cls, ErrorClass::kPolicy);
  EXPECT_THAT(by_server.client.error().detail,
              HasSubstr("does not allow use as a TLS server (serverAuth)"));

  std::filesystem::rename(dir_.path("odd.pem"), dir_.path("a/host.pem"));
  const auto own = TlsContext::load(dir_.path("a"), TlsRole::kServer);
  ASSERT_FALSE(own);
  EXPECT_EQ(own.error().cls, ErrorClass::kPolicy);
  EXPECT_THAT(own.error().detail, HasSubstr("does not allow use as a TLS server (serverAuth)"));
}

TEST_F(OddCertificate, SelfSignedIsSaidAsSuch) {
  const X509Ptr odd = self_signed();
  const test::Ends ends = meet(odd.get(), TlsRole::kServer);
  ASSERT_FALSE(ends.client);
  EXPECT_EQ(ends.client.error().cls, ErrorClass::kPolicy);
  EXPECT_THAT(ends.client.error().detail, HasSubstr("is self-signed, not issued by the CA in"));
}

TEST(AlertError, CertificateAlertsArePolicyAndOthersThePeersFault) {
  EXPECT_EQ(alert_error(116, "p").cls, ErrorClass::kPolicy);
  EXPECT_EQ(alert_error(48, "p").cls, ErrorClass::kPolicy);
  EXPECT_EQ(alert_error(80, "p").cls, ErrorClass::kPeerFault);
  EXPECT_EQ(alert_error(80, "p").detail, "the peer p ended TLS: internal error (TLS alert 80)");
}

TEST(Printable, ControlBytesOfAPeerDoNotReachTheTerminal) {
  EXPECT_EQ(printable("a\x1b[31mb\n\xff"), "a?[31mb??");
  EXPECT_EQ(printable(std::string(10'000, 'x')).size(), 256u);
}

}  // namespace
}  // namespace sealift
