#include "vmm_glue/sev/rsa_key.h"

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>
#include <openssl/rsa.h>

#include <array>
#include <utility>

#include "engine/assert.h"
#include "vmm_glue/sev/openssl_ptr.h"

namespace sealift::sev {
namespace {

unsigned char* octets(std::byte* bytes) { return reinterpret_cast<unsigned char*>(bytes); }
const unsigned char* octets(const std::byte* bytes) {
  return reinterpret_cast<const unsigned char*>(bytes);
}

const EVP_MD* hash_of(std::size_t bits) {
  return bits == kRsaSmallBits ? EVP_sha256() : EVP_sha384();
}

std::shared_ptr<evp_pkey_st> make_public(ByteView modulus) {
  struct FreeBuilder {
    void operator()(OSSL_PARAM_BLD* object) const { OSSL_PARAM_BLD_free(object); }
    void operator()(OSSL_PARAM* object) const { OSSL_PARAM_free(object); }
    void operator()(EVP_PKEY_CTX* object) const { EVP_PKEY_CTX_free(object); }
  };
  const OpensslPtr<bignum_st> number(
      BN_bin2bn(octets(modulus.data()), static_cast<int>(modulus.size()), nullptr));
  const std::unique_ptr<OSSL_PARAM_BLD, FreeBuilder> builder(OSSL_PARAM_BLD_new());
  SEALIFT_ASSERT(number != nullptr && builder != nullptr);
  SEALIFT_ASSERT(OSSL_PARAM_BLD_push_BN(builder.get(), OSSL_PKEY_PARAM_RSA_N, number.get()) == 1);
  SEALIFT_ASSERT(OSSL_PARAM_BLD_push_uint(builder.get(), OSSL_PKEY_PARAM_RSA_E, kRsaExponent) == 1);
  const std::unique_ptr<OSSL_PARAM, FreeBuilder> params(OSSL_PARAM_BLD_to_param(builder.get()));
  const std::unique_ptr<EVP_PKEY_CTX, FreeBuilder> context(
      EVP_PKEY_CTX_new_from_name(nullptr, "RSA", nullptr));
  SEALIFT_ASSERT(params != nullptr && context != nullptr);
  SEALIFT_ASSERT(EVP_PKEY_fromdata_init(context.get()) == 1);
  EVP_PKEY* key = nullptr;
  SEALIFT_ASSERT(EVP_PKEY_fromdata(context.get(), &key, EVP_PKEY_PUBLIC_KEY, params.get()) == 1);
  return {key, OpensslFree{}};
}

// `context` belongs to the message digest it was made with.
void use_pss(EVP_PKEY_CTX* context) {
  SEALIFT_ASSERT(EVP_PKEY_CTX_set_rsa_padding(context, RSA_PKCS1_PSS_PADDING) == 1);
  SEALIFT_ASSERT(EVP_PKEY_CTX_set_rsa_pss_saltlen(context, RSA_PSS_SALTLEN_DIGEST) == 1);
}

}  // namespace

RsaPublicKey::RsaPublicKey(Bytes modulus, std::shared_ptr<evp_pkey_st> key)
    : modulus_(std::move(modulus)), key_(std::move(key)) {}

std::optional<RsaPublicKey> RsaPublicKey::from_modulus(ByteView modulus) {
  const std::size_t bits = modulus.size() * 8;
  if (bits != kRsaSmallBits && bits != kRsaLargeBits) return std::nullopt;
  const bool full_length = (modulus.front() & std::byte{0x80}) != std::byte{0};
  const bool odd = (modulus.back() & std::byte{1}) != std::byte{0};
  if (!full_length || !odd) return std::nullopt;
  return RsaPublicKey(Bytes(modulus.begin(), modulus.end()), make_public(modulus));
}

bool RsaPublicKey::verify_pss(ByteView message, ByteView signature) const {
  if (signature.size() != modulus_.size()) return false;
  const OpensslPtr<evp_md_ctx_st> context(EVP_MD_CTX_new());
  EVP_PKEY_CTX* padding = nullptr;  // owned by `context`
  SEALIFT_ASSERT(context != nullptr);
  SEALIFT_ASSERT(
      EVP_DigestVerifyInit(context.get(), &padding, hash_of(bits()), nullptr, key_.get()) == 1);
  use_pss(padding);
  return EVP_DigestVerify(context.get(), octets(signature.data()), signature.size(),
                          octets(message.data()), message.size()) == 1;
}

RsaKey RsaKey::generate(std::size_t bits) {
  SEALIFT_ASSERT(bits == kRsaSmallBits || bits == kRsaLargeBits);
  std::shared_ptr<evp_pkey_st> key(EVP_RSA_gen(static_cast<unsigned int>(bits)), OpensslFree{});
  SEALIFT_ASSERT(key != nullptr);
  BIGNUM* raw = nullptr;
  SEALIFT_ASSERT(EVP_PKEY_get_bn_param(key.get(), OSSL_PKEY_PARAM_RSA_N, &raw) == 1);
  const OpensslPtr<bignum_st> number(raw);
  Bytes modulus(bits / 8);
  const int bytes = static_cast<int>(modulus.size());
  SEALIFT_ASSERT(BN_bn2binpad(number.get(), octets(modulus.data()), bytes) == bytes);
  return RsaKey(RsaPublicKey(std::move(modulus), std::move(key)));
}

Bytes RsaKey::sign_pss(ByteView message) const {
  const OpensslPtr<evp_md_ctx_st> context(EVP_MD_CTX_new());
  EVP_PKEY_CTX* padding = nullptr;  // owned by `context`
  SEALIFT_ASSERT(context != nullptr);
  SEALIFT_ASSERT(EVP_DigestSignInit(context.get(), &padding, hash_of(public_.bits()), nullptr,
                                    public_.key_.get()) == 1);
  use_pss(padding);
  Bytes out(public_.modulus().size());
  std::size_t size = out.size();
  SEALIFT_ASSERT(EVP_DigestSign(context.get(), octets(out.data()), &size, octets(message.data()),
                                message.size()) == 1);
  SEALIFT_ASSERT(size == out.size());
  return out;
}

}  // namespace sealift::sev
