#include "vmm_glue/sev/host_card.h"

#include "engine/assert.h"
#include "engine/limits.h"
#include "vmm_glue/sev/exporter.h"
#include "vmm_glue/sev/little_endian.h"
#include "vmm_glue/sev/setup.h"

namespace sealift::sev {
namespace {

constexpr std::uint8_t kMovesVmsa = 1u << 0;
constexpr std::uint8_t kModelled = 1u << 1;
constexpr std::uint8_t kExpectsPolicy = 1u << 2;
constexpr std::size_t kFixedBytes = kHostCardHeaderBytes + kCertificateBytes + kChainBytes;
static_assert(kFixedBytes + kFirmwareBlobBytesMax <= limits::kPlatformBlobBytesMax);

Bytes slice(ByteView bytes, std::size_t at, std::size_t count) {
  const ByteView part = bytes.subspan(at, count);
  return {part.begin(), part.end()};
}

}  // namespace

Bytes encode(const HostCard& card) {
  SEALIFT_ASSERT(card.pdh.size() == kCertificateBytes && card.chain.size() == kChainBytes);
  SEALIFT_ASSERT(card.amd_certs.size() <= kFirmwareBlobBytesMax);
  const unsigned abilities = (card.moves_vmsa ? kMovesVmsa : 0u) |
                             (card.modelled ? kModelled : 0u) |
                             (card.expected_policy ? kExpectsPolicy : 0u);
  Bytes out;
  append_le(out, kHostCardVersion);
  append_le(out, card.flags);
  append_le(out, card.api_major);
  append_le(out, card.api_minor);
  append_le(out, card.build);
  append_le(out, card.c_bit_position);
  append_le(out, card.phys_addr_reduction);
  append_le(out, static_cast<std::uint8_t>(abilities));
  append_le(out, std::uint16_t{0});
  append_le(out, card.memlock_limit_bytes);
  append_le(out, static_cast<std::uint32_t>(card.pdh.size()));
  append_le(out, static_cast<std::uint32_t>(card.chain.size()));
  append_le(out, static_cast<std::uint32_t>(card.amd_certs.size()));
  append_le(out, card.expected_policy.value_or(0));
  SEALIFT_ASSERT(out.size() == kHostCardHeaderBytes);
  append(out, card.pdh);
  append(out, card.chain);
  append(out, card.amd_certs);
  return out;
}

Result<HostCard> decode_host_card(ByteView bytes) {
  constexpr auto kBad = ErrorClass::kMalformed;
  if (bytes.size() < kHostCardHeaderBytes) {
    return fail(kBad, "The SEV host card has {} bytes, less than its {}-byte header.", bytes.size(),
                kHostCardHeaderBytes);
  }
  const auto version = get_le<std::uint32_t>(bytes, 0);
  if (version != kHostCardVersion) {
    return fail(kBad, "The SEV host card has version {}; this host knows {}.", version,
                kHostCardVersion);
  }
  const auto pdh = get_le<std::uint32_t>(bytes, 24);
  const auto chain = get_le<std::uint32_t>(bytes, 28);
  const auto amd = get_le<std::uint32_t>(bytes, 32);
  if (pdh != kCertificateBytes || chain != kChainBytes || amd > kFirmwareBlobBytesMax ||
      bytes.size() != kFixedBytes + amd) {
    return fail(kBad,
                "The SEV host card of {} bytes says PDH {}, chain {} and AMD certificates {} bytes "
                "instead of {}, {} and at most {}.",
                bytes.size(), pdh, chain, amd, kCertificateBytes, kChainBytes,
                kFirmwareBlobBytesMax);
  }
  const auto abilities = get_le<std::uint8_t>(bytes, 13);
  const auto reserved = get_le<std::uint16_t>(bytes, 14);
  const auto policy = get_le<std::uint32_t>(bytes, 36);
  const bool expects_policy = (abilities & kExpectsPolicy) != 0;
  if ((abilities & ~(kMovesVmsa | kModelled | kExpectsPolicy)) != 0 || reserved != 0 ||
      (!expects_policy && policy != 0)) {
    return fail(kBad,
                "The SEV host card has abilities {:#x}, reserved bytes {:#x} and policy {:#x}.",
                abilities, reserved, policy);
  }
  return HostCard{
      .api_major = get_le<std::uint8_t>(bytes, 8),
      .api_minor = get_le<std::uint8_t>(bytes, 9),
      .build = get_le<std::uint8_t>(bytes, 10),
      .flags = get_le<std::uint32_t>(bytes, 4),
      .c_bit_position = get_le<std::uint8_t>(bytes, 11),
      .phys_addr_reduction = get_le<std::uint8_t>(bytes, 12),
      .memlock_limit_bytes = get_le<std::uint64_t>(bytes, 16),
      .moves_vmsa = (abilities & kMovesVmsa) != 0,
      .modelled = (abilities & kModelled) != 0,
      .expected_policy = expects_policy ? std::optional(policy) : std::nullopt,
      .pdh = slice(bytes, kHostCardHeaderBytes, kCertificateBytes),
      .chain = slice(bytes, kHostCardHeaderBytes + kCertificateBytes, kChainBytes),
      .amd_certs = slice(bytes, kFixedBytes, amd),
  };
}

Result<HostCard> read_host_card(const SevVm& vm) {
  // The export first: it initialises a platform that was not yet, and the status then says so.
  SEALIFT_TRY(PlatformCertificates certificates, export_certificates(vm));
  SevPlatformStatus status;
  constexpr auto kCommand = SevDeviceCommand::kPlatformStatus;
  SEALIFT_CHECK(check(issue(vm, kCommand, &status), name_of(kCommand)));
  HostCard out;
  out.api_major = status.api_major;
  out.api_minor = status.api_minor;
  out.build = status.build;
  out.flags = status.flags;
  out.memlock_limit_bytes = memlock_limit_bytes();
  out.pdh = std::move(certificates.pdh);
  out.chain = std::move(certificates.chain);
  return out;
}

}  // namespace sealift::sev
