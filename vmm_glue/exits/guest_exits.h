// GuestExits: everything a confidential guest asks of its VMM, in one call after each KVM_RUN.
//
//   switch (exits.serve(vcpu, run_errno, run).kind) …        then KVM_RUN again
//
// Ordinary port I/O, MMIO, HLT, interrupts and dirty rings stay the VMM's: kNotOurs. TDX's
// Instruction.IO and #VE MMIO arrive as those ordinary exits.
//
// Spec:    each decoder's header names its own.
// Owner:   the VMM, one for each VM; what the config points to outlives it.
// Threads: serve() and completed() from the vCPU's own thread, beside those of other vCPUs.
// Failure: none: the guest's mistakes are answered to the guest, its end and ours are in
// ServedExit. Invariants:
//   I1  The page map changes by the config's Converter only, once for each accepted request.
//   I2  After any kind but kNotOurs the vCPU may enter KVM_RUN again or be drained, except after
//       kGuestEnded.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/memory_layout.h"
#include "engine/page_map.h"
#include "vmm_glue/abi/kvm_run.h"
#include "vmm_glue/exits/converter.h"
#include "vmm_glue/exits/exit_abi.h"
#include "vmm_glue/exits/guest_bytes.h"
#include "vmm_glue/exits/hypercall.h"
#include "vmm_glue/exits/memory_fault.h"
#include "vmm_glue/exits/msr.h"
#include "vmm_glue/exits/snp_certs.h"
#include "vmm_glue/exits/tdx_calls.h"

namespace sealift {

struct GuestExitsConfig {
  ExitAbi abi = {};
  HypercallRules hypercall = {};
  MemoryFaultRules memory_fault = {};
  std::uint32_t vcpus = 1;
  const MemoryLayout* layout = nullptr;
  const PageMap* map = nullptr;
  Converter* converter = nullptr;
  MigrationReadiness* readiness = nullptr;
  GuestBytes* memory = nullptr;
  const SnpCertificateFile* certificates = nullptr;  // null: SNP guests get the empty table
  TdxCalls* tdx = nullptr;                           // null: KVM's preset answers stand
};

struct ServedExit {
  enum class Kind : std::uint8_t {
    kNotOurs,     // an exit for the VMM's own devices
    kServed,      // answered
    kLater,       // answered with "again": let the vCPU wait a little before it runs
    kMustDrain,   // answered; drain_vcpu() now, then completed(): a lock is held until then
    kGuestEnded,  // the guest ended itself: `why` for "terminated: …"
    kFatal,       // the guest cannot go on: `why`
  };
  Kind kind = Kind::kNotOurs;
  std::string why;  // what was done, or why not; one line for a log
  bool converted = false;
};

class GuestExits {
 public:
  // REQUIRES: every pointer without "null" in its comment is set.
  explicit GuestExits(const GuestExitsConfig& config);

  // `run_errno`: of KVM_RUN, 0 when it returned 0. EINTR and EAGAIN are the VMM's (kNotOurs).
  ServedExit serve(std::uint32_t vcpu, int run_errno, KvmRun& run);
  void completed(std::uint32_t vcpu);
  std::uint64_t page_state_requests() const { return page_state_requests_.load(); }

 private:
  ServedExit serve_fault(std::uint32_t vcpu, int run_errno, KvmRun& run);
  ServedExit serve_certificates(std::uint32_t vcpu, KvmRun& run);
  ServedExit serve_page_state(KvmRun& run);
  ServedExit serve_posted(KvmRun& run);

  GuestExitsConfig const config_;
  std::vector<MemoryFaultHandler> faults_;  // one for each vCPU
  std::vector<CertificateLock> locks_;      // one for each vCPU
  std::atomic<std::uint64_t> page_state_requests_{0};
};

}  // namespace sealift
