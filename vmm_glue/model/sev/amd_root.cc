#include "vmm_glue/model/sev/amd_root.h"

#include "engine/assert.h"

namespace sealift::sev {
namespace {

KeyId random_id(RandomSource& random) {
  KeyId out{};
  random.fill(out);
  return out;
}

}  // namespace

AmdRoot::AmdRoot(RandomSource& random, std::size_t bits) : ask_key_(RsaKey::generate(bits)) {
  const RsaKey ark_key = RsaKey::generate(bits);
  const KeyId ark_id = random_id(random);
  ark_ = unsigned_amd_certificate(KeyUsage::kArk, ark_key.public_key(), ark_id, ark_id);
  ask_ = unsigned_amd_certificate(KeyUsage::kAsk, ask_key_.public_key(), random_id(random), ark_id);
  sign_certificate(ark_, ark_key);
  sign_certificate(ask_, ark_key);
}

SevCertificate AmdRoot::sign(SevCertificate cek) const {
  SEALIFT_ASSERT(cek.usage == KeyUsage::kCek);
  SEALIFT_ASSERT(cek.slots[0] == SignatureSlot{});
  sign_certificate(cek, 0, ask_key_);
  return cek;
}

Bytes AmdRoot::ask_ark() const {
  Bytes out = ask_.encode();
  const Bytes ark = ark_.encode();
  out.insert(out.end(), ark.begin(), ark.end());
  return out;
}

Digest AmdRoot::ark_sha256() const {
  Sha256 digest;
  digest.add(ark_.encode());
  return digest.finish();
}

}  // namespace sealift::sev
