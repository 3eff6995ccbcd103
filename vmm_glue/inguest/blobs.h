// What the helpers of both hosts exchange before and after pages move, version 1.
// Spec: docs/spec/wire.md, "SW-protected identity", "start" and "seal".
//
// Plain values: no ownership, no threads. Failure: a blob of another version, length or with
// reserved bits gives kMalformed.
#pragma once

#include <array>
#include <cstdint>

#include "engine/result.h"
#include "engine/types.h"
#include "vmm_glue/inguest/mailbox.h"

namespace sealift::inguest {

inline constexpr std::uint32_t kBlobVersion = 1;
inline constexpr std::uint32_t kPageAuthBytes = 24;  // sequence, tag

template <std::size_t kSize>
using ByteArray = std::array<std::byte, kSize>;
using SealTag = ByteArray<kTagBytes>;

struct IdentityBlob {
  ByteArray<kKeyBytes> key{};  // public
  friend bool operator==(const IdentityBlob&, const IdentityBlob&) = default;
};
Bytes encode(const IdentityBlob& blob);
Result<IdentityBlob> decode_identity(ByteView bytes);

struct StartBlob {
  ByteArray<kKeyBytes> key{};  // public
  ByteArray<kNonceBytes> nonce{};
  ByteArray<kProofBytes> proof{};
  friend bool operator==(const StartBlob&, const StartBlob&) = default;
};
Bytes encode(const StartBlob& blob);
Result<StartBlob> decode_start(ByteView bytes);

Result<SealTag> decode_seal(ByteView bytes);

}  // namespace sealift::inguest
