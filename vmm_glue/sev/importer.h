// SevImporter: private pages enter a SEV guest through KVM's RECEIVE_* commands.
//
// Spec:    as vmm_glue/sev/exporter.h. identity() is the identity blob, begin() takes the start
//          blob.
// Owner:   the agent; the SevVm's HostIoctl and fds outlive it. The VM is prepared (setup.h).
// Threads: as engine/private_path.h says.
// Failure: everything that comes from the peer is checked as a whole before the first command
//          (kMalformed): shapes, then that a batch is the next of this session and for the pages it
//          names (binding.h). A packet whose MAC does not match leaves its page as it was
//          (kMalformed), the pages before it in the batch are written: the guest cannot run, and
//          the caller aborts. After abort() every call fails; the owner destroys the VM, which
//          erases its keys.
#pragma once

#include <mutex>
#include <optional>

#include "engine/private_path.h"
#include "vmm_glue/sev/exporter.h"

namespace sealift::sev {

class SevImporter final : public PrivateImporter {
 public:
  SevImporter(const SevVm& vm, HostAddress host_address, SevConfig config);
  SevImporter(const SevImporter&) = delete;
  SevImporter& operator=(const SevImporter&) = delete;

  PrivateTraits traits() const override;
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
  // kFailed: a command failed; only abort() helps.
  enum class Phase : std::uint8_t { kIdle, kReceiving, kSealed, kFailed, kAborted };

  static const char* name_of(Phase phase);
  Result<void> require(Phase phase, const char* call) const;
  Result<void> check_batch(const PrivateBatch& batch) const;
  Result<void> import_page(const PrivateBatch& batch, std::size_t index);

  const SevVm vm_;
  const HostAddress host_address_;
  const SevConfig config_;

  std::mutex mutex_;            // one command at a time, as the mailbox has it
  Phase phase_ = Phase::kIdle;  // guarded by mutex_
  // Guarded by mutex_. The pair lives from identity() to begin(), the binding from there to seal()
  // or abort().
  std::optional<BindingKeyPair> keys_;
  Digest identity_hash_{};
  std::optional<Binding> binding_;
};

}  // namespace sealift::sev
