#include "vmm_glue/model/sev/platform_identity.h"

#include "engine/assert.h"

namespace sealift::sev {
namespace {

constexpr std::size_t kOcaSlot = 0;  // as on real PEKs, which carry the CEK's signature second
constexpr std::size_t kCekSlot = 1;

ChipId random_id(RandomSource& random) {
  ChipId out{};
  random.fill(out);
  return out;
}

}  // namespace

PlatformIdentity::PlatformIdentity(RandomSource& random, FirmwareVersion version,
                                   std::shared_ptr<const EcKey> owner)
    : random_(random),
      version_(version),
      cek_key_(EcKey::generate(random)),
      cek_(unsigned_of(KeyUsage::kCek, cek_key_)),
      chip_id_(random_id(random)),
      externally_owned_(owner != nullptr),
      pek_key_(cek_key_),  // both replaced by make_pek()
      pdh_key_(cek_key_) {
  make_pek(owner != nullptr ? *owner : EcKey::generate(random));
}

SevCertificate PlatformIdentity::unsigned_of(KeyUsage usage, const EcKey& key) const {
  return unsigned_certificate(usage, key.public_key(), version_.api_major, version_.api_minor);
}

void PlatformIdentity::make_pek(const EcKey& owner) {
  pek_key_ = EcKey::generate(random_);
  oca_ = unsigned_of(KeyUsage::kOca, owner);
  pek_ = unsigned_of(KeyUsage::kPek, pek_key_);
  sign_certificate(oca_, kOcaSlot, KeyUsage::kOca, owner);
  sign_certificate(pek_, kOcaSlot, KeyUsage::kOca, owner);
  sign_certificate(pek_, kCekSlot, KeyUsage::kCek, cek_key_);
  renew_pdh();
}

SevCertificate PlatformIdentity::pek_request() const {
  return unsigned_of(KeyUsage::kPek, pek_key_);
}

void PlatformIdentity::renew_pdh() {
  pdh_key_ = EcKey::generate(random_);
  pdh_ = unsigned_of(KeyUsage::kPdh, pdh_key_);
  sign_certificate(pdh_, 0, KeyUsage::kPek, pek_key_);
}

void PlatformIdentity::renew_pek() {
  externally_owned_ = false;
  make_pek(EcKey::generate(random_));
}

void PlatformIdentity::adopt(const SevCertificate& pek, const SevCertificate& oca) {
  SEALIFT_ASSERT(pek.key == pek_.key);
  externally_owned_ = true;
  oca_ = oca;
  pek_ = pek;
  const std::size_t free = pek_.slots[kOcaSlot].usage == KeyUsage::kOca ? kCekSlot : kOcaSlot;
  sign_certificate(pek_, free, KeyUsage::kCek, cek_key_);
  renew_pdh();
}

}  // namespace sealift::sev
