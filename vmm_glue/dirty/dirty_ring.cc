#include "vmm_glue/dirty/dirty_ring.h"

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>

namespace sealift {

static_assert(sizeof(kvm_dirty_gfn) == 16);

Result<DirtyRing> DirtyRing::map(const KvmHandle& vcpu, std::uint32_t entries) {
  const std::size_t bytes = entries * sizeof(kvm_dirty_gfn);
  const off_t offset = KVM_DIRTY_LOG_PAGE_OFFSET * sysconf(_SC_PAGESIZE);
  void* area = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu.fd(), offset);
  if (area == MAP_FAILED) {
    return fail(ErrorClass::kLocalFault, "mmap of a dirty ring of {} entries failed: {}", entries,
                strerrorname_np(errno));
  }
  DirtyRing ring(std::span(static_cast<kvm_dirty_gfn*>(area), entries));
  ring.mapped_ = true;
  return ring;
}

DirtyRing::DirtyRing(DirtyRing&& other) noexcept
    : entries_(other.entries_), mapped_(std::exchange(other.mapped_, false)), next_(other.next_) {}

DirtyRing::~DirtyRing() {
  if (mapped_) munmap(entries_.data(), entries_.size_bytes());
}

void DirtyRing::take(std::vector<RingPage>& into) {
  for (std::size_t turn = 0; turn < entries_.size(); ++turn) {
    kvm_dirty_gfn& entry = entries_[next_];
    std::atomic_ref flags(entry.flags);
    if (flags.load(std::memory_order_acquire) != KVM_DIRTY_GFN_F_DIRTY) break;
    into.push_back(RingPage{entry.slot, entry.offset});
    flags.store(KVM_DIRTY_GFN_F_RESET, std::memory_order_release);
    next_ = (next_ + 1) % entries_.size();
  }
}

}  // namespace sealift
