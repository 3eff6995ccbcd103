// PlatformIdentity: the keys and certificates of one modelled SEV platform.
//
// Spec:    vmm_glue/sev/certificate.h. OCA signs itself, OCA and CEK sign the PEK, the PEK signs
//          the PDH. The CEK leaves with both signature slots unused: AMD's signature comes from its
//          key server (AMD sev-tool, sevctl).
// Owner:   one Firmware. Threads: constant after construction.
// Failure: none.
// Not here yet: an ASK/ARK hierarchy for the CEK, PEK_CERT_IMPORT, PDH_GEN, PEK_GEN.
#pragma once

#include <memory>

#include "vmm_glue/sev/certificate.h"
#include "vmm_glue/sev/crypto.h"
#include "vmm_glue/sev/ec_key.h"
#include "vmm_glue/sev/random.h"

namespace sealift::sev {

class PlatformIdentity {
 public:
  // `owner`: the OCA key, so that two hosts of one owner are in one domain; null makes a new one.
  PlatformIdentity(RandomSource& random, FirmwareVersion version,
                   std::shared_ptr<const EcKey> owner);

  const SevCertificate& oca() const { return oca_; }
  const SevCertificate& cek() const { return cek_; }
  const SevCertificate& pek() const { return pek_; }
  const SevCertificate& pdh() const { return pdh_; }
  const EcKey& pdh_key() const { return pdh_key_; }

 private:
  EcKey pdh_key_;
  SevCertificate oca_;
  SevCertificate cek_;
  SevCertificate pek_;
  SevCertificate pdh_;
};

}  // namespace sealift::sev
