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
//                    state (02), what guest or platform lacks (15), policy that forbids the command
//                    (07), ASID bound (08), lengths (04), addresses (09), certificates (06 before
//                    0A), policy against certificates (07), MACs (0B), flags of a packet (15), then
//                    resources (17). A policy that comes in a session is judged after its MAC.
//   write-back       outputs with status 00 only; with 04 only the required length of a length
//                    query. A SEND_UPDATE query gives the header's length and leaves the body's as
//                    it came.
//   addresses        kernel buffers: not null; guest memory: registered, 16-byte aligned; no two
//                    buffers of one command overlap.
//   INIT             other flags than SEV-ES: 16. The TMR is not looked at.
//   SHUTDOWN         guests are lost; their ASIDs have to be flushed before they are used again.
//   SENT             GUEST_STATUS, DEACTIVATE and DECOMMISSION only.
//   memory commands  need a bound ASID; whole 16-byte blocks; at most packet_bytes_max, save for
//                    LAUNCH_UPDATE_DATA. A VMSA is 4096 bytes.
//   packets          16 fresh random bytes of IV each; never compressed, refused with 15 on
//                    receipt.
//   LAUNCH_START     without a session: a random TIK, so that nobody can check the measurement, and
//                    LAUNCH_SECRET is 02. The secret's MAC covers the measurement from API 0.17 on.
//   SEND_START       policy SEV without a fused ARK: 15; an ARK that is not the fused one: 06.
//                    DOMAIN compares the OCA's key, not its bytes.
//   ACTIVATE         0D, 0C, 12, then 0F. An ASID of the wrong kind of guest is 0D.
//   ASIDs            free, bound (ACTIVATE), unflushed (DEACTIVATE), free (WBINVD, then DF_FLUSH).
//   handles          counted up, never used twice.
//   ATTESTATION      from LAUNCH_MEASURE on, not in SENT; a guest that was received here has no
//                    launch digest: 15.
//   DBG_*            in RUNNING and SEND_UPDATE.
//   PEK_CERT_IMPORT  05 before lengths; a certificate for another key than the PEK's: 06.
//   GET_ID           64 bytes.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

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
  std::uint32_t sev_asid_min = 100;  // SEV-ES guests use the ASIDs below it, others from it up
  bool es_capable = true;            // INIT may ask for SEV-ES
  std::uint32_t guests_max = 1024;
  bool encrypts_memory = true;
  std::shared_ptr<const EcKey> owner_key = {};  // null: owns itself
  // SHA-256 of the ARK certificate that this chip trusts. None: it can send no guest whose policy
  // asks for a genuine platform.
  std::optional<Digest> fused_ark_sha256 = {};
  // What differs between firmwares.
  std::uint32_t packet_bytes_max = 16384;
  PacketContext vmsa_context = PacketContext::kVmsa;
  bool has_send_cancel = true;
};

class Firmware {
 public:
  // `random` and `memory` outlive the firmware.
  Firmware(const FirmwareConfig& config, RandomSource& random, MemoryController& memory);

  // Runs one command on its packed buffer (mailbox.h). REQUIRES: the buffer has the command's size.
  Status command(MailboxCommand id, MutableBytes buffer);

  // WBINVD has run on all CPUs: what DF_FLUSH asks for.
  void wbinvd();

  PlatformState state() const { return state_; }
  // The guest behind a handle, or null.
  const GuestContext* find(std::uint32_t handle) const;
  // A chip keeps it to itself. A test's own checker of sessions needs it.
  const EcKey& pdh_private_key_for_tests() const { return identity_.pdh_key(); }

 private:
  struct Call;
  struct Command;
  enum class AsidState : std::uint8_t { kFree, kBound, kNeedsWbinvd, kNeedsDfFlush };

  // firmware_table.cc
  static const Command* find_command(MailboxCommand id);
  static std::span<const Command> platform_commands();
  static std::span<const Command> guest_commands();
  static std::span<const Command> launch_commands();
  static std::span<const Command> transport_commands();
  // firmware.cc: what every command has in common.
  Status admit(const Command& command, Call& call) const;
  Status admit_guest(const Command& command, Call& call) const;
  Status admit_new_guest(Call& call) const;
  GuestContext& guest_of(const Call& call);
  Block random_block();

  // A command checks, changing nothing but its Call; then it runs, and cannot fail.
  // firmware_platform.cc
  Status check_init(Call& call) const;
  void init(Call& call);
  void shutdown(Call& call);
  void platform_reset(Call& call);
  void platform_status(Call& call);
  void pek_gen(Call& call);
  Status check_pek_csr(Call& call) const;
  void pek_csr(Call& call);
  Status check_pek_cert_import(Call& call) const;
  void pek_cert_import(Call& call);
  Status check_pdh_cert_export(Call& call) const;
  void pdh_cert_export(Call& call);
  void pdh_gen(Call& call);
  Status check_df_flush(Call& call) const;
  void df_flush(Call& call);
  Status check_get_id(Call& call) const;
  void get_id(Call& call);
  void nop(Call& call);
  // firmware_guest.cc
  Status check_activate(Call& call) const;
  void activate(Call& call);
  Status check_deactivate(Call& call) const;
  void deactivate(Call& call);
  Status check_decommission(Call& call) const;
  void decommission(Call& call);
  void guest_status(Call& call);
  void unbind(GuestContext& guest);
  Status check_dbg(Call& call) const;
  void dbg_decrypt(Call& call);
  void dbg_encrypt(Call& call);
  // firmware_launch.cc
  Status check_launch_start(Call& call) const;
  void launch_start(Call& call);
  Status check_launch_update(Call& call) const;
  void launch_update(Call& call);
  Status check_launch_measure(Call& call) const;
  void launch_measure(Call& call);
  Status fits_launch_secret(const GuestContext& guest) const;
  Status check_launch_secret(Call& call) const;
  Status fits_attestation(const GuestContext& guest) const;
  Status check_attestation(Call& call) const;
  void attestation(Call& call);
  // firmware_start.cc: sessions, and who may send or receive a guest.
  Status fits_send_start(const GuestContext& guest) const;
  Status check_send_start(Call& call) const;
  void send_start(Call& call);
  Status check_receive_start(Call& call) const;
  void receive_start(Call& call);
  Status check_receiver(const MailboxSendStart& start, std::uint32_t policy, Call& call) const;
  Status open_session(const MailboxStart& start, Call& call) const;
  Status check_new_policy(std::uint32_t policy) const;
  Status check_capacity() const;
  GuestContext& add_guest(const MailboxStart& start, GuestState state);
  // firmware_transport.cc
  Status check_guest_memory(std::uint64_t address, std::uint32_t bytes, Call& call) const;
  Status fits_vmsa(const GuestContext& guest) const;
  Status check_send_update(Call& call) const;
  void send_update(Call& call);
  void send_finish(Call& call);
  void to_running(Call& call);  // LAUNCH_FINISH, SEND_CANCEL, RECEIVE_FINISH
  Status check_packet(Call& call, PacketCipher& cipher, PacketContext context,
                      ByteView extra = {}) const;
  Status check_receive_update(Call& call) const;
  void store_packet(Call& call);  // RECEIVE_UPDATE_*, LAUNCH_SECRET
  bool fits_a_packet(const Call& call, std::uint32_t bytes) const;

  const FirmwareConfig config_;
  RandomSource& random_;
  MemoryController& memory_;
  PlatformIdentity identity_;
  PlatformState state_ = PlatformState::kUninit;
  bool es_ = false;  // INITed with SEV-ES
  std::uint32_t next_handle_ = 1;
  std::map<std::uint32_t, GuestContext> guests_;
  std::vector<AsidState> asids_;  // by ASID; [0] is never used
  Bytes scratch_;                 // plain text of one packet
};

}  // namespace sealift::sev
