#include "vmm_glue/inguest/blobs.h"

#include <algorithm>
#include <cstring>

namespace sealift::inguest {
namespace {

constexpr std::size_t kHeaderBytes = 8;  // version, reserved

template <class... Fields>
Bytes with_header(const Fields&... fields) {
  Bytes out(kHeaderBytes + (fields.size() + ...));
  std::memcpy(out.data(), &kBlobVersion, sizeof kBlobVersion);
  std::size_t at = kHeaderBytes;
  const auto write = [&](const auto& field) {
    std::memcpy(out.data() + at, field.data(), field.size());
    at += field.size();
  };
  (write(fields), ...);
  return out;
}

template <class... Fields>
Result<void> read_fields(const char* what, ByteView bytes, Fields&... fields) {
  const std::size_t expected = kHeaderBytes + (fields.size() + ...);
  if (bytes.size() != expected) {
    return fail(ErrorClass::kMalformed, "An in-guest {} has {} bytes instead of {}.", what,
                bytes.size(), expected);
  }
  std::uint32_t version = 0;
  std::uint32_t reserved = 0;
  std::memcpy(&version, bytes.data(), sizeof version);
  std::memcpy(&reserved, bytes.data() + sizeof version, sizeof reserved);
  if (version != kBlobVersion || reserved != 0) {
    return fail(ErrorClass::kMalformed,
                "An in-guest {} has version {} and reserved bits {:#x} instead of {} and 0.", what,
                version, reserved, kBlobVersion);
  }
  std::size_t at = kHeaderBytes;
  const auto read = [&](auto& field) {
    std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(at), field.size(), field.begin());
    at += field.size();
  };
  (read(fields), ...);
  return {};
}

}  // namespace

Bytes encode(const IdentityBlob& blob) { return with_header(blob.key); }

Result<IdentityBlob> decode_identity(ByteView bytes) {
  IdentityBlob blob;
  SEALIFT_CHECK(read_fields("identity", bytes, blob.key));
  return blob;
}

Bytes encode(const StartBlob& blob) { return with_header(blob.key, blob.nonce, blob.proof); }

Result<StartBlob> decode_start(ByteView bytes) {
  StartBlob blob;
  SEALIFT_CHECK(read_fields("start", bytes, blob.key, blob.nonce, blob.proof));
  return blob;
}

Result<SealTag> decode_seal(ByteView bytes) {
  SealTag tag{};
  if (bytes.size() != tag.size()) {
    return fail(ErrorClass::kMalformed, "An in-guest seal has {} bytes instead of {}.",
                bytes.size(), tag.size());
  }
  std::copy(bytes.begin(), bytes.end(), tag.begin());
  return tag;
}

}  // namespace sealift::inguest
