// The two blobs that SEV hosts exchange before pages move. Their layout is normative here until
// docs/spec/wire.md copies it. All integers are little endian; nothing follows the last field.
//
// Identity, from the destination to the source, version 1:
//   0   u32  version = 1
//   4   u32  pdh_bytes = 2084
//   8   u32  chain_bytes = 6252
//   12  u32  amd_bytes, 0..16384
//   16       PDH certificate
//   2100     chain: PEK, OCA, CEK, 2084 bytes each (order of PDH_CERT_EXPORT and of SEND_START)
//   8352     AMD's certificates, ASK then ARK; empty where the guest's policy asks for no chain
// Start, from the source to the destination, version 1:
//   0   u32  version = 1
//   4   u32  policy of the guest
//   8   u32  pdh_bytes = 2084
//   12  u32  session_bytes = 128
//   16       the source's PDH certificate
//   2100     session data (vmm_glue/sev/crypto.h)
//
// Plain values: no ownership, no threads. Failure: a blob with another version or with a length
// that does not fit gives kMalformed before anything is copied; a PDH that is no certificate gives
// kPolicy.
#pragma once

#include <cstdint>

#include "engine/result.h"
#include "engine/types.h"
#include "vmm_glue/abi/sev_abi.h"
#include "vmm_glue/sev/certificate.h"

namespace sealift::sev {

inline constexpr std::uint32_t kBlobVersion = 1;
inline constexpr std::size_t kBlobHeaderBytes = 16;

struct IdentityBlob {
  Bytes pdh;    // kCertificateBytes
  Bytes chain;  // kChainBytes
  Bytes amd_certs;
  friend bool operator==(const IdentityBlob&, const IdentityBlob&) = default;
};
Bytes encode(const IdentityBlob& blob);
Result<IdentityBlob> decode_identity(ByteView bytes);

struct StartBlob {
  std::uint32_t policy = 0;
  Bytes pdh;      // kCertificateBytes
  Bytes session;  // kSessionBytes
  friend bool operator==(const StartBlob&, const StartBlob&) = default;
};
Bytes encode(const StartBlob& blob);
Result<StartBlob> decode_start(ByteView bytes);

// The PDH of the other side: a certificate for ECDH whose key is on the curve. Signatures are the
// firmware's business, which knows the policy.
Result<void> check_pdh(ByteView certificate);

}  // namespace sealift::sev
