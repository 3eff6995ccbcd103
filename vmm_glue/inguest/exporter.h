// InGuestExporter: private pages leave through a helper vCPU in the guest's own VM, which encrypts
// them with a key that the VMM never holds.
//
// For guests whose memory no firmware exports and the host cannot read (KVM_X86_SW_PROTECTED_VM,
// guest_memfd). KVM tracks no writes to such memory: pages leave while the guest is paused.
// Spec:    docs/spec/wire.md, "SW-protected"; docs/threat-model.md says what this does not give.
//          Every page asked for is sent with its content: that a page is zero is the guest's
//          secret.
// Owner:   the agent; the HelperVcpu outlives it.
// Threads: as engine/private_path.h says. cancel() may come while export_batch() runs: the batch
//          stops after the entry in hand.
// Failure: the helper's refusal or end, in the text. Keys live in the helper only, so no failure
//          keeps the guest from running here: after cancel() it does, and begin() may come again.
// Invariants:
//   I1  No page is exported before guest_paused(): it would lose what is written later.
//   I2  The sequence has no gaps. A batch that was exported is sent, or the session ends.
#pragma once

#include <atomic>
#include <mutex>

#include "engine/private_path.h"
#include "vmm_glue/inguest/commands.h"

namespace sealift::inguest {

// What both sides announce.
PrivateTraits inguest_traits();

class InGuestExporter final : public PrivateExporter {
 public:
  InGuestExporter(HelperVcpu& helper, const MemoryLayout& ram) : commands_(helper, ram) {}
  InGuestExporter(const InGuestExporter&) = delete;
  InGuestExporter& operator=(const InGuestExporter&) = delete;

  PrivateTraits traits() const override { return inguest_traits(); }
  void use_streams(std::uint32_t streams) override;
  Result<Bytes> begin(ByteView identity) override;
  Result<void> prepare(std::uint32_t epoch, std::span<const Gfn> gfns) override;
  Result<ExportResult> export_batch(std::uint8_t stream, std::uint32_t epoch,
                                    std::span<const Gfn> gfns) override;
  Result<std::optional<PrivateBatch>> next_extra(std::uint32_t epoch) override;
  ConvertVerdict may_convert(GfnRange range, PageClass wish) override;
  Result<void> fault_back(Gfn gfn) override;
  Result<Bytes> end_epoch(std::uint32_t epoch) override;
  Result<void> guest_paused() override;
  Result<std::vector<StateBlob>> save_state() override;
  Result<Bytes> seal() override;
  Result<void> release() override;
  Result<void> cancel(std::optional<ByteView> abort_token) override;

 private:
  enum class Phase : std::uint8_t { kIdle, kBegun, kPaused, kSealed, kReleased };

  static const char* name_of(Phase phase);
  Result<void> require(Phase phase, const char* call) const;

  std::atomic<bool> cancelling_{false};
  std::mutex mutex_;
  Commands commands_;           // guarded by mutex_
  Phase phase_ = Phase::kIdle;  // guarded by mutex_
};

}  // namespace sealift::inguest
