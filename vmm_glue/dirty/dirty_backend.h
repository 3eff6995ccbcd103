// DirtyBackend: the means by which Linux tells which pages of a guest were written.
//
//   log     KVM_GET_DIRTY_LOG: fetches a bitmap and arms its pages again in one call. Every KVM.
//   manual  KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: fetching and arming (KVM_CLEAR_DIRTY_LOG) are two
//           calls, and arming goes in pieces, so KVM's MMU lock is never held for a whole slot.
//           Its first harvest may report every page.
//   ring    KVM_CAP_DIRTY_LOG_RING(_ACQ_REL): a queue of page numbers for each vCPU. A
//           harvest costs by what was written, not by the guest's size; a full ring stops its vCPU.
//   uffd    userfaultfd's asynchronous write protection with PAGEMAP_SCAN (Linux 6.7). Sees writes
//           of the guest and of this process alike, and works where KVM has no log: the shared half
//           of guest_memfd slots. It does not see writes through another mapping of the same file,
//           in this process or in another, nor by devices that have pinned the pages.
//
// Spec:    Linux Documentation/virt/kvm/api.rst; Documentation/admin-guide/mm/userfaultfd.rst.
// Threads: any. Failure: can_use() gives the reason in a sentence.
#pragma once

#include <cstdint>
#include <string_view>

#include "engine/result.h"
#include "vmm_glue/vmm/kvm_handle.h"

namespace sealift {

enum class DirtyBackend : std::uint8_t { kAuto, kGetLog, kManualProtect, kRing, kUffd };
const char* name_of(DirtyBackend backend);  // "auto", "log", "manual", "ring", "uffd"
Result<DirtyBackend> parse_dirty_backend(std::string_view name);

// Whether the kernel offers it to this VM. Changes nothing in the VM.
Result<void> can_use(DirtyBackend backend, const KvmHandle& vm);

// What kAuto stands for: manual, and log where the kernel has no manual. Measured with 16384 dirty
// pages of 66000 (page-table-based KVM, Linux 6.18): starting costs 0.08 ms with manual, 0.8 to 4
// with ring, 5 to 8 with log, 24 to 43 with uffd; a harvest 0.55 ms with manual and log, 1 (pages
// in order) to 12 (at random) with ring, 2 to 3 with uffd. An idle harvest costs 2 us with manual
// and log and grows with the guest, 0.2 with ring, 130 with uffd.
DirtyBackend resolve_auto(const KvmHandle& vm);

}  // namespace sealift
