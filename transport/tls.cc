#include "transport/tls.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "transport/openssl_ptr.h"
#include "transport/pem_file.h"
#include "transport/tls_bio.h"
#include "transport/tls_state.h"
#include "transport/tls_verify.h"

namespace sealift {
namespace {

constexpr int kChainDepthMax = 4;  // intermediates between a host and the CA

// The stack borrows its certificates.
struct StackFree {
  void operator()(STACK_OF(X509) * stack) const { sk_X509_free(stack); }
};
using StackPtr = std::unique_ptr<STACK_OF(X509), StackFree>;
using StoreCtxPtr = OpensslPtr<X509_STORE_CTX, &X509_STORE_CTX_free>;

Failure openssl_failure(const char* doing) {
  return fail(ErrorClass::kLocalFault, "{}: {}", doing, openssl_reason());
}

Result<SslCtxPtr> make_ctx(TlsRole role, const TlsOptions& options) {
  ERR_clear_error();
  SslCtxPtr ctx(SSL_CTX_new(role == TlsRole::kClient ? TLS_client_method() : TLS_server_method()));
  if (!ctx) return openssl_failure("making a TLS context");
  if (SSL_CTX_set_min_proto_version(ctx.get(), TLS1_3_VERSION) != 1 ||
      SSL_CTX_set_num_tickets(ctx.get(), 0) != 1) {
    return openssl_failure("setting up TLS 1.3");
  }
  SSL_CTX_set_session_cache_mode(ctx.get(), SSL_SESS_CACHE_OFF);
  SSL_CTX_set_options(ctx.get(), SSL_OP_NO_TICKET | SSL_OP_NO_COMPRESSION);
  SSL_CTX_set_mode(ctx.get(), SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  SSL_CTX_set_verify(ctx.get(), SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT,
                     &verify_certificate);
  SSL_CTX_set_verify_depth(ctx.get(), kChainDepthMax);
  if (options.now) X509_VERIFY_PARAM_set_time(SSL_CTX_get0_param(ctx.get()), *options.now);
  return ctx;
}

Result<void> trust_authority(SSL_CTX* ctx, const std::string& path) {
  SEALIFT_TRY(const auto authorities, read_certificates(path));
  for (const X509Ptr& authority : authorities) {
    if (X509_check_ca(authority.get()) == 0) {
      return fail(ErrorClass::kPolicy, "the file {} holds a certificate that is not a CA's", path);
    }
    if (X509_STORE_add_cert(SSL_CTX_get_cert_store(ctx), authority.get()) != 1) {
      return openssl_failure("adding a CA certificate");
    }
  }
  return {};
}

// The peers will make the same checks; better this host says it at start than each of them later.
Result<void> check_own_chain(SSL_CTX* ctx, const std::vector<X509Ptr>& chain, TlsRole role,
                             const TlsOptions& options, const std::string& dir) {
  const StoreCtxPtr store(X509_STORE_CTX_new());
  const StackPtr others(sk_X509_new_null());
  if (!store || !others) return openssl_failure("checking a certificate");
  for (std::size_t i = 1; i < chain.size(); ++i) sk_X509_push(others.get(), chain[i].get());
  X509* host = chain.front().get();
  if (X509_STORE_CTX_init(store.get(), SSL_CTX_get_cert_store(ctx), host, others.get()) != 1) {
    return openssl_failure("checking a certificate");
  }
  if (options.now) X509_STORE_CTX_set_time(store.get(), 0, *options.now);
  VerifyReport report;
  report.peer_role = role;
  const int verdict = X509_verify_cert(store.get());
  if (verdict == 1 && !allows_role(host, role)) {
    X509_STORE_CTX_set_error(store.get(), X509_V_ERR_INVALID_PURPOSE);
    X509_STORE_CTX_set_current_cert(store.get(), host);
  } else if (verdict == 1) {
    return {};
  }
  note_objection(report, store.get());
  ERR_clear_error();
  return fail(
      verify_error(report, "this host's certificate " + dir + "/host.pem", "", dir + "/ca.pem"));
}

Result<void> use_host_certificate(SSL_CTX* ctx, const std::string& dir, TlsRole role,
                                  const TlsOptions& options) {
  const std::string certificate_path = dir + "/host.pem";
  const std::string key_path = dir + "/host.key";
  SEALIFT_TRY(const auto chain, read_certificates(certificate_path));
  SEALIFT_TRY(const KeyPtr key, read_private_key(key_path));
  ERR_clear_error();
  if (X509_check_private_key(chain.front().get(), key.get()) != 1) {
    ERR_clear_error();
    return fail(ErrorClass::kPolicy, "the private key {} does not match the certificate {}",
                key_path, certificate_path);
  }
  SEALIFT_CHECK(check_own_chain(ctx, chain, role, options, dir));
  if (!options.present_certificate) return {};
  if (SSL_CTX_use_certificate(ctx, chain.front().get()) != 1 ||
      SSL_CTX_use_PrivateKey(ctx, key.get()) != 1) {
    return fail(ErrorClass::kPolicy, "the certificate {} cannot be used: {}", certificate_path,
                openssl_reason());
  }
  for (std::size_t i = 1; i < chain.size(); ++i) {
    if (SSL_CTX_add1_chain_cert(ctx, chain[i].get()) != 1) {
      return openssl_failure("adding an intermediate certificate");
    }
  }
  return {};
}

}  // namespace

Result<TlsContext> TlsContext::load(const std::string& dir, TlsRole role,
                                    const TlsOptions& options) {
  auto state = std::make_shared<TlsState>();
  state->role = role;
  state->ca_path = dir + "/ca.pem";
  SEALIFT_TRY(state->ctx, make_ctx(role, options));
  SEALIFT_CHECK(trust_authority(state->ctx.get(), state->ca_path));
  SEALIFT_CHECK(use_host_certificate(state->ctx.get(), dir, role, options));
  state->bio_method = make_bio_method();
  if (!state->bio_method) return openssl_failure("making a TLS transport");
  return TlsContext(std::move(state));
}

TlsRole TlsContext::role() const { return state_->role; }

}  // namespace sealift
