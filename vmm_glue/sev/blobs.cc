#include "vmm_glue/sev/blobs.h"

#include "engine/assert.h"
#include "engine/limits.h"

namespace sealift::sev {
namespace {

static_assert(kBlobHeaderBytes + kCertificateBytes + kChainBytes + kFirmwareBlobBytesMax <=
              limits::kPlatformBlobBytesMax);

void put32(Bytes& out, std::uint64_t number) {
  for (unsigned i = 0; i < 4; ++i) out.push_back(std::byte(number >> (8 * i) & 0xff));
}

std::uint32_t get32(ByteView bytes, std::size_t at) {
  std::uint32_t out = 0;
  for (std::size_t i = 0; i < 4; ++i) {
    out |= std::to_integer<std::uint32_t>(bytes[at + i]) << (8 * i);
  }
  return out;
}

void append(Bytes& out, ByteView part) { out.insert(out.end(), part.begin(), part.end()); }

Bytes slice(ByteView bytes, std::size_t at, std::size_t count) {
  const ByteView part = bytes.subspan(at, count);
  return {part.begin(), part.end()};
}

Result<void> check_header(const char* what, ByteView bytes) {
  if (bytes.size() < kBlobHeaderBytes) {
    return fail(ErrorClass::kMalformed,
                "The SEV {} blob has {} bytes, less than its {}-byte header.", what, bytes.size(),
                kBlobHeaderBytes);
  }
  if (get32(bytes, 0) != kBlobVersion) {
    return fail(ErrorClass::kMalformed, "The SEV {} blob has version {}; this host knows {}.", what,
                get32(bytes, 0), kBlobVersion);
  }
  return {};
}

}  // namespace

Bytes encode(const IdentityBlob& blob) {
  SEALIFT_ASSERT(blob.pdh.size() == kCertificateBytes);
  SEALIFT_ASSERT(blob.chain.size() == kChainBytes);
  SEALIFT_ASSERT(blob.amd_certs.size() <= kFirmwareBlobBytesMax);
  Bytes out;
  put32(out, kBlobVersion);
  put32(out, blob.pdh.size());
  put32(out, blob.chain.size());
  put32(out, blob.amd_certs.size());
  append(out, blob.pdh);
  append(out, blob.chain);
  append(out, blob.amd_certs);
  return out;
}

Result<IdentityBlob> decode_identity(ByteView bytes) {
  SEALIFT_CHECK(check_header("identity", bytes));
  const std::uint32_t pdh = get32(bytes, 4);
  const std::uint32_t chain = get32(bytes, 8);
  const std::uint32_t amd = get32(bytes, 12);
  constexpr std::size_t kFixed = kBlobHeaderBytes + kCertificateBytes + kChainBytes;
  if (pdh != kCertificateBytes || chain != kChainBytes || amd > kFirmwareBlobBytesMax ||
      bytes.size() != kFixed + amd) {
    return fail(ErrorClass::kMalformed,
                "The SEV identity blob of {} bytes says PDH {}, chain {} and AMD certificates {} "
                "bytes instead of {}, {} and at most {}.",
                bytes.size(), pdh, chain, amd, kCertificateBytes, kChainBytes,
                kFirmwareBlobBytesMax);
  }
  return IdentityBlob{
      .pdh = slice(bytes, kBlobHeaderBytes, kCertificateBytes),
      .chain = slice(bytes, kBlobHeaderBytes + kCertificateBytes, kChainBytes),
      .amd_certs = slice(bytes, kFixed, amd),
  };
}

Bytes encode(const StartBlob& blob) {
  SEALIFT_ASSERT(blob.pdh.size() == kCertificateBytes);
  SEALIFT_ASSERT(blob.session.size() == kSessionBytes);
  Bytes out;
  put32(out, kBlobVersion);
  put32(out, blob.policy);
  put32(out, blob.pdh.size());
  put32(out, blob.session.size());
  append(out, blob.pdh);
  append(out, blob.session);
  return out;
}

Result<StartBlob> decode_start(ByteView bytes) {
  SEALIFT_CHECK(check_header("start", bytes));
  const std::uint32_t pdh = get32(bytes, 8);
  const std::uint32_t session = get32(bytes, 12);
  constexpr std::size_t kFixed = kBlobHeaderBytes + kCertificateBytes + kSessionBytes;
  if (pdh != kCertificateBytes || session != kSessionBytes || bytes.size() != kFixed) {
    return fail(
        ErrorClass::kMalformed,
        "The SEV start blob of {} bytes says PDH {} and session {} bytes instead of {} and {}.",
        bytes.size(), pdh, session, kCertificateBytes, kSessionBytes);
  }
  return StartBlob{
      .policy = get32(bytes, 4),
      .pdh = slice(bytes, kBlobHeaderBytes, kCertificateBytes),
      .session = slice(bytes, kBlobHeaderBytes + kCertificateBytes, kSessionBytes),
  };
}

Result<void> check_pdh(ByteView certificate) {
  SEALIFT_TRY(const SevCertificate pdh, SevCertificate::parse(certificate));
  if (pdh.usage != KeyUsage::kPdh) {
    return fail(ErrorClass::kPolicy, "The peer's PDH certificate is a {} certificate.",
                name_of(pdh.usage));
  }
  return {};
}

}  // namespace sealift::sev
