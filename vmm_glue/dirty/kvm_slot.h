// KvmSlot: one memory slot of a VM, and switching its dirty log.
//
// Spec:    Linux api.rst, KVM_SET_USER_MEMORY_REGION. A guest_memfd slot can be neither created nor
//          modified this way, and KVM logs none of its pages, shared ones included.
// Owner:   plain values; the memory at `host` outlives the slot.
// Threads: any one at a time for a VM.
// Failure: kLocalFault with the ioctl, the slot and errno; kUsage for a guest_memfd slot.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "engine/dirty_set.h"
#include "engine/result.h"
#include "engine/types.h"
#include "vmm_glue/vmm/kvm_handle.h"

namespace sealift {

struct KvmSlot {
  std::uint32_t id = 0;
  GfnRange range{};
  std::byte* host = nullptr;  // of the first page; of a guest_memfd slot: its shared half
  bool guest_memfd = false;
};
// "slot 3 (gfn 0x100000, 512 pages)"
std::string describe(const KvmSlot& slot);

// Creates the slot, or changes its flag. REQUIRES: an existing slot has the same place and host.
Result<void> set_slot(const KvmHandle& vm, const KvmSlot& slot, bool logged);

// Marks in `dirty` the pages of a dirty bitmap: bit i stands for range.first + i; bits past the
// range are ignored. REQUIRES: the range is within dirty's span; a word for every 64 pages.
void merge_bitmap(DirtySet& dirty, GfnRange range, std::span<const std::uint64_t> words);

}  // namespace sealift
