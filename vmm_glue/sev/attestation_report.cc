#include "vmm_glue/sev/attestation_report.h"

#include <algorithm>
#include <cstring>

#include "vmm_glue/sev/certificate.h"

namespace sealift::sev {
namespace {

constexpr std::size_t kNumberBytes = 72;  // field of one EC number, little endian

#pragma pack(push, 1)
struct Wire {
  Block nonce;
  Digest launch_digest;
  std::uint32_t policy;
  std::uint32_t usage;
  std::uint32_t algorithm;
  std::uint32_t reserved;
  std::array<std::byte, kNumberBytes> r;
  std::array<std::byte, kNumberBytes> s;
};
#pragma pack(pop)
static_assert(sizeof(Wire) == kAttestationBytes);
constexpr std::size_t kSignedReportBytes = offsetof(Wire, usage);
static_assert(kSignedReportBytes == 52);

constexpr auto kUsage = static_cast<std::uint32_t>(KeyUsage::kPek);
constexpr auto kAlgorithm = static_cast<std::uint32_t>(KeyAlgorithm::kEcdsaSha256);

ByteView signed_part(const Wire& wire) {
  return std::as_bytes(std::span(&wire, 1)).first(kSignedReportBytes);
}

std::optional<EcNumber> get_number(const std::array<std::byte, kNumberBytes>& field) {
  const auto padding = field.begin() + kEcBytes;
  if (std::any_of(padding, field.end(), [](std::byte b) { return b != std::byte{0}; })) {
    return std::nullopt;
  }
  EcNumber out{};
  std::reverse_copy(field.begin(), padding, out.begin());
  return out;
}

}  // namespace

AttestationBytes sign_attestation(const AttestationReport& report, const EcKey& pek) {
  Wire wire{.nonce = report.nonce,
            .launch_digest = report.launch_digest,
            .policy = report.policy,
            .usage = kUsage,
            .algorithm = kAlgorithm,
            .reserved = 0,
            .r = {},
            .s = {}};
  const EcSignature signature = pek.sign(signed_part(wire));
  std::reverse_copy(signature.r.begin(), signature.r.end(), wire.r.begin());
  std::reverse_copy(signature.s.begin(), signature.s.end(), wire.s.begin());
  AttestationBytes out{};
  std::memcpy(out.data(), &wire, sizeof(wire));
  return out;
}

std::optional<AttestationReport> open_attestation(
    std::span<const std::byte, kAttestationBytes> bytes, const EcPublicKey& pek) {
  Wire wire;
  std::memcpy(&wire, bytes.data(), sizeof(wire));
  const auto r = get_number(wire.r);
  const auto s = get_number(wire.s);
  if (wire.usage != kUsage || wire.algorithm != kAlgorithm || wire.reserved != 0 || !r || !s ||
      !pek.verify(signed_part(wire), {*r, *s})) {
    return std::nullopt;
  }
  return AttestationReport{
      .nonce = wire.nonce, .launch_digest = wire.launch_digest, .policy = wire.policy};
}

}  // namespace sealift::sev
