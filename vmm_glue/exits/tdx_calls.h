// TdxCalls: the exit decoder of KVM_EXIT_TDX and the quotes that are under way.
//
// Spec:    exits/tdx_abi.h. KVM presets `ret` so that an unaware VMM may just re-enter; an unknown
//          number or flag keeps that preset.
// Owner:   the VMM, one for each TD; the references it is given outlive it.
// Threads: handle() from any vCPU thread; a quote is completed on the provider's thread. Writes to
//          a buffer exclude each other.
// Failure: none: whatever the guest asked, it gets an answer.
// Invariants:
//   I1  A buffer says "in flight" before the guest's call returns SUCCESS, and its status is the
//       last thing written of a completion.
//   I2  The buffer is read once, whole; the report is at most size - 24 bytes of that copy. A
//       completion writes nothing outside [gpa, gpa + size), and nothing at all once the buffer is
//       not shared RAM any more.
//   I3  At most kQuotesMax quotes of at most kQuoteBufferBytesMax are in flight; more get RETRY.
//   I4  After abandon_quotes() or the destructor no earlier quote writes guest memory or notifies.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "engine/types.h"
#include "vmm_glue/abi/kvm_run.h"
#include "vmm_glue/exits/guest_bytes.h"
#include "vmm_glue/exits/quote_provider.h"
#include "vmm_glue/exits/tdx_abi.h"

namespace sealift {

// Where a completed quote is announced: an MSI to the vCPU that asked for it. Migration state.
struct TdxNotify {
  std::uint32_t apic_id = 0;
  std::uint8_t vector = 0;
  friend bool operator==(const TdxNotify&, const TdxNotify&) = default;
};

// Words of KVM_TDX_CAPABILITIES that answer GetTdVmCallInfo leaf 1.
struct TdxCallInfo {
  std::uint64_t kernel_r11 = 0, user_r11 = 0;
  std::uint64_t kernel_r12 = 0, user_r12 = 0;
};

struct TdxOutcome {
  std::uint64_t nr = 0;
  std::uint64_t ret = 0;
  const char* reason = "";  // what was done, or why not; for a log
};
std::string describe(const TdxOutcome& outcome);

class TdxCalls {
 public:
  static constexpr std::size_t kQuotesMax = 16;
  static constexpr std::uint64_t kQuoteBufferBytesMax = 128u << 10;
  // Injects the interrupt. Called under a lock: must not call back into TdxCalls.
  using Notify = std::function<void(TdxNotify)>;

  // `provider` null: GetQuote is unsupported. `notify` empty: SetupEventNotifyInterrupt is.
  TdxCalls(GuestBytes& guest, QuoteProvider* provider, Notify notify, TdxCallInfo info);
  TdxCalls(const TdxCalls&) = delete;
  TdxCalls& operator=(const TdxCalls&) = delete;
  ~TdxCalls();

  // REQUIRES: run.exit_reason == kKvmExitTdx; the vCPU, whose APIC id is given, does not run before
  // this returns.
  TdxOutcome handle(KvmRun& run, std::uint32_t apic_id);

  std::size_t quotes_in_flight() const;
  // Tells the guest "service unavailable" for every quote in flight: a migration does so before its
  // last round, because the completion would write here when the guest is elsewhere.
  void abandon_quotes();

  std::optional<TdxNotify> notify_target() const;
  void set_notify_target(std::optional<TdxNotify> target);

 private:
  struct State;
  TdxOutcome get_info(KvmRun& run) const;
  TdxOutcome get_quote(KvmRun& run);
  TdxOutcome setup_notify(KvmRun& run, std::uint32_t apic_id);

  TdxCallInfo const info_;
  QuoteProvider* const provider_;
  std::shared_ptr<State> const
      state_;  // a completion may outlive this object, and then does nothing
};

}  // namespace sealift
