#include "vmm_glue/abi/kvm_run.h"

#include <linux/kvm.h>
#include <linux/kvm_para.h>

namespace sealift {
namespace {

// The system's header is the kernel's word; ours must say the same.
static_assert(offsetof(kvm_run, immediate_exit) == offsetof(KvmRun, immediate_exit));
static_assert(offsetof(kvm_run, exit_reason) == offsetof(KvmRun, exit_reason));
static_assert(offsetof(kvm_run, if_flag) == offsetof(KvmRun, if_flag));
static_assert(offsetof(kvm_run, flags) == offsetof(KvmRun, flags));
static_assert(offsetof(kvm_run, cr8) == offsetof(KvmRun, cr8));
static_assert(offsetof(kvm_run, apic_base) == offsetof(KvmRun, apic_base));
static_assert(offsetof(kvm_run, mmio.phys_addr) == offsetof(KvmRun, exit.mmio.phys_addr));
static_assert(offsetof(kvm_run, mmio.data) == offsetof(KvmRun, exit.mmio.data));
static_assert(offsetof(kvm_run, mmio.len) == offsetof(KvmRun, exit.mmio.len));
static_assert(offsetof(kvm_run, mmio.is_write) == offsetof(KvmRun, exit.mmio.is_write));
static_assert(offsetof(kvm_run, hypercall.nr) == offsetof(KvmRun, exit.hypercall.nr));
static_assert(offsetof(kvm_run, hypercall.args) == offsetof(KvmRun, exit.hypercall.args));
static_assert(offsetof(kvm_run, hypercall.ret) == offsetof(KvmRun, exit.hypercall.ret));
static_assert(offsetof(kvm_run, internal.suberror) == offsetof(KvmRun, exit.internal.suberror));
static_assert(offsetof(kvm_run, internal.ndata) == offsetof(KvmRun, exit.internal.ndata));
static_assert(offsetof(kvm_run, fail_entry.hardware_entry_failure_reason) ==
              offsetof(KvmRun, exit.fail_entry.reason));
static_assert(offsetof(kvm_run, kvm_valid_regs) == sizeof(KvmRun));

static_assert(KVM_EXIT_UNKNOWN == kKvmExitUnknown && KVM_EXIT_IO == kKvmExitIo);
static_assert(KVM_EXIT_HYPERCALL == kKvmExitHypercall && KVM_EXIT_HLT == kKvmExitHlt);
static_assert(KVM_EXIT_MMIO == kKvmExitMmio && KVM_EXIT_SHUTDOWN == kKvmExitShutdown);
static_assert(KVM_EXIT_FAIL_ENTRY == kKvmExitFailEntry && KVM_EXIT_INTR == kKvmExitIntr);
static_assert(KVM_EXIT_INTERNAL_ERROR == kKvmExitInternalError);
static_assert(KVM_HC_MAP_GPA_RANGE == kKvmHypercallPageState);
static_assert(std::uint64_t{KVM_ENOSYS} == 0 - kKvmHypercallUnknown);

}  // namespace
}  // namespace sealift
