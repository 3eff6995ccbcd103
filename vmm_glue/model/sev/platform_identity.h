// PlatformIdentity: the keys and certificates of one modelled SEV platform.
//
// Spec:    vmm_glue/sev/certificate.h. OCA signs itself, OCA and CEK sign the PEK, the PEK signs
//          the PDH. The CEK leaves with both signature slots unused: AMD's signature comes from its
//          key server (AMD sev-tool, sevctl), amd_root.h in this model.
// Owner:   one Firmware. Threads: one caller at a time. Failure: none.
//
// MODEL CHOICE
//   chip id     64 random bytes of the chip, the 128 hexadecimal digits that AMD's key server
//   takes. CEK         of the chip: no command renews it. PEK, PDH    a new PEK makes a new PDH,
//   because the PEK of the moment has to sign it. PEK_CSR     a PEK certificate with both signature
//   slots unused.
#pragma once

#include <array>
#include <cstddef>
#include <memory>

#include "vmm_glue/sev/certificate.h"
#include "vmm_glue/sev/crypto.h"
#include "vmm_glue/sev/ec_key.h"
#include "vmm_glue/sev/random.h"

namespace sealift::sev {

inline constexpr std::size_t kChipIdBytes = 64;
using ChipId = std::array<std::byte, kChipIdBytes>;

class PlatformIdentity {
 public:
  // `owner`: the key of an owner who has imported this platform's PEK, so that two hosts of one
  // owner are in one domain. Null: self-owned, with an OCA of its own. `random` outlives this.
  // Draws, in this order: CEK, chip id, OCA where self-owned, PEK, PDH.
  PlatformIdentity(RandomSource& random, FirmwareVersion version,
                   std::shared_ptr<const EcKey> owner);

  const ChipId& chip_id() const { return chip_id_; }
  const SevCertificate& oca() const { return oca_; }
  const SevCertificate& cek() const { return cek_; }
  const SevCertificate& pek() const { return pek_; }
  const SevCertificate& pdh() const { return pdh_; }
  const EcKey& pek_key() const { return pek_key_; }
  const EcKey& pdh_key() const { return pdh_key_; }
  bool externally_owned() const { return externally_owned_; }
  SevCertificate pek_request() const;

  void renew_pdh();
  // A new OCA, PEK and PDH: the platform owns itself.
  void renew_pek();
  // REQUIRES: `oca` signs itself and `pek`, and `pek` has the key of our PEK.
  void adopt(const SevCertificate& pek, const SevCertificate& oca);

 private:
  SevCertificate unsigned_of(KeyUsage usage, const EcKey& key) const;
  void make_pek(const EcKey& owner);

  RandomSource& random_;
  const FirmwareVersion version_;
  const EcKey cek_key_;
  const SevCertificate cek_;
  ChipId chip_id_{};
  bool externally_owned_ = false;
  EcKey pek_key_;
  EcKey pdh_key_;
  SevCertificate oca_;
  SevCertificate pek_;
  SevCertificate pdh_;
};

}  // namespace sealift::sev
