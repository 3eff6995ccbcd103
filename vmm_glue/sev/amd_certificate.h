// AmdCertificate: AMD's own certificates, the root key ARK and the SEV signing key ASK, version 1.
//
// Spec:    AMD SEV API 55766 as read in AMD sev-tool and virtee/sev, checked on the ten that AMD
//          publishes. 832 bytes (n = 256, Naples) or 1600 (n = 512, Rome and later), integers
//          little endian:
//     0     version = 1
//     4     key id[16], 20 id of the certifying key[16] (ARK: its own)
//     36    usage: 0 ARK, 0x13 ASK
//     40    reserved[16]
//     56    exponent size, 60 modulus size, both in bits and equal to 8 n
//     64    exponent[n] = 65537, then modulus[n], then signature[n]
//          The signature covers all before it: RSA-PSS, see rsa_key.h.
// Plain values: no ownership, no threads. Failure: parse() of others' bytes gives kPolicy.
//
// MODEL CHOICE (no source says): reserved bytes are zero, the key ids of parent and child agree and
// both keys have one size; otherwise the form is wrong.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "engine/result.h"
#include "engine/types.h"
#include "vmm_glue/sev/certificate.h"
#include "vmm_glue/sev/rsa_key.h"

namespace sealift::sev {

inline constexpr std::size_t kAmdSmallBytes = 832;
inline constexpr std::size_t kAmdLargeBytes = 1600;
using KeyId = std::array<std::byte, 16>;

struct AmdCertificate {
  KeyId key_id{};
  KeyId certifying_id{};
  KeyUsage usage = KeyUsage::kArk;  // kArk or kAsk
  Bytes modulus;                    // big endian, 256 or 512 bytes
  Bytes signature;                  // big endian, as long as the modulus; empty before signing
  friend bool operator==(const AmdCertificate&, const AmdCertificate&) = default;

  // Checks the body: length, version, usage, sizes, exponent, reserved bytes zero, a modulus of
  // full length. Signatures are not verified here.
  static Result<AmdCertificate> parse(ByteView bytes);
  std::size_t bits() const { return modulus.size() * 8; }
  // A missing signature is encoded as zeros.
  Bytes encode() const;
};

// REQUIRES: usage is kArk (then both ids are equal) or kAsk.
AmdCertificate unsigned_amd_certificate(KeyUsage usage, const RsaPublicKey& key,
                                        const KeyId& key_id, const KeyId& certifying_id);
// Signs as the ARK. REQUIRES: a key of the certificate's size.
void sign_certificate(AmdCertificate& certificate, const RsaKey& ark);
// Signs a CEK as the ASK, into slot 0 or 1.
void sign_certificate(SevCertificate& cek, std::size_t slot, const RsaKey& ask);

// ARK from itself, ASK from ARK; CEK from ASK.
SignatureVerdict check_signature(const AmdCertificate& child, const AmdCertificate& parent);
SignatureVerdict check_signature(const SevCertificate& cek, const AmdCertificate& ask);

}  // namespace sealift::sev
