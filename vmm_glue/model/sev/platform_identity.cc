#include "vmm_glue/model/sev/platform_identity.h"

namespace sealift::sev {

PlatformIdentity::PlatformIdentity(RandomSource& random, FirmwareVersion version,
                                   std::shared_ptr<const EcKey> owner)
    : pdh_key_(EcKey::generate(random)) {
  if (owner == nullptr) owner = std::make_shared<const EcKey>(EcKey::generate(random));
  const EcKey cek_key = EcKey::generate(random);
  const EcKey pek_key = EcKey::generate(random);
  const auto make = [&](KeyUsage usage, const EcKey& key) {
    return unsigned_certificate(usage, key.public_key(), version.api_major, version.api_minor);
  };
  oca_ = make(KeyUsage::kOca, *owner);
  cek_ = make(KeyUsage::kCek, cek_key);
  pek_ = make(KeyUsage::kPek, pek_key);
  pdh_ = make(KeyUsage::kPdh, pdh_key_);
  sign_certificate(oca_, 0, KeyUsage::kOca, *owner);
  sign_certificate(pek_, 0, KeyUsage::kOca, *owner);
  sign_certificate(pek_, 1, KeyUsage::kCek, cek_key);
  sign_certificate(pdh_, 0, KeyUsage::kPek, pek_key);
}

}  // namespace sealift::sev
