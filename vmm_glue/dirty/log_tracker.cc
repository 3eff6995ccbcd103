#include "vmm_glue/dirty/log_tracker.h"

#include <linux/kvm.h>

#include <algorithm>
#include <utility>

namespace sealift {
namespace {

// Pages armed by one KVM_CLEAR_DIRTY_LOG: KVM holds the VM's MMU lock for the call, and a vCPU that
// faults waits for it. KVM wants a multiple of 64.
constexpr std::uint64_t kClearPages = 1ULL << 16;
static_assert(kClearPages % 64 == 0);

std::uint64_t words_of(std::uint64_t pages) { return (pages + 63) / 64; }

}  // namespace

LogTracker::LogTracker(const KvmHandle& vm, std::vector<KvmSlot> slots, DirtySet& dirty)
    : DirtyTracker(vm, std::move(slots), dirty) {
  std::uint64_t words = 0;
  for (const KvmSlot& slot : slots_) words = std::max(words, words_of(slot.range.pages));
  words_.resize(words);
}

Result<std::span<std::uint64_t>> LogTracker::fetch(const KvmSlot& slot) {
  kvm_dirty_log log{};
  log.slot = slot.id;
  log.dirty_bitmap = words_.data();
  if (const auto got = SEALIFT_KVM(vm_, KVM_GET_DIRTY_LOG, &log); !got) {
    return fail(got.error().cls, "{}: {}", describe(slot), got.error().detail);
  }
  return std::span(words_).first(words_of(slot.range.pages));
}

Result<void> LogTracker::collect() {
  for (const KvmSlot& slot : slots_) {
    SEALIFT_TRY(const auto words, fetch(slot));  // the call arms every page that it reports
    merge_bitmap(dirty_, slot.range, words);
  }
  return {};
}

Result<std::uint64_t> manual_protect_modes(const KvmHandle& vm) {
  SEALIFT_TRY(const int modes,
              SEALIFT_KVM(vm, KVM_CHECK_EXTENSION, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2));
  const auto offered = static_cast<std::uint64_t>(modes);
  if ((offered & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE) == 0) {
    return fail(ErrorClass::kLocalFault,
                "this KVM has no manual dirty log protection "
                "(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 is {})",
                modes);
  }
  // With INITIALLY_SET the slot's first log is all ones and start() protects nothing: a migration
  // sends every page in its first round anyway.
  return offered & (KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET);
}

Result<std::unique_ptr<DirtyTracker>> ManualLogTracker::make(const KvmHandle& vm,
                                                             std::vector<KvmSlot> slots,
                                                             DirtySet& dirty) {
  kvm_enable_cap cap{};
  cap.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2;
  SEALIFT_TRY(const std::uint64_t modes, manual_protect_modes(vm));
  cap.args[0] = modes;
  if (const auto enabled = SEALIFT_KVM(vm, KVM_ENABLE_CAP, &cap); !enabled) {
    return fail(enabled.error().cls, "manual dirty log protection (modes {}): {}", modes,
                enabled.error().detail);
  }
  return std::unique_ptr<DirtyTracker>(new ManualLogTracker(vm, std::move(slots), dirty));
}

Result<void> ManualLogTracker::collect() {
  for (const KvmSlot& slot : slots_) {
    SEALIFT_TRY(const auto words, fetch(slot));
    SEALIFT_CHECK(clear_and_merge(slot, words));
  }
  return {};
}

// Merged only when armed (I2). A page written between the two calls stays in KVM's bitmap if it was
// not in ours, because only the bits given are cleared.
Result<void> ManualLogTracker::clear_and_merge(const KvmSlot& slot,
                                               std::span<std::uint64_t> words) {
  for (std::uint64_t first = 0; first < slot.range.pages; first += kClearPages) {
    const std::uint64_t pages = std::min(kClearPages, slot.range.pages - first);
    const auto part = words.subspan(first / 64, words_of(pages));
    if (std::all_of(part.begin(), part.end(), [](std::uint64_t word) { return word == 0; }))
      continue;
    kvm_clear_dirty_log clear{};
    clear.slot = slot.id;
    clear.first_page = first;
    clear.num_pages = static_cast<std::uint32_t>(pages);
    clear.dirty_bitmap = part.data();
    const auto cleared = SEALIFT_KVM(vm_, KVM_CLEAR_DIRTY_LOG, &clear);
    merge_bitmap(dirty_, GfnRange{slot.range.first + first, pages}, part);
    if (!cleared) {
      return fail(cleared.error().cls, "{}, {} pages from {}: {}", describe(slot), pages, first,
                  cleared.error().detail);
    }
  }
  return {};
}

}  // namespace sealift
