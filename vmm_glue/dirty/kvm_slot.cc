#include "vmm_glue/dirty/kvm_slot.h"

#include <fmt/core.h>
#include <linux/kvm.h>

#include "engine/assert.h"

namespace sealift {

std::string describe(const KvmSlot& slot) {
  return fmt::format("slot {} (gfn {:#x}, {} pages)", slot.id, value(slot.range.first),
                     slot.range.pages);
}

Result<void> set_slot(const KvmHandle& vm, const KvmSlot& slot, bool logged) {
  if (slot.guest_memfd) {
    return fail(ErrorClass::kUsage, "{}: guest_memfd slots have no dirty log", describe(slot));
  }
  kvm_userspace_memory_region region{};
  region.slot = slot.id;
  region.flags = logged ? KVM_MEM_LOG_DIRTY_PAGES : 0;
  region.guest_phys_addr = value(base_of(slot.range.first));
  region.memory_size = slot.range.pages * kPageBytes;
  region.userspace_addr = reinterpret_cast<std::uintptr_t>(slot.host);
  if (const auto set = SEALIFT_KVM(vm, KVM_SET_USER_MEMORY_REGION, &region); !set) {
    return fail(set.error().cls, "{}: {}", describe(slot), set.error().detail);
  }
  return {};
}

void merge_bitmap(DirtySet& dirty, GfnRange range, std::span<const std::uint64_t> words) {
  SEALIFT_ASSERT(words.size() == (range.pages + 63) / 64);
  const std::uint64_t first_word = value(range.first) / 64;
  const std::uint64_t shift = value(range.first) % 64;
  for (std::size_t i = 0; i < words.size(); ++i) {
    std::uint64_t bits = words[i];
    const std::uint64_t valid = range.pages - i * 64;
    if (valid < 64) bits &= (1ULL << valid) - 1;
    if (bits == 0) continue;
    dirty.merge_word(first_word + i, bits << shift);
    if (shift == 0) continue;
    const std::uint64_t high = bits >> (64 - shift);
    if (high != 0) dirty.merge_word(first_word + i + 1, high);
  }
}

}  // namespace sealift
