#include "vmm_glue/dirty/uffd_tracker.h"

#include <span>
#include <utility>

namespace sealift {
namespace {

std::span<std::byte> memory_of(const KvmSlot& slot) {
  return std::span(slot.host, slot.range.pages * kPageBytes);
}

Result<void> in_slot(const KvmSlot& slot, Result<void> result) {
  if (result) return result;
  return fail(result.error().cls, "{}: {}", describe(slot), result.error().detail);
}

}  // namespace

Result<std::unique_ptr<DirtyTracker>> UffdTracker::make(const KvmHandle& vm,
                                                        std::vector<KvmSlot> slots,
                                                        DirtySet& dirty) {
  SEALIFT_CHECK(WrittenPages::probe());
  return std::unique_ptr<DirtyTracker>(new UffdTracker(vm, std::move(slots), dirty));
}

Result<void> UffdTracker::arm() {
  SEALIFT_TRY(WrittenPages written, WrittenPages::open());
  for (const KvmSlot& slot : slots_) SEALIFT_CHECK(in_slot(slot, written.watch(memory_of(slot))));
  written_.emplace(std::move(written));
  return {};
}

Result<void> UffdTracker::disarm() {
  written_.reset();
  return {};
}

Result<void> UffdTracker::collect() {
  for (const KvmSlot& slot : slots_) {
    const auto mark = [this, &slot](const PageRun& run) {
      dirty_.mark(GfnRange{slot.range.first + run.first, run.pages});
    };
    SEALIFT_CHECK(in_slot(slot, written_->take(memory_of(slot), mark)));
  }
  return {};
}

}  // namespace sealift
