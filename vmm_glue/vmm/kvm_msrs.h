// The MSRs of a vCPU as state: which to save, and what it means when a kernel refuses one.
//
// The state is an array of struct kvm_msr_entry. KVM_GET_MSR_INDEX_LIST names most of a guest's
// MSRs; extra_msrs() names those that it leaves out on one kernel or another. What a vCPU's own
// structures carry (EFER, FS and GS base and APIC_BASE in sregs, x2APIC registers in the LAPIC) is
// in neither.
//
// Spec:    Linux Documentation/virt/kvm/api.rst, KVM_GET_MSR_INDEX_LIST, KVM_GET_MSRS, KVM_SET_MSRS
//          (a call stops at the first MSR that KVM refuses; the result is how many it did; 255 at
//          most); Documentation/virt/kvm/x86/msr.rst; Intel SDM 3A, 12.11 (MTRRs), 16.3 (machine
//          check); AMD APM 2, 13 and appendix A.
// Owner, Threads: none, functions; the vCPU is stopped.
// Failure: kLocalFault for a failed ioctl, kMalformed for bytes that are no such array, kRefused
//          with MSR and values when this KVM would give the guest another value than it had.
// Invariants:
//   I1  After load_msrs() succeeds, every saved MSR reads as it was saved, counts on from there
//       (MsrRole::kCounter), or is in the notes.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/result.h"
#include "engine/types.h"
#include "vmm_glue/host_ioctl.h"
#include "vmm_glue/vmm/kvm_state_note.h"

namespace sealift {

inline constexpr std::uint32_t kMsrTsc = 0x10, kMsrTscDeadline = 0x6e0, kMsrMtrrCap = 0xfe,
                               kMsrMcgCap = 0x179;

// Not in KVM_GET_MSR_INDEX_LIST of the page-table-based back-end, but part of a CPL0 guest's state
// there: the guest physical address of its control page, and bit 0, which switches it on.
inline constexpr std::uint32_t kMsrPvmControl = 0x4b564d10;

enum class MsrRole : std::uint8_t {
  kGuest,    // what the guest wrote: it must be there again
  kCounter,  // the guest's too, but moves by itself: must be settable, is not compared
  kHost,     // describes the host and is read-only for the guest: a difference is a note
};
// kGuest for every MSR that is not known to be something else.
MsrRole role_of_msr(std::uint32_t index);

// The numbers of variable MTRRs and of machine check banks are in these two MSRs.
std::vector<std::uint32_t> extra_msrs(std::uint64_t mtrr_cap, std::uint64_t mcg_cap);

struct MsrVcpu {
  HostIoctl& kernel;
  int fd = -1;
  std::uint32_t index = 0;  // for texts
};

// `listed`: KVM_GET_MSR_INDEX_LIST.
Result<Bytes> save_msrs(const MsrVcpu& vcpu, const std::vector<std::uint32_t>& listed,
                        StateNotes& notes);
// Whether load_msrs() would understand `bytes`; touches no vCPU.
Result<void> check_msrs(std::uint32_t vcpu_index, const Bytes& bytes);
// REQUIRES: check_msrs() passed; sregs and LAPIC are loaded (async page faults and PV EOI want a
// LAPIC, the deadline its timer's mode).
Result<void> load_msrs(const MsrVcpu& vcpu, const Bytes& bytes, StateNotes& notes);
// Whether `index` reads `value` once it was set to it.
Result<bool> takes_msr(const MsrVcpu& vcpu, std::uint32_t index, std::uint64_t value);
// The value of `index` in `bytes`, or 0.
std::uint64_t msr_in(const Bytes& bytes, std::uint32_t index);

}  // namespace sealift
