// KvmVcpu::save() and load(): the items of kvm_vcpu_items.h on the real kernel.
#include "vmm_glue/vmm/kvm_vcpu.h"
#include "vmm_glue/vmm/kvm_vcpu_items.h"

namespace sealift {

Result<std::vector<StateBlob>> KvmVcpu::save(StateNotes& notes) const {
  KernelIoctl kernel;
  return save_vcpu_items(
      {kernel, handle_.fd(), index_, system_.has_sregs2, system_.xsave_bytes, system_.msrs}, notes);
}

Result<StateNotes> KvmVcpu::load(const std::vector<StateBlob>& state) {
  KernelIoctl kernel;
  return load_vcpu_items(
      {kernel, handle_.fd(), index_, system_.has_sregs2, system_.xsave_bytes, system_.msrs}, state);
}

}  // namespace sealift
