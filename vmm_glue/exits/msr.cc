#include "vmm_glue/exits/msr.h"

#include <fmt/core.h>

#include "engine/assert.h"

namespace sealift {

std::uint64_t MigrationReadiness::read() const {
  switch (state()) {
    case State::kNeverWritten:
      return encrypted_ ? 0 : kKvmMigrationReady;
    case State::kReady:
      return kKvmMigrationReady;
    case State::kWithdrawn:
      break;
  }
  return 0;
}

bool MigrationReadiness::write(std::uint64_t word) {
  if ((word & ~kKvmMigrationReady) != 0) return false;
  state_.store(word == 0 ? State::kWithdrawn : State::kReady, std::memory_order_release);
  return true;
}

std::string MigrationReadiness::reason() const {
  switch (state()) {
    case State::kNeverWritten:
      return encrypted_ ? "the guest has encrypted memory and never said that it announces page "
                          "state (MSR_KVM_MIGRATION_CONTROL was not written)"
                        : "the guest has no encrypted memory, so it need not say anything";
    case State::kReady:
      return "the guest wrote 1 to MSR_KVM_MIGRATION_CONTROL";
    case State::kWithdrawn:
      break;
  }
  return "the guest withdrew its consent (it wrote 0 to MSR_KVM_MIGRATION_CONTROL, as Linux does "
         "when a CPU goes offline, at shutdown and at kexec)";
}

Result<void> MigrationReadiness::restore(std::uint64_t word) {
  if (word < static_cast<std::uint64_t>(State::kNeverWritten) ||
      word > static_cast<std::uint64_t>(State::kWithdrawn)) {
    return fail(ErrorClass::kMalformed, "{:#x} is no state of MSR_KVM_MIGRATION_CONTROL", word);
  }
  state_.store(static_cast<State>(word), std::memory_order_release);
  return {};
}

std::string describe(const MsrOutcome& outcome) {
  const std::string what =
      outcome.is_write ? fmt::format("write of {:#x} to MSR {:#x}", outcome.data, outcome.index)
                       : fmt::format("read of MSR {:#x}", outcome.index);
  switch (outcome.refusal) {
    case MsrRefusal::kNone:
      return outcome.is_write ? what : fmt::format("{} gave {:#x}", what, outcome.data);
    case MsrRefusal::kOtherMsr:
      return what + " refused: no such MSR here";
    case MsrRefusal::kReservedBits:
      break;
  }
  return what + " refused: reserved bits are set";
}

MsrOutcome handle_msr(KvmRun& run, MigrationReadiness& readiness) {
  SEALIFT_ASSERT(run.exit_reason == kKvmExitRdmsr || run.exit_reason == kKvmExitWrmsr);
  const KvmRun::Msr msr = run.exit.msr;
  MsrOutcome out;
  out.is_write = run.exit_reason == kKvmExitWrmsr;
  out.index = msr.index;
  out.data = out.is_write ? msr.data : 0;
  if (msr.index != kMsrKvmMigrationControl) {
    out.refusal = MsrRefusal::kOtherMsr;
  } else if (out.is_write) {
    if (!readiness.write(msr.data)) out.refusal = MsrRefusal::kReservedBits;
  } else {
    out.data = readiness.read();
    run.exit.msr.data = out.data;
  }
  run.exit.msr.error = out.refusal == MsrRefusal::kNone ? 0 : 1;
  return out;
}

}  // namespace sealift
