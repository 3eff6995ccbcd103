// SevExporter: private pages of a SEV guest leave through KVM's SEND_* commands.
//
// Spec:    Linux 6.1 arch/x86/kvm/svm/sev.c and
//          Documentation/virt/kvm/x86/amd-memory-encryption.rst; blobs in vmm_glue/sev/blobs.h; one
//          page travels as a 52-byte packet header in page_auth and 4096 bytes of ciphertext in
//          body, each batch under the drivers' own HMAC in batch_auth (binding.h).
// Owner:   the agent; the SevVm's HostIoctl and fds outlive it. `host_address` gives the host
//          address of a guest page or null.
// Threads: as engine/private_path.h says. cancel() may come while export_batch() runs: the batch
//          stops after the page in hand.
// Failure: any command that fails is an error with errno and firmware status; the caller then
//          cancels. SEV-ES: begin() is kRefused on a kernel that cannot move VMSAs (setup.h).
// Pages that were never written are not exported (populated.h): kSkipped, without a command.
//
// Invariants
//   I1  Between a successful SEND_START and release() every path of failure leads, by cancel(), to
//       SEND_CANCEL, never to SEND_FINISH: no command leads from SENT back to RUNNING.
//   I2  After a call whose effect is in doubt (SEND_START may have succeeded before its copy-out
//       failed), GUEST_STATUS decides, not our memory of what we asked for.
//   I3  SEND_FINISH follows a seal() only, and after release() was asked for nothing leads back:
//       the guest may run at the destination, whether SEND_FINISH succeeded or not.
//   I4  The session's binding key is gone after seal(), cancel() or release().
#pragma once

#include <atomic>
#include <functional>
#include <mutex>
#include <optional>
#include <string_view>

#include "engine/private_path.h"
#include "vmm_glue/sev/binding.h"
#include "vmm_glue/sev/blobs.h"
#include "vmm_glue/sev/command.h"
#include "vmm_glue/sev/host_card.h"
#include "vmm_glue/sev/populated.h"

namespace sealift::sev {

using HostAddress = std::function<std::byte*(Gfn)>;

struct SevConfig {
  // The policy the operator expects the guest to have; another one is refused. Empty: any.
  std::optional<std::uint32_t> policy = {};
  // ASK then ARK of the destination's processors; empty where no guest has policy bit SEV. The
  // importer puts it into its identity; the exporter uses it when the identity brings none.
  Bytes amd_certs = {};
  bool es = false;          // SEV-ES: the registers travel through the firmware
  std::uint32_t vcpus = 0;  // of the guest; only SEV-ES asks. At most limits::kVcpusMax
  // CPUID 8000001F EAX bit 10: what the host reads is what the guest wrote last. False is right on
  // every host and costs a WBINVD on all CPUs in windows with pages that look never written.
  bool coherent_caches = false;
  std::uint64_t memory_bytes = 0;  // of the guest; a destination that can pin less is refused
  // This host's own card, for judge(). Empty: judge() is kRefused.
  std::function<Result<HostCard>()> describe_host = {};
  // For tests that open a captured stream: told each secret of the driver by its name, when it is
  // made. Empty otherwise.
  std::function<void(std::string_view name, ByteView secret)> reveal = {};
};

class SevExporter final : public PrivateExporter {
 public:
  SevExporter(const SevVm& vm, HostAddress host_address, SevConfig config);
  SevExporter(const SevExporter&) = delete;
  SevExporter& operator=(const SevExporter&) = delete;

  PrivateTraits traits() const override;
  Result<PlatformFindings> judge(ByteView card) override;  // verdict.h
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
  // After it the guest runs here, and begin() may be called again: a new session has new keys.
  Result<void> cancel(std::optional<ByteView> abort_token) override;

 private:
  enum class Phase : std::uint8_t { kIdle, kSending, kSealed, kInDoubt, kReleasing, kReleased };

  Result<StartBlob> send_start(const IdentityBlob& identity);
  Result<bool> holds_nothing(Gfn gfn, const std::byte* host);
  Result<void> export_page(Gfn gfn, std::byte* host, PrivateBatch& batch);
  Result<void> require_sending(const char* call) const;

  const SevVm vm_;
  const HostAddress host_address_;
  const SevConfig config_;
  std::atomic<bool> cancelling_{false};

  std::mutex mutex_;                // one command at a time, as the mailbox has it
  Phase phase_ = Phase::kIdle;      // guarded by mutex_
  bool paused_ = false;             // guarded by mutex_
  std::optional<Binding> binding_;  // guarded by mutex_; there while kSending
  bool prepared_ = false;           // guarded by mutex_; a window is open
  bool window_flushed_ = false;     // guarded by mutex_; caches, see populated.h
  Settled settled_;
};

// Refuses what begin() on either side cannot do: a SEV-ES guest on a kernel without the commands.
Result<void> require_es_support(const SevVm& vm, const SevConfig& config);
// Is this the policy the operator and the driver were told?
Result<void> check_guest_policy(const SevConfig& config, std::uint32_t policy);

// PDH_CERT_EXPORT: this host's PDH and its chain. The CEK leaves without AMD's signature (sevctl
// fetches the signed one from AMD's key server); the operator replaces it where the policy asks for
// the chain.
struct PlatformCertificates {
  Bytes pdh;
  Bytes chain;
};
Result<PlatformCertificates> export_certificates(const SevVm& vm);

}  // namespace sealift::sev
