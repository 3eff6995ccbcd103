// SevCertificate: the 2084-byte SEV certificate, version 1, of OCA, CEK, PEK and PDH.
//
// Spec:    AMD SEV API 55766 as read in AMD sev-tool and virtee/sev, checked on the certificates of
//          two real platforms (Naples, API 0.16; Rome, API 0.22). All integers little endian:
//     0     version = 1
//     4     api_major u8, api_minor u8, reserved u16
//     8     usage, algorithm of the key
//     16    public key[1028]: curve (2 = P-384), Qx[72], Qy[72], zeros
//     1044  slot 1: usage of the signing key, algorithm, signature[512]
//     1564  slot 2: likewise
//          A signature covers bytes 0..1043. EC signature: r[72], s[72], zeros.
// Plain values: no ownership, no threads. Failure: parse() of others' bytes gives kPolicy.
// AMD's RSA certificates, which sign the CEK, are in amd_certificate.h.
//
// MODEL CHOICE (no source gives the order of checks): the body first, then the parent rule, then
// the slot, then the signature. Slots are chosen by usage, because real PEKs carry the OCA in slot
// 1 and the CEK in slot 2 where one reading of 55766 says the opposite.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "engine/result.h"
#include "engine/types.h"
#include "vmm_glue/abi/sev_abi.h"
#include "vmm_glue/sev/ec_key.h"

namespace sealift::sev {

inline constexpr std::size_t kSignedBytes = 1044;
inline constexpr std::size_t kSignatureBytes = 512;
using CertificateBytes = std::array<std::byte, kCertificateBytes>;

enum class KeyUsage : std::uint32_t {
  kArk = 0x0000,
  kAsk = 0x0013,
  kNone = 0x1000,
  kOca = 0x1001,
  kPek = 0x1002,
  kPdh = 0x1003,
  kCek = 0x1004,
};
const char* name_of(KeyUsage usage);

enum class KeyAlgorithm : std::uint32_t {
  kNone = 0x000,
  kRsaSha256 = 0x001,
  kEcdsaSha256 = 0x002,
  kEcdhSha256 = 0x003,
  kRsaSha384 = 0x101,
  kEcdsaSha384 = 0x102,
  kEcdhSha384 = 0x103,
};
const char* name_of(KeyAlgorithm algorithm);

// Unused: kNone, kNone, zeros.
struct SignatureSlot {
  KeyUsage usage = KeyUsage::kNone;
  KeyAlgorithm algorithm = KeyAlgorithm::kNone;
  std::array<std::byte, kSignatureBytes> bytes{};
  friend bool operator==(const SignatureSlot&, const SignatureSlot&) = default;
};

struct SevCertificate {
  std::uint8_t api_major = 0;  // of the firmware that made the certificate
  std::uint8_t api_minor = 0;
  KeyUsage usage = KeyUsage::kNone;
  KeyAlgorithm algorithm = KeyAlgorithm::kNone;
  EcPoint key;
  std::array<SignatureSlot, 2> slots;
  friend bool operator==(const SevCertificate&, const SevCertificate&) = default;

  // Checks the body: length, version, usage and algorithm of a platform certificate, reserved bytes
  // and padding zero, the key on P-384. Signatures are not verified here.
  static Result<SevCertificate> parse(ByteView bytes);
  CertificateBytes encode() const;
};

// What a platform certificate of this usage looks like before anyone signs it.
SevCertificate unsigned_certificate(KeyUsage usage, const EcPublicKey& key, std::uint8_t api_major,
                                    std::uint8_t api_minor);
// Signs into slot 0 or 1 as the key of a certificate of usage `signer`. REQUIRES: `signer` may sign
// such a certificate with an EC key (the CEK's parent is an RSA key, amd_certificate.h).
void sign_certificate(SevCertificate& certificate, std::size_t slot, KeyUsage signer,
                      const EcKey& signing_key);

// The slot that a signer of this usage has signed. Null unless it is exactly one, and the other is
// unused (kNone, kNone, zeros) or of another possible parent.
const SignatureSlot* signature_slot(const SevCertificate& certificate, KeyUsage signer);

// Does `child` follow from `parent`? The firmware tells two kinds of no apart: a wrong form is
// INVALID_CERTIFICATE, wrong mathematics BAD_SIGNATURE.
enum class SignatureVerdict : std::uint8_t { kGood, kBadForm, kBadSignature };
SignatureVerdict check_signature(const SevCertificate& child, const SevCertificate& parent);

}  // namespace sealift::sev
