#include "vmm_glue/sev/ec_key.h"

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/ecdsa.h>
#include <openssl/evp.h>
#include <openssl/obj_mac.h>
#include <openssl/param_build.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "engine/assert.h"
#include "vmm_glue/sev/openssl_ptr.h"

namespace sealift::sev {

void OpensslFree::operator()(bignum_st* object) const { BN_clear_free(object); }
void OpensslFree::operator()(ec_group_st* object) const { EC_GROUP_free(object); }
void OpensslFree::operator()(ec_point_st* object) const { EC_POINT_free(object); }
void OpensslFree::operator()(evp_cipher_ctx_st* object) const { EVP_CIPHER_CTX_free(object); }
void OpensslFree::operator()(evp_mac_ctx_st* object) const { EVP_MAC_CTX_free(object); }
void OpensslFree::operator()(evp_md_ctx_st* object) const { EVP_MD_CTX_free(object); }
void OpensslFree::operator()(evp_pkey_st* object) const { EVP_PKEY_free(object); }

namespace {

constexpr std::size_t kOctetPointBytes = 1 + 2 * kEcBytes;  // 0x04, x, y
using OctetPoint = std::array<unsigned char, kOctetPointBytes>;

unsigned char* octets(std::byte* bytes) { return reinterpret_cast<unsigned char*>(bytes); }
const unsigned char* octets(const std::byte* bytes) {
  return reinterpret_cast<const unsigned char*>(bytes);
}

OctetPoint encode_point(const EcPoint& point) {
  OctetPoint out{};
  out[0] = POINT_CONVERSION_UNCOMPRESSED;
  std::copy_n(octets(point.x.data()), kEcBytes, out.begin() + 1);
  std::copy_n(octets(point.y.data()), kEcBytes, out.begin() + 1 + kEcBytes);
  return out;
}

OpensslPtr<bignum_st> to_bignum(const EcNumber& number) {
  OpensslPtr<bignum_st> out(BN_bin2bn(octets(number.data()), kEcBytes, nullptr));
  SEALIFT_ASSERT(out != nullptr);
  return out;
}

// Null when OpenSSL refuses the point: it is not on the curve.
std::shared_ptr<evp_pkey_st> make_pkey(const EcPoint& point, const BIGNUM* scalar) {
  struct FreeBuilder {
    void operator()(OSSL_PARAM_BLD* object) const { OSSL_PARAM_BLD_free(object); }
    void operator()(OSSL_PARAM* object) const { OSSL_PARAM_free(object); }
    void operator()(EVP_PKEY_CTX* object) const { EVP_PKEY_CTX_free(object); }
  };
  const OctetPoint encoded = encode_point(point);
  std::unique_ptr<OSSL_PARAM_BLD, FreeBuilder> builder(OSSL_PARAM_BLD_new());
  SEALIFT_ASSERT(builder != nullptr);
  SEALIFT_ASSERT(OSSL_PARAM_BLD_push_utf8_string(builder.get(), OSSL_PKEY_PARAM_GROUP_NAME,
                                                 SN_secp384r1, 0) == 1);
  SEALIFT_ASSERT(OSSL_PARAM_BLD_push_octet_string(builder.get(), OSSL_PKEY_PARAM_PUB_KEY,
                                                  encoded.data(), encoded.size()) == 1);
  if (scalar != nullptr) {
    SEALIFT_ASSERT(OSSL_PARAM_BLD_push_BN(builder.get(), OSSL_PKEY_PARAM_PRIV_KEY, scalar) == 1);
  }
  std::unique_ptr<OSSL_PARAM, FreeBuilder> params(OSSL_PARAM_BLD_to_param(builder.get()));
  std::unique_ptr<EVP_PKEY_CTX, FreeBuilder> context(
      EVP_PKEY_CTX_new_from_name(nullptr, "EC", nullptr));
  SEALIFT_ASSERT(params != nullptr);
  SEALIFT_ASSERT(context != nullptr);
  SEALIFT_ASSERT(EVP_PKEY_fromdata_init(context.get()) == 1);
  EVP_PKEY* key = nullptr;
  const int selection = scalar != nullptr ? EVP_PKEY_KEYPAIR : EVP_PKEY_PUBLIC_KEY;
  if (EVP_PKEY_fromdata(context.get(), &key, selection, params.get()) != 1) return nullptr;
  return {key, OpensslFree{}};
}

OpensslPtr<evp_md_ctx_st> new_md_context() {
  OpensslPtr<evp_md_ctx_st> context(EVP_MD_CTX_new());
  SEALIFT_ASSERT(context != nullptr);
  return context;
}

struct FreeSignature {
  void operator()(ECDSA_SIG* object) const { ECDSA_SIG_free(object); }
};
using SignaturePtr = std::unique_ptr<ECDSA_SIG, FreeSignature>;

}  // namespace

EcPublicKey::EcPublicKey(const EcPoint& point, std::shared_ptr<evp_pkey_st> key)
    : point_(point), key_(std::move(key)) {}

std::optional<EcPublicKey> EcPublicKey::from_point(const EcPoint& point) {
  auto key = make_pkey(point, nullptr);
  if (key == nullptr) return std::nullopt;
  return EcPublicKey(point, std::move(key));
}

bool EcPublicKey::verify(ByteView message, const EcSignature& signature) const {
  const SignaturePtr parts(ECDSA_SIG_new());
  SEALIFT_ASSERT(parts != nullptr);
  // ECDSA_SIG_set0 takes both numbers.
  SEALIFT_ASSERT(ECDSA_SIG_set0(parts.get(), to_bignum(signature.r).release(),
                                to_bignum(signature.s).release()) == 1);
  std::array<unsigned char, 2 * kEcBytes + 16> der{};
  unsigned char* at = der.data();
  const int der_bytes = i2d_ECDSA_SIG(parts.get(), nullptr);
  SEALIFT_ASSERT(der_bytes > 0 && static_cast<std::size_t>(der_bytes) <= der.size());
  SEALIFT_ASSERT(i2d_ECDSA_SIG(parts.get(), &at) == der_bytes);

  const auto context = new_md_context();
  SEALIFT_ASSERT(EVP_DigestVerifyInit(context.get(), nullptr, EVP_sha256(), nullptr, key_.get()) ==
                 1);
  return EVP_DigestVerify(context.get(), der.data(), static_cast<std::size_t>(der_bytes),
                          octets(message.data()), message.size()) == 1;
}

EcKey EcKey::generate(RandomSource& random) {
  for (;;) {
    EcNumber scalar{};
    random.fill(scalar);
    if (auto key = from_scalar(scalar)) return *std::move(key);
  }
}

std::optional<EcKey> EcKey::from_scalar(const EcNumber& scalar) {
  const OpensslPtr<ec_group_st> group(EC_GROUP_new_by_curve_name(NID_secp384r1));
  SEALIFT_ASSERT(group != nullptr);
  const auto number = to_bignum(scalar);
  if (BN_is_zero(number.get()) || BN_cmp(number.get(), EC_GROUP_get0_order(group.get())) >= 0) {
    return std::nullopt;
  }
  const OpensslPtr<ec_point_st> point(EC_POINT_new(group.get()));
  SEALIFT_ASSERT(point != nullptr);
  SEALIFT_ASSERT(EC_POINT_mul(group.get(), point.get(), number.get(), nullptr, nullptr, nullptr) ==
                 1);
  OctetPoint encoded{};
  SEALIFT_ASSERT(EC_POINT_point2oct(group.get(), point.get(), POINT_CONVERSION_UNCOMPRESSED,
                                    encoded.data(), encoded.size(), nullptr) == encoded.size());
  EcPoint affine;
  std::copy_n(encoded.begin() + 1, kEcBytes, octets(affine.x.data()));
  std::copy_n(encoded.begin() + 1 + kEcBytes, kEcBytes, octets(affine.y.data()));
  auto key = make_pkey(affine, number.get());
  SEALIFT_ASSERT(key != nullptr);
  return EcKey(EcPublicKey(affine, std::move(key)));
}

EcNumber EcKey::scalar_for_tests() const {
  BIGNUM* number = nullptr;
  SEALIFT_ASSERT(EVP_PKEY_get_bn_param(public_.key_.get(), OSSL_PKEY_PARAM_PRIV_KEY, &number) == 1);
  const OpensslPtr<bignum_st> owned(number);
  EcNumber out{};
  SEALIFT_ASSERT(BN_bn2binpad(number, octets(out.data()), kEcBytes) == kEcBytes);
  return out;
}

EcSignature EcKey::sign(ByteView message) const {
  const auto context = new_md_context();
  std::array<unsigned char, 2 * kEcBytes + 16> der{};
  std::size_t der_bytes = der.size();
  SEALIFT_ASSERT(
      EVP_DigestSignInit(context.get(), nullptr, EVP_sha256(), nullptr, public_.key_.get()) == 1);
  SEALIFT_ASSERT(EVP_DigestSign(context.get(), der.data(), &der_bytes, octets(message.data()),
                                message.size()) == 1);
  const unsigned char* at = der.data();
  const SignaturePtr parts(d2i_ECDSA_SIG(nullptr, &at, static_cast<long>(der_bytes)));
  SEALIFT_ASSERT(parts != nullptr);
  EcSignature out;
  SEALIFT_ASSERT(BN_bn2binpad(ECDSA_SIG_get0_r(parts.get()), octets(out.r.data()), kEcBytes) ==
                 kEcBytes);
  SEALIFT_ASSERT(BN_bn2binpad(ECDSA_SIG_get0_s(parts.get()), octets(out.s.data()), kEcBytes) ==
                 kEcBytes);
  return out;
}

EcNumber EcKey::shared_secret(const EcPublicKey& peer) const {
  const std::unique_ptr<EVP_PKEY_CTX, decltype([](EVP_PKEY_CTX* c) { EVP_PKEY_CTX_free(c); })>
      context(EVP_PKEY_CTX_new_from_pkey(nullptr, public_.key_.get(), nullptr));
  EcNumber out{};
  std::size_t bytes = out.size();
  SEALIFT_ASSERT(context != nullptr);
  SEALIFT_ASSERT(EVP_PKEY_derive_init(context.get()) == 1);
  SEALIFT_ASSERT(EVP_PKEY_derive_set_peer(context.get(), peer.key_.get()) == 1);
  SEALIFT_ASSERT(EVP_PKEY_derive(context.get(), octets(out.data()), &bytes) == 1);
  SEALIFT_ASSERT(bytes == out.size());
  return out;
}

}  // namespace sealift::sev
