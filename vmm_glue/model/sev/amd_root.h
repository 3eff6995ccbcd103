// AmdRoot: a modelled AMD, whose root key (ARK) signs the SEV signing key (ASK) that signs CEKs.
//
// Spec:    vmm_glue/sev/amd_certificate.h. A real CEK leaves its host unsigned; AMD's key server
//          gives the signed one for the chip's id (AMD sev-tool, sevctl).
// Owner:   the caller; values. Threads: const methods may run beside each other. Failure: none.
// Note:    the RSA keys come from OpenSSL's generator, the key ids from the RandomSource.
#pragma once

#include <cstddef>

#include "engine/types.h"
#include "vmm_glue/sev/amd_certificate.h"
#include "vmm_glue/sev/crypto.h"
#include "vmm_glue/sev/random.h"
#include "vmm_glue/sev/rsa_key.h"

namespace sealift::sev {

class AmdRoot {
 public:
  // `bits`: kRsaSmallBits as for Naples, or kRsaLargeBits as for Rome and later (seconds).
  explicit AmdRoot(RandomSource& random, std::size_t bits = kRsaSmallBits);

  // What the key server does. REQUIRES: a CEK with its first slot unused.
  SevCertificate sign(SevCertificate cek) const;
  Bytes ask_ark() const;      // ASK || ARK
  Digest ark_sha256() const;  // what a chip of this AMD has fused

 private:
  RsaKey ask_key_;
  AmdCertificate ark_;
  AmdCertificate ask_;
};

}  // namespace sealift::sev
