#include "vmm_glue/exits/drain.h"

#include <cerrno>

#include "vmm_glue/host_ioctl.h"

namespace sealift {
namespace {

constexpr std::uint64_t kChunkPages = 512;
constexpr std::uint64_t kRunsAtLeast = 1024;  // a GHCB page has 253 page-state changes

}  // namespace

std::uint64_t drain_runs_max(const MemoryLayout& layout) {
  return layout.pages() / kChunkPages + kRunsAtLeast;
}

Result<std::uint64_t> drain_vcpu(DrainTarget& vcpu, std::uint64_t runs_max) {
  std::uint64_t served = 0;
  for (std::uint64_t runs = 0; runs < runs_max; ++runs) {
    const int error = vcpu.complete();
    if (error == EINTR) return served;
    if (error == EAGAIN) continue;
    if (error != 0 && error != EFAULT && error != EHWPOISON) {
      return fail(ErrorClass::kLocalFault, "KVM_RUN failed while completing an exit: {}",
                  errno_text(error));
    }
    SEALIFT_CHECK(vcpu.serve(error));
    ++served;
  }
  return fail(ErrorClass::kLocalFault, "still had exits to complete after {} runs", runs_max);
}

}  // namespace sealift
