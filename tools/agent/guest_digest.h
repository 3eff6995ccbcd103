// Digests of a guest: what it sees in its memory, and its page map.
//
// memory_sha256 is SHA-256 over the SHA-256 of every RAM page in the guest's own view, in ascending
// order; a private page that was never written counts as zeros, and so does a page that never
// arrived. Page digests can be taken one by one as pages arrive, so the digest of the hand-over
// costs no downtime. Threads: ArrivalDigest by one thread at a time. Failure: as the view that is
// read.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "engine/memory_layout.h"
#include "engine/page_map.h"
#include "engine/records.h"
#include "engine/result.h"

namespace sealift {

struct GuestDigest {
  Digest memory_sha256{};
  Digest page_map_sha256{};
  std::uint64_t shared_pages = 0;
  std::uint64_t private_pages = 0;  // RAM pages that are not shared
};

// Reads one page as the guest sees it. False: nobody but the guest can read it; its digest is
// zeros.
using GuestView = std::function<Result<bool>(Gfn, std::span<std::byte, kPageBytes>)>;

class ArrivalDigest {
 public:
  explicit ArrivalDigest(const MemoryLayout& layout);
  // The pages have new content: hash what the guest would read there.
  Result<void> update(std::span<const Gfn> gfns, const GuestView& view);
  Result<void> update_all(const GuestView& view);
  Digest memory_sha256() const;

 private:
  std::size_t index_of(Gfn gfn) const;  // REQUIRES: gfn in the layout

  MemoryLayout layout_;
  std::vector<Digest> pages_;  // in the layout's order
};

// Of a guest whose memory does not change meanwhile (paused, or handed over).
Result<GuestDigest> digest_of(const MemoryLayout& layout, const PageMap& map,
                              const GuestView& view);
// The page map's part; memory_sha256 stays zero.
GuestDigest page_map_digest(const MemoryLayout& layout, const PageMap& map);

}  // namespace sealift
