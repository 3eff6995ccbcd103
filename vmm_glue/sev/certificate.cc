#include "vmm_glue/sev/certificate.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <span>

#include "engine/assert.h"

namespace sealift::sev {
namespace {

constexpr std::uint32_t kVersion = 1;
constexpr std::uint32_t kCurveP384 = 2;
constexpr std::size_t kNumberBytes = 72;  // field of one EC number, little endian
constexpr std::size_t kReservedAt = 6;
constexpr std::size_t kUsageAt = 8;
constexpr std::size_t kAlgorithmAt = 12;
constexpr std::size_t kCurveAt = 16;
constexpr std::size_t kXAt = 20;
constexpr std::size_t kYAt = kXAt + kNumberBytes;
constexpr std::size_t kKeyPaddingAt = kYAt + kNumberBytes;
constexpr std::size_t kSlotBytes = 8 + kSignatureBytes;
static_assert(kSignedBytes + 2 * kSlotBytes == kCertificateBytes);

std::uint32_t get32(ByteView bytes, std::size_t at) {
  std::uint32_t out = 0;
  for (std::size_t i = 0; i < 4; ++i) {
    out |= std::to_integer<std::uint32_t>(bytes[at + i]) << (8 * i);
  }
  return out;
}

void put32(MutableBytes bytes, std::size_t at, std::uint32_t number) {
  for (std::size_t i = 0; i < 4; ++i) bytes[at + i] = std::byte(number >> (8 * i) & 0xff);
}

bool all_zero(ByteView bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{0}; });
}

void put_number(MutableBytes field, const EcNumber& number) {
  std::reverse_copy(number.begin(), number.end(), field.begin());
}

// Empty when the bytes above the number's 48 are not zero.
std::optional<EcNumber> get_number(ByteView field) {
  if (!all_zero(field.subspan(kEcBytes, kNumberBytes - kEcBytes))) return std::nullopt;
  EcNumber out{};
  std::reverse_copy(field.begin(), field.begin() + kEcBytes, out.begin());
  return out;
}

KeyAlgorithm algorithm_of(KeyUsage usage) {
  return usage == KeyUsage::kPdh ? KeyAlgorithm::kEcdhSha256 : KeyAlgorithm::kEcdsaSha256;
}

bool is_platform_usage(KeyUsage usage) {
  return usage == KeyUsage::kOca || usage == KeyUsage::kPek || usage == KeyUsage::kPdh ||
         usage == KeyUsage::kCek;
}

bool is_parent(KeyUsage child, KeyUsage parent) {
  switch (child) {
    case KeyUsage::kPdh:
      return parent == KeyUsage::kPek;
    case KeyUsage::kPek:
      return parent == KeyUsage::kOca || parent == KeyUsage::kCek;
    case KeyUsage::kOca:
      return parent == KeyUsage::kOca;
    case KeyUsage::kCek:
      return parent == KeyUsage::kAsk;
    default:
      return false;
  }
}

}  // namespace

const char* name_of(KeyUsage usage) {
  switch (usage) {
    case KeyUsage::kArk:
      return "ARK";
    case KeyUsage::kAsk:
      return "ASK";
    case KeyUsage::kNone:
      return "none";
    case KeyUsage::kOca:
      return "OCA";
    case KeyUsage::kPek:
      return "PEK";
    case KeyUsage::kPdh:
      return "PDH";
    case KeyUsage::kCek:
      return "CEK";
  }
  return "unknown";
}

const char* name_of(KeyAlgorithm algorithm) {
  switch (algorithm) {
    case KeyAlgorithm::kNone:
      return "none";
    case KeyAlgorithm::kRsaSha256:
      return "RSA-PSS SHA-256";
    case KeyAlgorithm::kEcdsaSha256:
      return "ECDSA SHA-256";
    case KeyAlgorithm::kEcdhSha256:
      return "ECDH SHA-256";
    case KeyAlgorithm::kRsaSha384:
      return "RSA-PSS SHA-384";
    case KeyAlgorithm::kEcdsaSha384:
      return "ECDSA SHA-384";
    case KeyAlgorithm::kEcdhSha384:
      return "ECDH SHA-384";
  }
  return "unknown";
}

Result<SevCertificate> SevCertificate::parse(ByteView bytes) {
  constexpr auto kBad = ErrorClass::kPolicy;
  if (bytes.size() != kCertificateBytes) {
    return fail(kBad, "A SEV certificate has {} bytes instead of {}.", bytes.size(),
                kCertificateBytes);
  }
  if (get32(bytes, 0) != kVersion) {
    return fail(kBad, "A SEV certificate has version {}; only {} is known.", get32(bytes, 0),
                kVersion);
  }
  SevCertificate out;
  out.api_major = std::to_integer<std::uint8_t>(bytes[4]);
  out.api_minor = std::to_integer<std::uint8_t>(bytes[5]);
  out.usage = KeyUsage{get32(bytes, kUsageAt)};
  out.algorithm = KeyAlgorithm{get32(bytes, kAlgorithmAt)};
  if (!is_platform_usage(out.usage) || out.algorithm != algorithm_of(out.usage)) {
    return fail(kBad, "A SEV certificate has key usage {:#x} with algorithm {:#x}.",
                static_cast<std::uint32_t>(out.usage), static_cast<std::uint32_t>(out.algorithm));
  }
  const auto x = get_number(bytes.subspan(kXAt, kNumberBytes));
  const auto y = get_number(bytes.subspan(kYAt, kNumberBytes));
  if (get32(bytes, kCurveAt) != kCurveP384 || !x || !y ||
      !all_zero(bytes.subspan(kKeyPaddingAt, kSignedBytes - kKeyPaddingAt)) ||
      !all_zero(bytes.subspan(kReservedAt, 2))) {
    return fail(kBad, "The {} certificate's key is not a padded P-384 key (curve id {}).",
                name_of(out.usage), get32(bytes, kCurveAt));
  }
  out.key = {*x, *y};
  if (!EcPublicKey::from_point(out.key)) {
    return fail(kBad, "The {} certificate's key is not a point on P-384.", name_of(out.usage));
  }
  for (std::size_t i = 0; i < out.slots.size(); ++i) {
    const ByteView slot = bytes.subspan(kSignedBytes + i * kSlotBytes, kSlotBytes);
    out.slots[i].usage = KeyUsage{get32(slot, 0)};
    out.slots[i].algorithm = KeyAlgorithm{get32(slot, 4)};
    std::copy(slot.begin() + 8, slot.end(), out.slots[i].bytes.begin());
  }
  return out;
}

CertificateBytes SevCertificate::encode() const {
  CertificateBytes out{};
  const MutableBytes bytes(out);
  put32(bytes, 0, kVersion);
  out[4] = std::byte{api_major};
  out[5] = std::byte{api_minor};
  put32(bytes, kUsageAt, static_cast<std::uint32_t>(usage));
  put32(bytes, kAlgorithmAt, static_cast<std::uint32_t>(algorithm));
  put32(bytes, kCurveAt, kCurveP384);
  put_number(bytes.subspan(kXAt, kNumberBytes), key.x);
  put_number(bytes.subspan(kYAt, kNumberBytes), key.y);
  for (std::size_t i = 0; i < slots.size(); ++i) {
    const MutableBytes slot = bytes.subspan(kSignedBytes + i * kSlotBytes, kSlotBytes);
    put32(slot, 0, static_cast<std::uint32_t>(slots[i].usage));
    put32(slot, 4, static_cast<std::uint32_t>(slots[i].algorithm));
    std::copy(slots[i].bytes.begin(), slots[i].bytes.end(), slot.begin() + 8);
  }
  return out;
}

SevCertificate unsigned_certificate(KeyUsage usage, const EcPublicKey& key, std::uint8_t api_major,
                                    std::uint8_t api_minor) {
  SEALIFT_ASSERT(is_platform_usage(usage));
  SevCertificate out;
  out.api_major = api_major;
  out.api_minor = api_minor;
  out.usage = usage;
  out.algorithm = algorithm_of(usage);
  out.key = key.point();
  return out;
}

void sign_certificate(SevCertificate& certificate, std::size_t slot, KeyUsage signer,
                      const EcKey& signing_key) {
  SEALIFT_ASSERT(slot < certificate.slots.size());
  SEALIFT_ASSERT(is_platform_usage(signer) && is_parent(certificate.usage, signer));
  const CertificateBytes bytes = certificate.encode();
  const EcSignature signature = signing_key.sign(ByteView(bytes).first(kSignedBytes));
  SignatureSlot& out = certificate.slots[slot];
  out = {.usage = signer, .algorithm = KeyAlgorithm::kEcdsaSha256, .bytes = {}};
  put_number(std::span(out.bytes).subspan(0, kNumberBytes), signature.r);
  put_number(std::span(out.bytes).subspan(kNumberBytes, kNumberBytes), signature.s);
}

const SignatureSlot* signature_slot(const SevCertificate& certificate, KeyUsage signer) {
  const SignatureSlot* found = nullptr;
  for (const SignatureSlot& slot : certificate.slots) {
    if (slot.usage == KeyUsage::kNone) {
      if (slot != SignatureSlot{}) return nullptr;  // an unused slot holds nothing
    } else if (!is_parent(certificate.usage, slot.usage)) {
      return nullptr;
    } else if (slot.usage == signer) {
      if (found != nullptr) return nullptr;
      found = &slot;
    }
  }
  return found;
}

SignatureVerdict check_signature(const SevCertificate& child, const SevCertificate& parent) {
  if (!is_platform_usage(parent.usage) || !is_parent(child.usage, parent.usage)) {
    return SignatureVerdict::kBadForm;
  }
  const SignatureSlot* slot = signature_slot(child, parent.usage);
  if (slot == nullptr || slot->algorithm != parent.algorithm) return SignatureVerdict::kBadForm;
  const ByteView bytes(slot->bytes);
  const auto r = get_number(bytes.subspan(0, kNumberBytes));
  const auto s = get_number(bytes.subspan(kNumberBytes, kNumberBytes));
  if (!r || !s || !all_zero(bytes.subspan(2 * kNumberBytes))) return SignatureVerdict::kBadForm;

  const auto key = EcPublicKey::from_point(parent.key);
  if (!key) return SignatureVerdict::kBadForm;
  const CertificateBytes encoded = child.encode();
  const bool good = key->verify(ByteView(encoded).first(kSignedBytes), {*r, *s});
  return good ? SignatureVerdict::kGood : SignatureVerdict::kBadSignature;
}

}  // namespace sealift::sev
