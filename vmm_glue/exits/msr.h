// MSR_KVM_MIGRATION_CONTROL: whether the guest allows live migration now, and the decoder of the
// exits that read and write it. KVM does not implement this MSR: the VMM does, here.
//
// Spec:    Linux Documentation/virt/kvm/x86/msr.rst (MSR_KVM_MIGRATION_CONTROL), api.rst
//          (KVM_EXIT_X86_RDMSR, KVM_EXIT_X86_WRMSR).
// Owner:   the guest, one MigrationReadiness for all its vCPUs: the MSR is not per vCPU.
// Threads: any.
// Failure: the guest's mistakes become #GP (msr.error = 1); restore() refuses what is no state.
// Invariants:
//   I1  msr.error is stored on every path.
//   I2  A refused write changes nothing.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "engine/result.h"
#include "vmm_glue/abi/kvm_msr.h"
#include "vmm_glue/abi/kvm_run.h"

namespace sealift {

class MigrationReadiness {
 public:
  // It migrates with the guest: append only, never renumber.
  enum class State : std::uint8_t {
    kNeverWritten = 1,
    kReady = 2,
    // The guest wrote 0. Linux does so whenever a CPU goes offline and at shutdown and kexec, and
    // does not write 1 again after a mere CPU offline: last writer wins here, and the operator is
    // told why.
    kWithdrawn = 3,
  };

  // `encrypted`: the guest has private memory, so silence means "not ready"; otherwise "ready".
  explicit MigrationReadiness(bool encrypted) : encrypted_(encrypted) {}

  std::uint64_t read() const;      // what the guest reads
  bool write(std::uint64_t word);  // false: reserved bits are set
  bool allows() const { return (read() & kKvmMigrationReady) != 0; }
  State state() const { return state_.load(std::memory_order_acquire); }
  std::string reason() const;  // why it allows or does not, for people

  std::uint64_t save() const { return static_cast<std::uint64_t>(state()); }
  Result<void> restore(std::uint64_t word);  // kMalformed; nothing changed then

 private:
  bool const encrypted_;
  std::atomic<State> state_{State::kNeverWritten};
};

enum class MsrRefusal : std::uint8_t { kNone = 0, kOtherMsr, kReservedBits };

struct MsrOutcome {
  MsrRefusal refusal = MsrRefusal::kNone;  // anything else: the guest gets #GP
  bool is_write = false;
  std::uint32_t index = 0;
  std::uint64_t data = 0;  // written, or given to the guest
};
std::string describe(const MsrOutcome& outcome);  // one line for a log

// REQUIRES: run.exit_reason is kKvmExitRdmsr or kKvmExitWrmsr; the vCPU does not run before this
// returns.
MsrOutcome handle_msr(KvmRun& run, MigrationReadiness& readiness);

}  // namespace sealift
