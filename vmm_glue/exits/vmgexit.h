// The exit decoder of KVM_EXIT_VMGEXIT, the first-posted form of SNP page-state changes: the VMM
// parses the guest's GHCB itself.
//
// Spec:    Linux KVM SNP series v10 of October 2023 (exit 50, {ghcb_msr, ret}; never upstream,
//          replaced by KVM_HC_MAP_GPA_RANGE exits in 6.11); AMD 56421 for the GHCB. Only page-state
//          changes are forwarded in this form.
// Threads: any vCPU thread, each with its own kvm_run.
// Failure: none: whatever the guest asked, it gets an answer.
// Invariants:
//   I1  MSR form (bits 11:0 of ghcb_msr not zero): ghcb_msr becomes the response, `ret` is left.
//       Another request than a page-state change leaves both: a guest never takes its own request
//       for a response.
//   I2  Page form: `ret` becomes SW_EXITINFO2, ghcb_msr is left. A GHCB that is malformed gets the
//       generic error, because this form has no way to set SW_EXITINFO1.
//   I3  The GHCB is read once, whole; every decision is about that copy.
//
// The valid bitmap: KVM copies and then clears it before the exit, so a bitmap of zeros is KVM's
// word that it was checked. One with any bit set must have the fields of this event.
#pragma once

#include "engine/memory_layout.h"
#include "vmm_glue/abi/kvm_run.h"
#include "vmm_glue/exits/converter.h"
#include "vmm_glue/exits/guest_bytes.h"
#include "vmm_glue/exits/psc.h"

namespace sealift {

// REQUIRES: run.exit_reason == kPostedExitVmgexit on a kernel that is known to have this form; the
// vCPU does not run before this returns.
PscOutcome handle_vmgexit(KvmRun& run, const MemoryLayout& layout, Converter& converter,
                          GuestBytes& guest);

}  // namespace sealift
