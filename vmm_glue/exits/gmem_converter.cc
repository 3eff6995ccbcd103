#include "vmm_glue/exits/gmem_converter.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>

#include "vmm_glue/exits/guest_range.h"
#include "vmm_glue/exits/memory_attributes.h"

namespace sealift {
namespace {

GfnRange intersection(GfnRange a, GfnRange b) {
  const std::uint64_t first = std::max(value(a.first), value(b.first));
  const std::uint64_t end = std::min(value(end_of(a)), value(end_of(b)));
  return GfnRange{Gfn{first}, first < end ? end - first : 0};
}

Result<void> check_slot(const GmemSlot& slot, std::uint64_t span_pages) {
  const std::uint64_t first = value(slot.range.first);
  const bool in_map =
      slot.range.pages != 0 && first < span_pages && slot.range.pages <= span_pages - first;
  const bool aligned = reinterpret_cast<std::uintptr_t>(slot.shared) % kPageBytes == 0 &&
                       slot.shared_offset % kPageBytes == 0 &&
                       slot.guest_memfd_offset % kPageBytes == 0;
  const bool has_sides = slot.shared != nullptr && slot.guest_memfd >= 0 &&
                         (slot.backing != SharedBacking::kFile || slot.shared_fd >= 0);
  if (in_map && aligned && has_sides) return {};
  return fail(ErrorClass::kUsage, "slot {} of {} pages from gfn {:#x} {}", slot.slot,
              slot.range.pages, first,
              !in_map   ? "does not lie inside the page map"
              : aligned ? "lacks one of its sides"
                        : "is not page-aligned in its files");
}

}  // namespace

int KernelDiscard::advise(std::byte* at, std::uint64_t bytes, int advice) {
  return ::madvise(at, bytes, advice) == 0 ? 0 : -errno;
}

int KernelDiscard::punch_hole(int fd, std::uint64_t offset, std::uint64_t bytes) {
  return ::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                     static_cast<off_t>(bytes)) == 0
             ? 0
             : -errno;
}

Result<std::unique_ptr<GmemConverter>> GmemConverter::make(Parts parts,
                                                           std::vector<GmemSlot> slots) {
  std::sort(slots.begin(), slots.end(), [](const GmemSlot& a, const GmemSlot& b) {
    return value(a.range.first) < value(b.range.first);
  });
  for (std::size_t i = 0; i < slots.size(); ++i) {
    SEALIFT_CHECK(check_slot(slots[i], parts.map.span_pages()));
    if (i > 0 && overlaps(slots[i - 1].range, slots[i].range)) {
      return fail(ErrorClass::kUsage, "slots {} and {} overlap at gfn {:#x}", slots[i - 1].slot,
                  slots[i].slot, value(slots[i].range.first));
    }
  }
  return std::unique_ptr<GmemConverter>(new GmemConverter(std::move(parts), std::move(slots)));
}

Converted GmemConverter::convert(GfnRange range, PageClass cls) {
  const std::lock_guard lock(mutex_);
  return convert_locked(range, cls);
}

Converted GmemConverter::settle(GfnRange range, PageClass cls) {
  const std::lock_guard lock(mutex_);
  if (all_pages_are(parts_.map, range, cls)) return Converted::kAlready;
  return convert_locked(range, cls);
}

Converted GmemConverter::convert_locked(GfnRange range, PageClass cls) {
  const std::vector<Piece> pieces = pieces_of(range);
  if (pieces.empty()) {
    counters_.last_error = fmt::format("{} pages from gfn {:#x} are not wholly in slots",
                                       range.pages, value(range.first));
    return Converted::kFailed;
  }
  if (parts_.gate && parts_.gate(range, cls) == ConvertVerdict::kLater) return Converted::kLater;
  auto set = set_memory_attributes(parts_.io, parts_.vm_fd, range, cls);
  if (!set) {
    ++counters_.refused_attributes;
    counters_.last_error = std::move(set.error().detail);
    return Converted::kFailed;
  }
  for (const Piece& piece : pieces) discard_other_side(piece, cls);
  convert_pages(parts_.map, parts_.dirty, range, cls);
  ++counters_.conversions;
  return Converted::kDone;
}

// The parts of the range in each slot, ascending; none if a page of it is in no slot.
std::vector<GmemConverter::Piece> GmemConverter::pieces_of(GfnRange range) const {
  std::vector<Piece> pieces;
  std::uint64_t covered = 0;
  for (const GmemSlot& slot : slots_) {
    const GfnRange part = intersection(slot.range, range);
    if (part.pages == 0) continue;
    pieces.push_back(Piece{&slot, part});
    covered += part.pages;
  }
  if (covered != range.pages) pieces.clear();
  return pieces;
}

void GmemConverter::discard_other_side(const Piece& piece, PageClass now) {
  const GmemSlot& slot = *piece.slot;
  const std::uint64_t at = (value(piece.range.first) - value(slot.range.first)) * kPageBytes;
  const std::uint64_t bytes = piece.range.pages * kPageBytes;
  const int result =
      now == PageClass::kPrivate
          ? discard_shared(slot, at, bytes)
          : parts_.discard.punch_hole(slot.guest_memfd, slot.guest_memfd_offset + at, bytes);
  if (result >= 0) return;
  ++counters_.failed_discards;
  counters_.last_error =
      fmt::format("the {} side of {} pages from gfn {:#x} in slot {} could not be given back: {}",
                  now == PageClass::kPrivate ? "shared" : "private", piece.range.pages,
                  value(piece.range.first), slot.slot, errno_text(-result));
}

int GmemConverter::discard_shared(const GmemSlot& slot, std::uint64_t at, std::uint64_t bytes) {
  switch (slot.backing) {
    case SharedBacking::kPrivateAnonymous:
      return parts_.discard.advise(slot.shared + at, bytes, MADV_DONTNEED);
    case SharedBacking::kSharedAnonymous:
      return parts_.discard.advise(slot.shared + at, bytes, MADV_REMOVE);
    case SharedBacking::kFile:
      return parts_.discard.punch_hole(slot.shared_fd, slot.shared_offset + at, bytes);
    case SharedBacking::kPreallocated:
      break;
  }
  return 0;
}

Result<void> GmemConverter::apply_map() {
  const std::lock_guard lock(mutex_);
  for (const GmemSlot& slot : slots_) {
    SEALIFT_CHECK(set_memory_attributes(parts_.io, parts_.vm_fd, slot.range, PageClass::kPrivate));
  }
  for (const GfnRange& shared : parts_.map.shared_ranges()) {
    for (const GmemSlot& slot : slots_) {
      const GfnRange part = intersection(slot.range, shared);
      if (part.pages == 0) continue;
      SEALIFT_CHECK(set_memory_attributes(parts_.io, parts_.vm_fd, part, PageClass::kShared));
    }
  }
  return {};
}

GmemCounters GmemConverter::counters() const {
  const std::lock_guard lock(mutex_);
  return counters_;
}

}  // namespace sealift
