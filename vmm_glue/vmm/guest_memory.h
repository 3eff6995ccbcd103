// GuestMemory: a guest's RAM: one memfd, mapped once and linearly, without the gap below 4 GiB.
//
// Owner:   the VM; addresses handed out die with it.
// Threads: any; the bytes are a running guest's (vmm_glue/host_copy.h).
// Failure: kLocalFault with errno and size when the mapping cannot be made, or the file not be
// used.
//
// Holes: what nobody touched has no memory and reads as zeros. Only the file knows: a page of it
// may be in no page table of this process (dropped from there, swapped out, written by another
// process), so mincore and pagemap would call a page with content empty. SEEK_DATA finds every page
// that the file has, swapped out or not. A file of huge pages says of all of itself that it is
// there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

#include "engine/memory_layout.h"
#include "engine/result.h"
#include "engine/types.h"
#include "vmm_glue/guest/mailbox.h"
#include "vmm_glue/vmm/kvm_handle.h"
#include "vmm_glue/vmm/vm_config.h"

namespace sealift {

class GuestMemory {
 public:
  enum class Populate : bool { kOnTouch = false, kNow = true };
  // REQUIRES: `layout` is one of layout_of_guest(). Huge pages: the guest's size is a multiple of
  // one, and the host's reserve (/proc/sys/vm/nr_hugepages) has enough of them.
  static Result<GuestMemory> make(const MemoryLayout& layout, Populate populate,
                                  MemoryBacking backing = MemoryBacking::kMemfd);

  // Every run of pages that were ever touched (read through the mapping is touched), ascending; one
  // that is touched meanwhile may be left out.
  Result<void> for_each_populated(const std::function<void(GfnRange)>& visit) const;
  // True only if nobody touched the page. REQUIRES: gfn is RAM
  bool is_hole(Gfn gfn) const;

  // As a copy through the mapping would; faster where nothing was touched yet: a page is neither
  // faulted in nor cleared first. REQUIRES: the range is RAM, `in` of its size.
  Result<void> write(GfnRange range, ByteView in) const;
  // Holes stay holes; what was touched is given back, but where memory was populated on purpose.
  // `keep`: it is never given back. REQUIRES: the range is RAM.
  Result<void> write_zeros(GfnRange range, bool keep) const;

  std::uint64_t pages() const { return pages_; }
  // Null when the frame is no RAM. Cheap: the modelled vCPU asks at every access.
  std::byte* find(Gfn gfn) const {
    std::uint64_t linear = value(gfn);
    if (linear >= guest::kGapFirstGfn) {
      if (linear < guest::kGapEndGfn) return nullptr;
      linear -= guest::kGapEndGfn - guest::kGapFirstGfn;
    }
    return linear < pages_ ? base_.get() + linear * kPageBytes : nullptr;
  }
  // How many pages of the range lie in one piece. REQUIRES: the range is RAM.
  std::uint64_t contiguous(GfnRange range) const {
    const std::uint64_t first = value(range.first);
    if (first >= guest::kGapFirstGfn) return range.pages;
    return std::min(range.pages, guest::kGapFirstGfn - first);
  }
  // REQUIRES: gfn is RAM.
  std::byte* at(Gfn gfn) const;

 private:
  // Pages of the file.
  struct FileRun {
    std::uint64_t first = 0;
    std::uint64_t pages = 0;
  };
  struct Unmap {
    std::uint64_t bytes = 0;
    void operator()(std::byte* base) const;
  };

  GuestMemory(KvmHandle file, std::byte* base, std::uint64_t pages, bool on_touch)
      : file_(std::move(file)),
        base_(base, Unmap{pages * kPageBytes}),
        pages_(pages),
        on_touch_(on_touch) {}
  // The first touched page in [from, end), pages of the file; `end` when there is none.
  Result<std::uint64_t> next_data(std::uint64_t from, std::uint64_t end) const;
  // Calls visit(FileRun) for the range: two runs when it spans the gap.
  template <class Visit>
  Result<void> for_each_file_run(GfnRange range, Visit visit) const;

  KvmHandle file_;
  std::unique_ptr<std::byte, Unmap> base_;
  std::uint64_t pages_;
  bool on_touch_;  // small pages, and only those that are touched
};

}  // namespace sealift
