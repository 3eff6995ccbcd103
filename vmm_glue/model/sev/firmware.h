// Firmware: a software SEV platform behind the PSP mailbox, with real cryptography.
//
// Spec:    AMD SEV API 55766 as read in Linux 6.1 drivers/crypto/ccp and include/linux/psp-sev.h
//          (numbers, buffers, statuses), AMD sev-tool (states, certificates, session), virtee/sev.
// Owner:   one SoftSevHost. Threads: one command at a time (the caller holds the mailbox mutex).
// Failure: a status word. A command that fails changes nothing: not memory, state, keys or
//          platform.
//
// MODEL CHOICE, where no source at hand says what firmware does:
//   order of checks  command and platform state (11, 01), reserved fields (16), handle (10), guest
//                    state (02), command or policy the platform lacks (15), policy that forbids the
//                    command (07), ASID bound (08), lengths (04), addresses (09), certificates (06,
//                    0A), policy against certificates and session (07), MACs (0B), then flags (15).
//   write-back       outputs with status 00 only; with 04 only the required length of a length
//                    query. A SEND_UPDATE query gives the header's length and leaves the body's as
//                    it came.
//   SENT             GUEST_STATUS, DEACTIVATE and DECOMMISSION only.
//   memory commands  need a bound ASID; whole 16-byte blocks; at most 16 KiB.
//   packets          16 fresh random bytes of IV each; never compressed, refused with 15 on
//                    receipt.
//   LAUNCH_START     without a session: a random TIK, so that nobody can check the measurement.
//   handles          counted up, never used twice.
// Not here yet, each refused rather than ignored: policy bit SEV at SEND_START (no RSA chain: 15),
// SEV-ES and VMSA commands (15, 11), DF_FLUSH and ASID reuse, LAUNCH_SECRET, DBG_*, attestation,
// PDH_GEN.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>

#include "engine/types.h"
#include "vmm_glue/model/sev/guest_context.h"
#include "vmm_glue/model/sev/mailbox.h"
#include "vmm_glue/model/sev/memory_controller.h"
#include "vmm_glue/model/sev/platform_identity.h"
#include "vmm_glue/sev/random.h"
#include "vmm_glue/sev/status.h"

namespace sealift::sev {

enum class PlatformState : std::uint8_t { kUninit = 0, kInit = 1, kWorking = 2 };

struct FirmwareConfig {
  FirmwareVersion version{.api_major = 1, .api_minor = 55, .build = 19};
  std::uint32_t asids = 509;
  std::uint32_t guests_max = 1024;
  bool encrypts_memory = true;
  std::shared_ptr<const EcKey> owner_key = {};  // null: a new owner
};

class Firmware {
 public:
  // `random` and `memory` outlive the firmware.
  Firmware(const FirmwareConfig& config, RandomSource& random, MemoryController& memory);

  // Runs one command on its packed buffer (mailbox.h). REQUIRES: the buffer has the command's size.
  Status command(MailboxCommand id, MutableBytes buffer);

  PlatformState state() const { return state_; }
  // The guest behind a handle, or null.
  const GuestContext* find(std::uint32_t handle) const;

 private:
  struct Command;
  struct Call;
  static const Command* find_command(MailboxCommand id);
  Status admit(const Command& command, Call& call);

  // firmware.cc
  Status init(Call& call);
  Status platform_status(Call& call);
  Status pdh_cert_export(Call& call);
  Status activate(Call& call);
  Status deactivate(Call& call);
  Status decommission(Call& call);
  Status guest_status(Call& call);
  // firmware_launch.cc
  Status launch_start(Call& call);
  Status launch_update_data(Call& call);
  Status launch_measure(Call& call);
  Status launch_finish(Call& call);
  // firmware_transport.cc
  Status send_start(Call& call);
  Status send_update_data(Call& call);
  Status send_finish(Call& call);
  Status send_cancel(Call& call);
  Status receive_start(Call& call);
  Status receive_update_data(Call& call);
  Status receive_finish(Call& call);

  Block random_block();
  Status check_new_guest_policy(std::uint32_t policy) const;
  Status check_shared_key(std::uint32_t handle, std::uint32_t policy) const;
  // Opens the session of LAUNCH_START or RECEIVE_START with our PDH.
  Status open_session(const MailboxStart& start, TransportKeys& keys) const;
  GuestContext& add_guest(const MailboxStart& start, GuestState state);
  Status check_receiver(const MailboxSendStart& start, std::uint32_t policy,
                        std::optional<EcPublicKey>& receiver) const;

  const FirmwareConfig config_;
  RandomSource& random_;
  MemoryController& memory_;
  const PlatformIdentity identity_;
  PlatformState state_ = PlatformState::kUninit;
  std::uint32_t next_handle_ = 1;
  std::map<std::uint32_t, GuestContext> guests_;
  Bytes scratch_;  // plain text of one packet
};

}  // namespace sealift::sev
