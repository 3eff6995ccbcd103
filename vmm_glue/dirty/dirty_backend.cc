#include "vmm_glue/dirty/dirty_backend.h"

#include <linux/kvm.h>

#include "vmm_glue/dirty/log_tracker.h"
#include "vmm_glue/dirty/ring_tracker.h"
#include "vmm_glue/dirty/written_pages.h"

namespace sealift {

const char* name_of(DirtyBackend backend) {
  switch (backend) {
    case DirtyBackend::kAuto:
      return "auto";
    case DirtyBackend::kGetLog:
      return "log";
    case DirtyBackend::kManualProtect:
      return "manual";
    case DirtyBackend::kRing:
      return "ring";
    case DirtyBackend::kUffd:
      return "uffd";
  }
  return "invalid dirty back-end";
}

Result<DirtyBackend> parse_dirty_backend(std::string_view name) {
  for (const DirtyBackend backend :
       {DirtyBackend::kAuto, DirtyBackend::kGetLog, DirtyBackend::kManualProtect,
        DirtyBackend::kRing, DirtyBackend::kUffd}) {
    if (name == name_of(backend)) return backend;
  }
  return fail(ErrorClass::kUsage, "dirty back-end '{}' is none of auto, log, manual, ring, uffd",
              name);
}

Result<void> can_use(DirtyBackend backend, const KvmHandle& vm) {
  switch (backend) {
    case DirtyBackend::kAuto:
    case DirtyBackend::kGetLog:
      return {};  // part of every KVM
    case DirtyBackend::kManualProtect: {
      SEALIFT_TRY([[maybe_unused]] const std::uint64_t modes, manual_protect_modes(vm));
      return {};
    }
    case DirtyBackend::kRing: {
      SEALIFT_TRY([[maybe_unused]] const RingCapability ring, ring_capability(vm));
      return {};
    }
    case DirtyBackend::kUffd:
      return WrittenPages::probe();
  }
  return fail(ErrorClass::kUsage, "{}", name_of(backend));
}

DirtyBackend resolve_auto(const KvmHandle& vm) {
  return can_use(DirtyBackend::kManualProtect, vm) ? DirtyBackend::kManualProtect
                                                   : DirtyBackend::kGetLog;
}

}  // namespace sealift
