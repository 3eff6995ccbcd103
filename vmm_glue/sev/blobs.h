// The two blobs that SEV hosts exchange before pages move: the destination's identity and the
// source's start, version 2 of both. Spec: docs/spec/wire.md, "SEV identity" and "SEV start".
//
// Version 2 brought the keys of the drivers' own binding (vmm_glue/sev/binding.h); nothing in a
// blob is secret. Plain values: no ownership, no threads. Failure: a blob with another version or
// with a length that does not fit gives kMalformed before anything is copied; a PDH that is no
// certificate gives kPolicy.
#pragma once

#include <cstdint>

#include "engine/result.h"
#include "engine/types.h"
#include "vmm_glue/abi/sev_abi.h"
#include "vmm_glue/sev/binding.h"
#include "vmm_glue/sev/certificate.h"

namespace sealift::sev {

inline constexpr std::uint32_t kBlobVersion = 2;
inline constexpr std::size_t kBlobHeaderBytes = 16;

struct IdentityBlob {
  Bytes pdh;    // kCertificateBytes
  Bytes chain;  // kChainBytes
  Bytes amd_certs;
  BindingPublicKey key{};  // of the destination's driver, made for this session
  friend bool operator==(const IdentityBlob&, const IdentityBlob&) = default;
};
Bytes encode(const IdentityBlob& blob);
Result<IdentityBlob> decode_identity(ByteView bytes);

struct StartBlob {
  std::uint32_t policy = 0;
  Bytes pdh;               // kCertificateBytes
  Bytes session;           // kSessionBytes
  BindingPublicKey key{};  // of the source's driver, made for this session
  BindingNonce nonce{};
  friend bool operator==(const StartBlob&, const StartBlob&) = default;
};
Bytes encode(const StartBlob& blob);
Result<StartBlob> decode_start(ByteView bytes);

// The PDH of the other side: a certificate for ECDH whose key is on the curve. Signatures are the
// firmware's business, which knows the policy.
Result<void> check_pdh(ByteView certificate);

}  // namespace sealift::sev
