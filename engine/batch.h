// Batches: what travels. A batch holds pages of one class and one epoch, at most
// limits::kBatchPagesMax of them. Plain values, moved from maker to user.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/types.h"

namespace sealift {

// How a shared page is encoded. Wire values: append only; a receiver refuses what it does not know.
enum class PageEncoding : std::uint8_t { kZero = 1, kRaw = 2 };

struct SharedBatch {
  std::uint32_t epoch = 0;
  std::uint8_t stream = 0;
  std::vector<Gfn> gfns;
  std::vector<PageEncoding> encodings;  // one for each gfn
  Bytes body;                           // kPageBytes for each kRaw page, in order
  friend bool operator==(const SharedBatch&, const SharedBatch&) = default;
};

// Shared pages on a stream of their own, sent from the guest's memory and received into it.
struct LivePages {
  std::uint32_t epoch = 0;
  std::uint8_t stream = 0;
  std::vector<GfnRange> zero;  // all zero: nothing in the payload
  std::vector<GfnRange> raw;   // the payload, in this order
  Bytes body;                  // empty where the pages never lie in one piece: on the streams
  friend bool operator==(const LivePages&, const LivePages&) = default;
};
constexpr std::uint64_t pages_in(std::span<const GfnRange> ranges) {
  std::uint64_t pages = 0;
  for (GfnRange range : ranges) pages += range.pages;
  return pages;
}

// What the importer is to do with an entry. Wire values: append only.
enum class PrivateOp : std::uint8_t {
  kImport = 1,  // first or newer content
  kCancel = 2,  // forget the earlier content (TDX CANCEL: the page became shared or was removed)
  kMetadata =
      3,  // not a guest page: platform metadata (SNP swap tree); gfn is the platform's number
  kNothing = 4,      // a list entry that failed at the source and only takes its place (TDX NOP)
  kImportEmpty = 5,  // the page exists and has no content yet (TDX PENDING)
};
// A body travels with the entry / the entry stands for a guest page that has now arrived.
constexpr bool has_body(PrivateOp op) {
  return op == PrivateOp::kImport || op == PrivateOp::kMetadata;
}
constexpr bool is_page(PrivateOp op) {
  return op == PrivateOp::kImport || op == PrivateOp::kImportEmpty;
}

// A list of pages as the platform's firmware exported them. Which fields a platform uses:
// docs/ARCHITECTURE.md.
struct PrivateBatch {
  std::uint32_t epoch = 0;
  std::uint8_t stream = 0;
  std::vector<Gfn> gfns;
  std::vector<PrivateOp> ops;         // one for each gfn
  Bytes batch_auth;                   // over the whole list (TDX MBMD, SEV's binding)
  std::uint32_t page_auth_bytes = 0;  // bytes of page_auth for each entry (SEV packet header: 52)
  Bytes page_auth;
  std::uint32_t page_body_bytes = 0;  // bytes of body for each kImport and kMetadata entry
  Bytes body;
  friend bool operator==(const PrivateBatch&, const PrivateBatch&) = default;
};

}  // namespace sealift
