#include "vmm_glue/sev/amd_certificate.h"

#include <algorithm>

#include "engine/assert.h"

namespace sealift::sev {
namespace {

constexpr std::uint32_t kVersion = 1;
constexpr std::size_t kKeyIdAt = 4;
constexpr std::size_t kCertifyingIdAt = 20;
constexpr std::size_t kUsageAt = 36;
constexpr std::size_t kReservedAt = 40;
constexpr std::size_t kReservedBytes = 16;
constexpr std::size_t kExponentBitsAt = 56;
constexpr std::size_t kModulusBitsAt = 60;
constexpr std::size_t kNumbersAt = 64;
constexpr std::size_t kExponentBytes = 4;  // of the number; its field is as long as the modulus
static_assert(kNumbersAt + 3 * kRsaSmallBits / 8 == kAmdSmallBytes);
static_assert(kNumbersAt + 3 * kRsaLargeBits / 8 == kAmdLargeBytes);

std::uint32_t get32(ByteView bytes, std::size_t at) {
  std::uint32_t out = 0;
  for (std::size_t i = 0; i < 4; ++i) {
    out |= std::to_integer<std::uint32_t>(bytes[at + i]) << (8 * i);
  }
  return out;
}

void put32(MutableBytes bytes, std::size_t at, std::size_t number) {
  for (std::size_t i = 0; i < 4; ++i) bytes[at + i] = std::byte(number >> (8 * i) & 0xff);
}

bool all_zero(ByteView bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{0}; });
}

Bytes reversed(ByteView field) { return {field.rbegin(), field.rend()}; }

KeyAlgorithm algorithm_of(const AmdCertificate& certificate) {
  return certificate.bits() == kRsaSmallBits ? KeyAlgorithm::kRsaSha256 : KeyAlgorithm::kRsaSha384;
}

Result<void> check_head(ByteView bytes, std::size_t field_bytes) {
  constexpr auto kBad = ErrorClass::kPolicy;
  if (get32(bytes, 0) != kVersion) {
    return fail(kBad, "An AMD certificate has version {}; only {} is known.", get32(bytes, 0),
                kVersion);
  }
  const std::uint32_t usage = get32(bytes, kUsageAt);
  if (KeyUsage{usage} != KeyUsage::kArk && KeyUsage{usage} != KeyUsage::kAsk) {
    return fail(kBad, "An AMD certificate has key usage {:#x}, which is neither ARK nor ASK.",
                usage);
  }
  if (!all_zero(bytes.subspan(kReservedAt, kReservedBytes))) {
    return fail(kBad, "The {} certificate's reserved bytes are not zero.",
                name_of(KeyUsage{usage}));
  }
  const std::uint32_t exponent_bits = get32(bytes, kExponentBitsAt);
  const std::uint32_t modulus_bits = get32(bytes, kModulusBitsAt);
  if (exponent_bits != 8 * field_bytes || modulus_bits != 8 * field_bytes) {
    return fail(
        kBad, "The {} certificate of {} bytes says exponent {} and modulus {} bits instead of {}.",
        name_of(KeyUsage{usage}), bytes.size(), exponent_bits, modulus_bits, 8 * field_bytes);
  }
  return {};
}

}  // namespace

Result<AmdCertificate> AmdCertificate::parse(ByteView bytes) {
  constexpr auto kBad = ErrorClass::kPolicy;
  if (bytes.size() != kAmdSmallBytes && bytes.size() != kAmdLargeBytes) {
    return fail(kBad, "An AMD certificate has {} bytes instead of {} or {}.", bytes.size(),
                kAmdSmallBytes, kAmdLargeBytes);
  }
  const std::size_t field_bytes = (bytes.size() - kNumbersAt) / 3;
  SEALIFT_CHECK(check_head(bytes, field_bytes));
  AmdCertificate out;
  std::copy_n(bytes.begin() + kKeyIdAt, out.key_id.size(), out.key_id.begin());
  std::copy_n(bytes.begin() + kCertifyingIdAt, out.certifying_id.size(), out.certifying_id.begin());
  out.usage = KeyUsage{get32(bytes, kUsageAt)};
  const ByteView exponent = bytes.subspan(kNumbersAt, field_bytes);
  if (get32(exponent, 0) != kRsaExponent || !all_zero(exponent.subspan(kExponentBytes))) {
    return fail(kBad, "The {} certificate's exponent is not {}.", name_of(out.usage), kRsaExponent);
  }
  out.modulus = reversed(bytes.subspan(kNumbersAt + field_bytes, field_bytes));
  out.signature = reversed(bytes.subspan(kNumbersAt + 2 * field_bytes, field_bytes));
  if (!RsaPublicKey::from_modulus(out.modulus)) {
    return fail(kBad, "The {} certificate's modulus is not an odd number of {} bits.",
                name_of(out.usage), out.bits());
  }
  return out;
}

Bytes AmdCertificate::encode() const {
  const std::size_t field_bytes = modulus.size();
  SEALIFT_ASSERT(bits() == kRsaSmallBits || bits() == kRsaLargeBits);
  SEALIFT_ASSERT(signature.empty() || signature.size() == field_bytes);
  Bytes out(kNumbersAt + 3 * field_bytes);
  put32(out, 0, kVersion);
  std::copy(key_id.begin(), key_id.end(), out.begin() + kKeyIdAt);
  std::copy(certifying_id.begin(), certifying_id.end(), out.begin() + kCertifyingIdAt);
  put32(out, kUsageAt, static_cast<std::uint32_t>(usage));
  put32(out, kExponentBitsAt, bits());
  put32(out, kModulusBitsAt, bits());
  put32(out, kNumbersAt, kRsaExponent);
  const MutableBytes numbers = MutableBytes(out).subspan(kNumbersAt);
  std::reverse_copy(modulus.begin(), modulus.end(), numbers.subspan(field_bytes).begin());
  std::reverse_copy(signature.begin(), signature.end(), numbers.subspan(2 * field_bytes).begin());
  return out;
}

AmdCertificate unsigned_amd_certificate(KeyUsage usage, const RsaPublicKey& key,
                                        const KeyId& key_id, const KeyId& certifying_id) {
  SEALIFT_ASSERT(usage == KeyUsage::kAsk || (usage == KeyUsage::kArk && key_id == certifying_id));
  AmdCertificate out;
  out.key_id = key_id;
  out.certifying_id = certifying_id;
  out.usage = usage;
  out.modulus = key.modulus();
  return out;
}

void sign_certificate(AmdCertificate& certificate, const RsaKey& ark) {
  SEALIFT_ASSERT(ark.public_key().bits() == certificate.bits());
  const Bytes bytes = certificate.encode();
  certificate.signature =
      ark.sign_pss(ByteView(bytes).first(bytes.size() - certificate.modulus.size()));
}

void sign_certificate(SevCertificate& cek, std::size_t slot, const RsaKey& ask) {
  SEALIFT_ASSERT(cek.usage == KeyUsage::kCek && slot < cek.slots.size());
  const CertificateBytes bytes = cek.encode();
  const Bytes signature = ask.sign_pss(ByteView(bytes).first(kSignedBytes));
  const auto algorithm = ask.public_key().bits() == kRsaSmallBits ? KeyAlgorithm::kRsaSha256
                                                                  : KeyAlgorithm::kRsaSha384;
  SignatureSlot& out = cek.slots[slot];
  out = {.usage = KeyUsage::kAsk, .algorithm = algorithm, .bytes = {}};
  std::reverse_copy(signature.begin(), signature.end(), out.bytes.begin());
}

SignatureVerdict check_signature(const AmdCertificate& child, const AmdCertificate& parent) {
  const bool own = child.usage == KeyUsage::kArk;
  if (parent.usage != KeyUsage::kArk || (!own && child.usage != KeyUsage::kAsk) ||
      child.certifying_id != parent.key_id || (own && child.key_id != parent.key_id) ||
      child.bits() != parent.bits() || child.signature.size() != child.modulus.size()) {
    return SignatureVerdict::kBadForm;
  }
  const auto key = RsaPublicKey::from_modulus(parent.modulus);
  if (!key) return SignatureVerdict::kBadForm;
  const Bytes encoded = child.encode();
  const ByteView covered = ByteView(encoded).first(encoded.size() - child.modulus.size());
  return key->verify_pss(covered, child.signature) ? SignatureVerdict::kGood
                                                   : SignatureVerdict::kBadSignature;
}

SignatureVerdict check_signature(const SevCertificate& cek, const AmdCertificate& ask) {
  if (cek.usage != KeyUsage::kCek || ask.usage != KeyUsage::kAsk) return SignatureVerdict::kBadForm;
  const SignatureSlot* slot = signature_slot(cek, KeyUsage::kAsk);
  const auto key = RsaPublicKey::from_modulus(ask.modulus);
  if (slot == nullptr || !key || slot->algorithm != algorithm_of(ask) ||
      !all_zero(ByteView(slot->bytes).subspan(ask.modulus.size()))) {
    return SignatureVerdict::kBadForm;
  }
  const CertificateBytes encoded = cek.encode();
  const Bytes signature = reversed(ByteView(slot->bytes).first(ask.modulus.size()));
  return key->verify_pss(ByteView(encoded).first(kSignedBytes), signature)
             ? SignatureVerdict::kGood
             : SignatureVerdict::kBadSignature;
}

}  // namespace sealift::sev
