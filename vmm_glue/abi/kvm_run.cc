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
static_assert(offsetof(kvm_run, io.port) == offsetof(KvmRun, exit.io.port));
static_assert(offsetof(kvm_run, io.count) == offsetof(KvmRun, exit.io.count));
static_assert(offsetof(kvm_run, io.data_offset) == offsetof(KvmRun, exit.io.data_offset));
static_assert(offsetof(kvm_run, msr.error) == offsetof(KvmRun, exit.msr.error));
static_assert(offsetof(kvm_run, msr.reason) == offsetof(KvmRun, exit.msr.reason));
static_assert(offsetof(kvm_run, msr.index) == offsetof(KvmRun, exit.msr.index));
static_assert(offsetof(kvm_run, msr.data) == offsetof(KvmRun, exit.msr.data));
static_assert(offsetof(kvm_run, system_event.type) == offsetof(KvmRun, exit.system_event.type));
static_assert(offsetof(kvm_run, system_event.ndata) == offsetof(KvmRun, exit.system_event.ndata));
static_assert(offsetof(kvm_run, system_event.data) == offsetof(KvmRun, exit.system_event.data));

static_assert(KVM_EXIT_UNKNOWN == kKvmExitUnknown && KVM_EXIT_IO == kKvmExitIo);
static_assert(KVM_EXIT_HYPERCALL == kKvmExitHypercall && KVM_EXIT_HLT == kKvmExitHlt);
static_assert(KVM_EXIT_MMIO == kKvmExitMmio && KVM_EXIT_SHUTDOWN == kKvmExitShutdown);
static_assert(KVM_EXIT_FAIL_ENTRY == kKvmExitFailEntry && KVM_EXIT_INTR == kKvmExitIntr);
static_assert(KVM_EXIT_INTERNAL_ERROR == kKvmExitInternalError);
static_assert(KVM_EXIT_SYSTEM_EVENT == kKvmExitSystemEvent);
static_assert(KVM_EXIT_X86_RDMSR == kKvmExitRdmsr && KVM_EXIT_X86_WRMSR == kKvmExitWrmsr);
static_assert(KVM_EXIT_DIRTY_RING_FULL == kKvmExitDirtyRingFull);
static_assert(KVM_EXIT_AP_RESET_HOLD == kKvmExitApResetHold);
#ifdef KVM_EXIT_MEMORY_FAULT
static_assert(KVM_EXIT_MEMORY_FAULT == kKvmExitMemoryFault);
static_assert(offsetof(kvm_run, memory_fault.flags) == offsetof(KvmRun, exit.memory_fault.flags));
static_assert(offsetof(kvm_run, memory_fault.gpa) == offsetof(KvmRun, exit.memory_fault.gpa));
static_assert(offsetof(kvm_run, memory_fault.size) == offsetof(KvmRun, exit.memory_fault.size));
#endif
#ifdef KVM_EXIT_TDX
static_assert(KVM_EXIT_TDX == kKvmExitTdx);
static_assert(offsetof(kvm_run, tdx.nr) == offsetof(KvmRun, exit.tdx.nr));
static_assert(offsetof(kvm_run, tdx.get_quote.size) == offsetof(KvmRun, exit.tdx.get_quote.size));
#endif
#ifdef KVM_EXIT_SNP_REQ_CERTS
static_assert(KVM_EXIT_SNP_REQ_CERTS == kKvmExitSnpReqCerts);
static_assert(offsetof(kvm_run, snp_req_certs.ret) == offsetof(KvmRun, exit.snp_req_certs.ret));
#endif
static_assert(KVM_HC_MAP_GPA_RANGE == kKvmHypercallPageState);
static_assert(std::uint64_t{KVM_ENOSYS} == 0 - kKvmHypercallUnknown);

}  // namespace
}  // namespace sealift
