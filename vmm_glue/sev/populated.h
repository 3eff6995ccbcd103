// Which private pages of a SEV guest hold anything: a page that was never written needs no export.
//
// A page that the guest never wrote through its C-bit mapping still holds the host's zeros: launch
// and every such write leave ciphertext there, and 4096 bytes of ciphertext are not all zero. Left
// out, it reads as the host's zeros "decrypted" on both sides: noise that no guest relies on, and
// another noise on each host. Who compares guest memory takes such a page for a page of zeros.
//
// Caches. With coherent caches (CPUID 8000001F EAX bit 10) the host's read sees every write.
// Without them a guest's write may sit in a cache line under the C-bit's alias while memory, and
// the host's read, still show zeros. Then a page counts as never written only after WBINVD on all
// CPUs that came after the page was taken from the dirty set, and after its own lines of the host's
// alias were flushed (a line read earlier would show the past, and newer kernels write back without
// invalidating). Proof: let T be the taking of the page, F the flush after it. A write before F is
// in memory at F, so the page is not zero. A write after F comes after T: a later harvest marks the
// page, nothing takes that mark any more in this window, and the page comes again in a later one,
// which has its own flush. In the last epoch the guest is paused. So that a flush serves many
// pages, such a host's exporter asks for windows (PrivateTraits::prepare_window_pages): all pages
// of a window are taken before its prepare(), and the flush comes after that.
//
// Only the first copy may be left out: a page that was exported or converted in this session may
// have a copy at the destination, and zeros can come back to it (turned shared, cleared, turned
// private again). `Settled` remembers these.
// Owner:   Settled: one exporter. Threads: any. Failure: none.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "engine/result.h"
#include "engine/types.h"
#include "vmm_glue/sev/command.h"

namespace sealift::sev {

// Pages of one window: what one flush of all caches serves, and what is taken early for it.
inline constexpr std::uint32_t kFlushWindowPages = 32768;

// Does the host see a page of zeros? A guest may write it at the same time. REQUIRES: page-aligned.
bool never_written(const std::byte* host_page);

// Writes back and drops the host's cached lines of one page.
void flush_host_view(const std::byte* host_page);

// WBINVD on all CPUs: KVM does it when a region is unregistered (Linux 6.1 sev.c,
// svm_unregister_enc_region), so a page of our own is registered and unregistered.
Result<void> flush_all_caches(const SevVm& vm);

// Pages that travelled or changed class in this session: one bit for each.
class Settled {
 public:
  void clear();
  void add(GfnRange pages);  // pages beyond limits::kGuestPagesMax are no pages of a guest
  bool contains(Gfn gfn) const;

 private:
  mutable std::mutex mutex_;
  std::vector<bool> pages_;  // guarded by mutex_; as long as the highest page asks for
};

}  // namespace sealift::sev
