#include "tools/agent/guest_digest.h"

#include <openssl/evp.h>

#include <algorithm>
#include <array>

#include "engine/assert.h"

namespace sealift {
namespace {

Digest sha256(ByteView bytes) {
  Digest digest{};
  unsigned int size = 0;
  const int ok =
      EVP_Digest(bytes.data(), bytes.size(), reinterpret_cast<unsigned char*>(digest.data()), &size,
                 EVP_sha256(), nullptr);
  SEALIFT_ASSERT(ok == 1);
  SEALIFT_ASSERT(size == digest.size());
  return digest;
}

}  // namespace

ArrivalDigest::ArrivalDigest(const MemoryLayout& layout)
    : layout_(layout), pages_(layout.pages(), sha256(std::array<std::byte, kPageBytes>{})) {}

std::size_t ArrivalDigest::index_of(Gfn gfn) const {
  std::uint64_t before = 0;
  for (GfnRange range : layout_.ranges()) {
    if (value(gfn) >= value(range.first) && value(gfn) < value(end_of(range))) {
      return before + (value(gfn) - value(range.first));
    }
    before += range.pages;
  }
  assert_failed("gfn in the layout", __FILE__, __LINE__);
}

Result<void> ArrivalDigest::update(std::span<const Gfn> gfns, const GuestView& view) {
  std::array<std::byte, kPageBytes> page{};
  for (Gfn gfn : gfns) {
    SEALIFT_TRY(const bool is_readable, view(gfn, page));
    pages_[index_of(gfn)] = is_readable ? sha256(page) : Digest{};
  }
  return {};
}

Result<void> ArrivalDigest::update_all(const GuestView& view) {
  for (GfnRange range : layout_.ranges()) {
    for (std::uint64_t i = 0; i < range.pages; ++i) {
      const Gfn gfn = range.first + i;
      SEALIFT_CHECK(update(std::span(&gfn, 1), view));
    }
  }
  return {};
}

Digest ArrivalDigest::memory_sha256() const { return sha256(std::as_bytes(std::span(pages_))); }

GuestDigest page_map_digest(const MemoryLayout& layout, const PageMap& map) {
  GuestDigest digest;
  digest.page_map_sha256 = map.digest();
  digest.shared_pages = map.shared_pages();
  digest.private_pages = layout.pages() - digest.shared_pages;
  return digest;
}

Result<GuestDigest> digest_of(const MemoryLayout& layout, const PageMap& map,
                              const GuestView& view) {
  ArrivalDigest pages(layout);
  SEALIFT_CHECK(pages.update_all(view));
  GuestDigest digest = page_map_digest(layout, map);
  digest.memory_sha256 = pages.memory_sha256();
  return digest;
}

}  // namespace sealift
