// The attestation report of a SEV guest: its launch digest and policy, signed by its host's PEK.
//
// Spec:    AMD SEV API 55766 as read in AMD sev-tool and virtee/sev; 208 bytes, little endian:
//     0     nonce[16], as the verifier gave it
//     16    launch digest[32], SHA-256
//     48    policy u32
//     52    usage of the signing key (PEK), 56 algorithm (ECDSA over SHA-256), 60 reserved
//     64    signature: r[72], s[72], over bytes 0..51
// Plain values: no ownership, no threads. Failure: a report that is not of this PEK is empty.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>

#include "vmm_glue/abi/sev_abi.h"
#include "vmm_glue/sev/crypto.h"
#include "vmm_glue/sev/ec_key.h"

namespace sealift::sev {

using AttestationBytes = std::array<std::byte, kAttestationBytes>;

struct AttestationReport {
  Block nonce{};
  Digest launch_digest{};
  std::uint32_t policy = 0;
};

AttestationBytes sign_attestation(const AttestationReport& report, const EcKey& pek);
// Empty unless the form is right and `pek` signed it.
std::optional<AttestationReport> open_attestation(
    std::span<const std::byte, kAttestationBytes> bytes, const EcPublicKey& pek);

}  // namespace sealift::sev
