#include "vmm_glue/sev/binding.h"

#include <fmt/format.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>

#include <algorithm>
#include <memory>
#include <string_view>

#include "engine/assert.h"
#include "vmm_glue/sev/little_endian.h"

namespace sealift::sev {
namespace {

// Each begins what is hashed, its closing zero byte included, so that no HMAC serves two ends.
constexpr std::string_view kKeyLabel("sealift sev binding 2\0", 22);
constexpr std::string_view kBatchLabel("sealift sev batch\0", 18);
constexpr std::string_view kStateLabel("sealift sev state\0", 18);
constexpr std::string_view kSealLabel("sealift sev seal\0", 17);

unsigned char* writable(MutableBytes bytes) {
  return reinterpret_cast<unsigned char*>(bytes.data());
}
const unsigned char* octets(ByteView bytes) {
  return reinterpret_cast<const unsigned char*>(bytes.data());
}
Bytes begin_with(std::string_view label) {
  const ByteView bytes = std::as_bytes(std::span(label));
  return {bytes.begin(), bytes.end()};
}

OpensslPtr<evp_pkey_st> key_of(ByteView private_key) {
  OpensslPtr<evp_pkey_st> key(EVP_PKEY_new_raw_private_key(
      EVP_PKEY_X25519, nullptr, octets(private_key), private_key.size()));
  SEALIFT_ASSERT(key != nullptr);
  return key;
}

struct PkeyContextFree {
  void operator()(EVP_PKEY_CTX* context) const { EVP_PKEY_CTX_free(context); }
};
struct KdfContextFree {
  void operator()(EVP_KDF_CTX* context) const { EVP_KDF_CTX_free(context); }
};

OSSL_PARAM octet_param(const char* name, ByteView bytes) {
  return OSSL_PARAM_construct_octet_string(name, const_cast<std::byte*>(bytes.data()),
                                           bytes.size());
}

void hkdf_sha256(ByteView secret, ByteView salt, ByteView info, MutableBytes out) {
  EVP_KDF* kdf = EVP_KDF_fetch(nullptr, "HKDF", nullptr);
  SEALIFT_ASSERT(kdf != nullptr);
  const std::unique_ptr<EVP_KDF_CTX, KdfContextFree> context(EVP_KDF_CTX_new(kdf));
  EVP_KDF_free(kdf);  // the context holds its own reference
  SEALIFT_ASSERT(context != nullptr);
  char digest[] = "SHA256";
  const std::array<OSSL_PARAM, 5> params = {
      OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0),
      octet_param(OSSL_KDF_PARAM_KEY, secret), octet_param(OSSL_KDF_PARAM_SALT, salt),
      octet_param(OSSL_KDF_PARAM_INFO, info), OSSL_PARAM_construct_end()};
  SEALIFT_ASSERT(EVP_KDF_derive(context.get(), writable(out), out.size(), params.data()) == 1);
}

BindingSecret binding_key(const BindingSecret& secret, const BindingTerms& terms) {
  Bytes info = begin_with(kKeyLabel);
  append(info, terms.source_key);
  append(info, terms.destination_key);
  append(info, terms.identity_hash);
  append(info, terms.start_hash);
  BindingSecret key;
  hkdf_sha256(secret.bytes, terms.nonce, info, key.bytes);
  return key;
}

}  // namespace

Digest sha256_of(ByteView bytes) {
  Sha256 hash;
  hash.add(bytes);
  return hash.finish();
}

bool same_tag(ByteView a, ByteView b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

BindingKeyPair::BindingKeyPair(RandomSource& random) {
  random.fill(private_);
  std::size_t size = public_.size();
  SEALIFT_ASSERT(EVP_PKEY_get_raw_public_key(key_of(private_).get(), writable(public_), &size) ==
                 1);
  SEALIFT_ASSERT(size == public_.size());
}

BindingKeyPair::~BindingKeyPair() { erase_secret(private_); }

Result<BindingSecret> BindingKeyPair::agree(const BindingPublicKey& peer) const {
  const OpensslPtr<evp_pkey_st> own = key_of(private_);
  const OpensslPtr<evp_pkey_st> other(
      EVP_PKEY_new_raw_public_key(EVP_PKEY_X25519, nullptr, octets(peer), peer.size()));
  SEALIFT_ASSERT(other != nullptr);
  const std::unique_ptr<EVP_PKEY_CTX, PkeyContextFree> context(
      EVP_PKEY_CTX_new(own.get(), nullptr));
  SEALIFT_ASSERT(context != nullptr && EVP_PKEY_derive_init(context.get()) == 1);
  BindingSecret secret;
  std::size_t size = secret.bytes.size();
  // OpenSSL itself refuses to derive zeros; that is its habit, not our contract.
  if (EVP_PKEY_derive_set_peer(context.get(), other.get()) != 1 ||
      EVP_PKEY_derive(context.get(), writable(secret.bytes), &size) != 1 ||
      same_tag(secret.bytes, Digest{})) {
    return fail(ErrorClass::kMalformed,
                "The peer's binding key is of small order: every secret with it is zero.");
  }
  SEALIFT_ASSERT(size == secret.bytes.size());
  return secret;
}

Binding::Binding(const BindingSecret& secret, const BindingTerms& terms)
    : hmac_(binding_key(secret, terms).bytes) {}

Digest Binding::batch_tag(const PrivateBatch& batch, std::uint64_t sequence) {
  SEALIFT_ASSERT(batch.ops.size() == batch.gfns.size());
  SEALIFT_ASSERT(batch.page_auth.size() == batch.gfns.size() * kPacketHeaderBytes);
  Bytes text = begin_with(kBatchLabel);
  text.reserve(text.size() + 24 + batch.gfns.size() * (9 + kPacketHeaderBytes));
  append_le<std::uint32_t>(text, batch.epoch);
  append_le<std::uint8_t>(text, batch.stream);
  append_le<std::uint64_t>(text, sequence);
  append_le<std::uint32_t>(text, static_cast<std::uint32_t>(batch.gfns.size()));
  for (std::size_t i = 0; i < batch.gfns.size(); ++i) {
    append_le<std::uint64_t>(text, value(batch.gfns[i]));
    append_le<std::uint8_t>(text, static_cast<std::uint8_t>(batch.ops[i]));
    append(text, ByteView(batch.page_auth).subspan(i * kPacketHeaderBytes, kPacketHeaderBytes));
  }
  return hmac_.of(text);
}

void Binding::sign(PrivateBatch& batch) {
  const Digest tag = batch_tag(batch, sequence_);
  batch.batch_auth.clear();
  append_le<std::uint64_t>(batch.batch_auth, sequence_);
  append(batch.batch_auth, tag);
  ++sequence_;
  ++batches_;
  pages_ += batch.gfns.size();
}

Result<void> Binding::accept(const PrivateBatch& batch) {
  if (batch.batch_auth.size() != kBatchAuthBytes) {
    return fail(ErrorClass::kMalformed,
                "A SEV batch has {} bytes of batch authentication instead of {}.",
                batch.batch_auth.size(), kBatchAuthBytes);
  }
  const auto sequence = get_le<std::uint64_t>(batch.batch_auth, 0);
  if (sequence != sequence_) {
    return fail(ErrorClass::kMalformed, "SEV batch {} came where batch {} was due.", sequence,
                sequence_);
  }
  if (!same_tag(ByteView(batch.batch_auth).subspan(8), batch_tag(batch, sequence))) {
    return fail(ErrorClass::kMalformed,
                "SEV batch {} (epoch {}, {} pages) is not as the source of this session made it.",
                sequence, batch.epoch, batch.gfns.size());
  }
  ++sequence_;
  ++batches_;
  pages_ += batch.gfns.size();
  return {};
}

Digest Binding::state_tag(std::uint32_t vcpu, ByteView bytes) {
  Bytes text = begin_with(kStateLabel);
  append_le<std::uint32_t>(text, vcpu);
  append(text, bytes);
  return hmac_.of(text);
}

void Binding::count_state() {
  ++sequence_;
  ++states_;
}

Digest Binding::seal_tag() {
  Bytes text = begin_with(kSealLabel);
  append_le<std::uint64_t>(text, batches_);
  append_le<std::uint64_t>(text, pages_);
  append_le<std::uint32_t>(text, states_);
  append_le<std::uint32_t>(text, last_epoch_);
  return hmac_.of(text);
}

Result<void> Binding::check_seal(ByteView token) {
  if (token.size() != sizeof(Digest)) {
    return fail(ErrorClass::kMalformed, "The SEV seal has {} bytes instead of {}.", token.size(),
                sizeof(Digest));
  }
  if (same_tag(token, seal_tag())) return {};
  return fail(ErrorClass::kMalformed,
              "The SEV seal does not fit what came: {} batches with {} pages, {} vCPU states, "
              "last epoch {}.",
              batches_, pages_, states_, last_epoch_);
}

}  // namespace sealift::sev
