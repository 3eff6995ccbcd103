#include "vmm_glue/sev/blobs.h"

#include <algorithm>

#include "engine/assert.h"
#include "engine/limits.h"
#include "vmm_glue/sev/little_endian.h"

namespace sealift::sev {
namespace {

constexpr std::size_t kIdentityPdhAt = kBlobHeaderBytes + sizeof(BindingPublicKey);
constexpr std::size_t kIdentityChainAt = kIdentityPdhAt + kCertificateBytes;
constexpr std::size_t kIdentityAmdAt = kIdentityChainAt + kChainBytes;
constexpr std::size_t kStartNonceAt = kBlobHeaderBytes + sizeof(BindingPublicKey);
constexpr std::size_t kStartPdhAt = kStartNonceAt + sizeof(BindingNonce);
constexpr std::size_t kStartSessionAt = kStartPdhAt + kCertificateBytes;
constexpr std::size_t kStartBytes = kStartSessionAt + kSessionBytes;
static_assert(kIdentityAmdAt + kFirmwareBlobBytesMax <= limits::kPlatformBlobBytesMax);

void put32(Bytes& out, std::uint64_t number) {
  append_le<std::uint32_t>(out, static_cast<std::uint32_t>(number));
}
std::uint32_t get32(ByteView bytes, std::size_t at) { return get_le<std::uint32_t>(bytes, at); }

std::array<std::byte, 32> take32(ByteView bytes, std::size_t at) {
  std::array<std::byte, 32> out{};
  std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(at), out.size(), out.begin());
  return out;
}

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
  append(out, blob.key);
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
  if (pdh != kCertificateBytes || chain != kChainBytes || amd > kFirmwareBlobBytesMax ||
      bytes.size() != kIdentityAmdAt + amd) {
    return fail(ErrorClass::kMalformed,
                "The SEV identity blob of {} bytes says PDH {}, chain {} and AMD certificates {} "
                "bytes instead of {}, {} and at most {}.",
                bytes.size(), pdh, chain, amd, kCertificateBytes, kChainBytes,
                kFirmwareBlobBytesMax);
  }
  return IdentityBlob{
      .pdh = slice(bytes, kIdentityPdhAt, kCertificateBytes),
      .chain = slice(bytes, kIdentityChainAt, kChainBytes),
      .amd_certs = slice(bytes, kIdentityAmdAt, amd),
      .key = take32(bytes, kBlobHeaderBytes),
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
  append(out, blob.key);
  append(out, blob.nonce);
  append(out, blob.pdh);
  append(out, blob.session);
  return out;
}

Result<StartBlob> decode_start(ByteView bytes) {
  SEALIFT_CHECK(check_header("start", bytes));
  const std::uint32_t pdh = get32(bytes, 8);
  const std::uint32_t session = get32(bytes, 12);
  if (pdh != kCertificateBytes || session != kSessionBytes || bytes.size() != kStartBytes) {
    return fail(
        ErrorClass::kMalformed,
        "The SEV start blob of {} bytes says PDH {} and session {} bytes instead of {} and {}.",
        bytes.size(), pdh, session, kCertificateBytes, kSessionBytes);
  }
  return StartBlob{
      .policy = get32(bytes, 4),
      .pdh = slice(bytes, kStartPdhAt, kCertificateBytes),
      .session = slice(bytes, kStartSessionAt, kSessionBytes),
      .key = take32(bytes, kBlobHeaderBytes),
      .nonce = take32(bytes, kStartNonceAt),
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
