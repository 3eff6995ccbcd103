// InGuestImporter: private pages enter through a helper vCPU in the VM that is to become the guest.
//
// Spec:    as vmm_glue/inguest/exporter.h. identity() is the helper's public key, made for one
//          session; begin() takes the source's start blob; seal() takes the source's seal.
// Owner:   the agent; the HelperVcpu outlives it. Pages are private (KVM_SET_MEMORY_ATTRIBUTES)
//          before they are imported: that is the VMM's part of a conversion.
// Threads: as engine/private_path.h says.
// Failure: everything from the peer is checked as a whole before the helper sees it (kMalformed).
// An
//          entry that the helper refuses leaves its page as it was; the pages before it in the
//          batch are written. The helper has then erased its keys and the import is over: abort().
#pragma once

#include <mutex>

#include "engine/private_path.h"
#include "vmm_glue/inguest/commands.h"

namespace sealift::inguest {

class InGuestImporter final : public PrivateImporter {
 public:
  InGuestImporter(HelperVcpu& helper, const MemoryLayout& ram)
      : ram_(ram), commands_(helper, ram) {}
  InGuestImporter(const InGuestImporter&) = delete;
  InGuestImporter& operator=(const InGuestImporter&) = delete;

  PrivateTraits traits() const override;
  // A new key each time; the last one counts.
  Result<Bytes> identity() override;
  void use_streams(std::uint32_t streams) override;
  Result<void> begin(ByteView start) override;
  Result<void> import_batch(const PrivateBatch& batch) override;
  Result<void> converted(GfnRange range, PageClass now) override;
  Result<void> end_epoch(std::uint32_t epoch, ByteView token) override;
  Result<void> load_state(std::vector<StateBlob> state) override;
  Result<void> seal(ByteView token) override;
  Result<void> commit() override;
  Result<Bytes> abort() override;

 private:
  enum class Phase : std::uint8_t { kIdle, kIdentified, kReceiving, kSealed, kFailed, kAborted };

  static const char* name_of(Phase phase);
  Result<void> require(Phase phase, const char* call) const;
  Result<void> check_batch(const PrivateBatch& batch) const;

  const MemoryLayout ram_;
  std::mutex mutex_;
  Commands commands_;           // guarded by mutex_
  Phase phase_ = Phase::kIdle;  // guarded by mutex_
};

}  // namespace sealift::inguest
