// KVM_CAP_VM_COPY_ENC_CONTEXT_FROM and KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM.

#include <algorithm>
#include <cerrno>

#include "vmm_glue/model/sev/shim.h"

namespace sealift::sev {

int KvmShim::enable_cap(const std::shared_ptr<SoftVm>& vm, void* arg) {
  KvmEnableCap request;
  if (!UserMemory::copy_in(reinterpret_cast<std::uint64_t>(arg), request)) return -EFAULT;
  if (request.flags != 0) return -EINVAL;
  if (request.cap != kCapCopyEncContextFrom && request.cap != kCapMoveEncContextFrom) {
    return -EINVAL;
  }
  const std::shared_ptr<SoftVm> source = find_vm_(static_cast<int>(request.args[0]));
  if (source == nullptr) return -EBADF;
  if (source == vm) return -EINVAL;
  if (request.cap == kCapCopyEncContextFrom) return copy_from(*vm, source);
  const int result = move_from(vm, *source);
  publish(*source);
  return result;
}

// The mirror may run and use four commands; its memory is the owner's.
int KvmShim::copy_from(SoftVm& mirror, const std::shared_ptr<SoftVm>& source) {
  if (mirror.active || !source->active || source->owner != nullptr || !mirror.vcpus.empty()) {
    return -EINVAL;
  }
  mirror.active = true;
  mirror.es = source->es;
  mirror.asid = source->asid;
  mirror.handle = source->handle;
  mirror.sev_fd = source->sev_fd;
  mirror.ghcb = source->ghcb;
  mirror.view = std::make_unique<GuestView>(memory_, mirror.asid);
  mirror.owner = source;
  source->mirrors.push_back(&mirror);
  return 0;
}

// Everything but the number of the /dev/sev fd and the AP jump table, as KVM.
int KvmShim::move_from(const std::shared_ptr<SoftVm>& destination, SoftVm& source) {
  SoftVm& to = *destination;
  if (to.type != source.type || to.active || !source.active) return -EINVAL;
  if (source.es) {
    const bool encrypted = std::all_of(source.vcpus.begin(), source.vcpus.end(),
                                       [](const SoftVcpu& vcpu) { return vcpu.encrypted; });
    if (to.vcpus.size() != source.vcpus.size() || !encrypted) return -EINVAL;
    std::swap(to.vcpus, source.vcpus);
  }
  to.active = std::exchange(source.active, false);
  to.es = std::exchange(source.es, false);
  to.asid = std::exchange(source.asid, 0);
  to.handle = std::exchange(source.handle, 0);
  to.pages_locked = std::exchange(source.pages_locked, 0);
  to.ghcb = source.ghcb;
  to.terminated = source.terminated;
  to.regions = std::exchange(source.regions, {});
  to.view = std::make_unique<GuestView>(memory_, to.asid);
  to.mirrors = std::exchange(source.mirrors, {});
  for (SoftVm* mirror : to.mirrors) mirror->owner = destination;
  if (source.owner != nullptr) {
    std::replace(source.owner->mirrors.begin(), source.owner->mirrors.end(), &source, &to);
    to.owner = std::move(source.owner);
  }
  source.dead = true;
  return 0;
}

}  // namespace sealift::sev
