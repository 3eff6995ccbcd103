// GuestMemory: a guest's RAM: one memfd, mapped once and linearly, without the gap below 4 GiB.
//
// Owner:   the VM; addresses handed out die with it.
// Threads: any; the bytes are a running guest's (vmm_glue/host_copy.h).
// Failure: kLocalFault with errno and size when the mapping cannot be made.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/memory_layout.h"
#include "engine/result.h"
#include "engine/types.h"
#include "vmm_glue/guest/mailbox.h"
#include "vmm_glue/vmm/vm_config.h"

namespace sealift {

class GuestMemory {
 public:
  enum class Populate : bool { kOnTouch = false, kNow = true };
  // REQUIRES: `layout` is one of layout_of_guest(). Huge pages: the guest's size is a multiple of
  // one, and the host's reserve (/proc/sys/vm/nr_hugepages) has enough of them.
  static Result<GuestMemory> make(const MemoryLayout& layout, Populate populate,
                                  MemoryBacking backing = MemoryBacking::kMemfd);
  GuestMemory(GuestMemory&& other) noexcept;
  GuestMemory& operator=(GuestMemory&&) = delete;
  ~GuestMemory();

  std::uint64_t pages() const { return pages_; }
  // Null when the frame is no RAM. Cheap: the modelled vCPU asks at every access.
  std::byte* find(Gfn gfn) const {
    std::uint64_t linear = value(gfn);
    if (linear >= guest::kGapFirstGfn) {
      if (linear < guest::kGapEndGfn) return nullptr;
      linear -= guest::kGapEndGfn - guest::kGapFirstGfn;
    }
    return linear < pages_ ? base_ + linear * kPageBytes : nullptr;
  }
  // REQUIRES: gfn is RAM.
  std::byte* at(Gfn gfn) const;

 private:
  GuestMemory(std::byte* base, std::uint64_t pages) : base_(base), pages_(pages) {}

  std::byte* base_;
  std::uint64_t pages_;
};

}  // namespace sealift
