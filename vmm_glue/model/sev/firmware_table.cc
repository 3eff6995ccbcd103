// The command table. A command without a row is unknown: DOWNLOAD_FIRMWARE, INIT_EX, RING_BUFFER,
// COPY, ACTIVATE_EX and SWAP_* among them. States follow AMD sev-tool, reserved offsets mailbox.h.
#include <algorithm>

#include "vmm_glue/model/sev/firmware.h"
#include "vmm_glue/model/sev/firmware_internal.h"

namespace sealift::sev {
namespace {

template <class... States>
constexpr std::uint8_t in(States... states) {
  return static_cast<std::uint8_t>((... | (1u << static_cast<unsigned>(states))));
}
constexpr std::uint8_t kEvery = 0xff;

constexpr auto kDown = in(PlatformState::kUninit);
constexpr auto kIdle = in(PlatformState::kInit);
constexpr auto kUp = in(PlatformState::kInit, PlatformState::kWorking);

constexpr auto kLaunch = in(GuestState::kLaunchUpdate);
constexpr auto kSecret = in(GuestState::kLaunchSecret);
constexpr auto kRunning = in(GuestState::kRunning);
constexpr auto kSending = in(GuestState::kSendUpdate);
constexpr auto kReceiving = in(GuestState::kReceiveUpdate);
constexpr auto kRunnable = in(GuestState::kRunning, GuestState::kSendUpdate);
constexpr auto kMeasured =
    in(GuestState::kLaunchSecret, GuestState::kRunning, GuestState::kSendUpdate);
constexpr auto kNotSent = static_cast<std::uint8_t>(kEvery & ~in(GuestState::kSent));

using Handle = MailboxHandle;

}  // namespace

std::span<const Firmware::Command> Firmware::platform_commands() {
  using enum MailboxCommand;
  using C = Command;
  using F = Firmware;
  static const std::array kCommands = {
      C::platform<MailboxInit>(kInit, kDown, &F::check_init, &F::init).zero_at({4}),
      C::platform<NoBuffer>(kShutdown, kUp, nullptr, &F::shutdown),
      C::platform<NoBuffer>(kPlatformReset, kDown, nullptr, &F::platform_reset),
      C::platform<MailboxPlatformStatus>(kPlatformStatus, kEvery, nullptr, &F::platform_status),
      C::platform<NoBuffer>(kPekGen, kIdle, nullptr, &F::pek_gen),
      C::platform<MailboxBlob>(kPekCsr, kIdle, &F::check_pek_csr, &F::pek_csr),
      C::platform<MailboxPekCertImport>(kPekCertImport, kIdle, &F::check_pek_cert_import,
                                        &F::pek_cert_import)
          .zero_at({12}),
      C::platform<MailboxPdhCertExport>(kPdhCertExport, kUp, &F::check_pdh_cert_export,
                                        &F::pdh_cert_export)
          .zero_at({12}),
      C::platform<NoBuffer>(kPdhGen, kUp, nullptr, &F::pdh_gen),
      C::platform<NoBuffer>(kDfFlush, kUp, &F::check_df_flush, &F::df_flush),
      C::platform<MailboxBlob>(kGetId, kEvery, &F::check_get_id, &F::get_id),
      C::platform<NoBuffer>(kNop, kEvery, nullptr, &F::nop),
  };
  return kCommands;
}

// In any phase of a guest.
std::span<const Firmware::Command> Firmware::guest_commands() {
  using enum MailboxCommand;
  using C = Command;
  using F = Firmware;
  static const std::array kCommands = {
      C::guest<Handle>(kDecommission, kEvery, &F::check_decommission, &F::decommission),
      C::guest<MailboxActivate>(kActivate, kNotSent, &F::check_activate, &F::activate),
      C::guest<Handle>(kDeactivate, kEvery, &F::check_deactivate, &F::deactivate),
      C::guest<MailboxGuestStatus>(kGuestStatus, kEvery, nullptr, &F::guest_status),
      C::guest<MailboxDbg>(kDbgDecrypt, kRunnable, &F::check_dbg, &F::dbg_decrypt)
          .zero_at({4})
          .forbidden_by(kPolicyNoDebug)
          .with_asid(),
      C::guest<MailboxDbg>(kDbgEncrypt, kRunnable, &F::check_dbg, &F::dbg_encrypt)
          .zero_at({4})
          .forbidden_by(kPolicyNoDebug)
          .with_asid(),
  };
  return kCommands;
}

std::span<const Firmware::Command> Firmware::launch_commands() {
  using enum MailboxCommand;
  using C = Command;
  using F = Firmware;
  static const std::array kCommands = {
      C::of<MailboxStart>(kLaunchStart, kUp, C::Subject::kNewGuest, 0, &F::check_launch_start,
                          &F::launch_start)
          .zero_at({20}),
      C::guest<MailboxLaunchUpdate>(kLaunchUpdateData, kLaunch, &F::check_launch_update,
                                    &F::launch_update)
          .zero_at({4})
          .with_asid(),
      C::guest<MailboxLaunchUpdate>(kLaunchUpdateVmsa, kLaunch, &F::check_launch_update,
                                    &F::launch_update)
          .zero_at({4})
          .if_fits(&F::fits_vmsa)
          .with_asid(),
      C::guest<MailboxLaunchMeasure>(kLaunchMeasure, kLaunch, &F::check_launch_measure,
                                     &F::launch_measure)
          .zero_at({4}),
      C::guest<MailboxUpdate>(kLaunchSecret, kSecret, &F::check_launch_secret, &F::store_packet)
          .zero_at({4, 20, 36})
          .if_fits(&F::fits_launch_secret)
          .with_asid(),
      C::guest<Handle>(kLaunchFinish, kSecret, nullptr, &F::to_running),
      C::guest<MailboxAttestation>(kAttestation, kMeasured, &F::check_attestation, &F::attestation)
          .zero_at({4})
          .if_fits(&F::fits_attestation),
  };
  return kCommands;
}

std::span<const Firmware::Command> Firmware::transport_commands() {
  using enum MailboxCommand;
  using C = Command;
  using F = Firmware;
  static const std::array kCommands = {
      C::guest<MailboxSendStart>(kSendStart, kRunning, &F::check_send_start, &F::send_start)
          .zero_at({20, 36, 52})
          .if_fits(&F::fits_send_start)
          .forbidden_by(kPolicyNoSend),
      C::guest<MailboxUpdate>(kSendUpdateData, kSending, &F::check_send_update, &F::send_update)
          .zero_at({4, 20, 36})
          .with_asid(),
      C::guest<MailboxUpdate>(kSendUpdateVmsa, kSending, &F::check_send_update, &F::send_update)
          .zero_at({4, 20, 36})
          .if_fits(&F::fits_vmsa)
          .with_asid(),
      C::guest<Handle>(kSendFinish, kSending, nullptr, &F::send_finish),
      C::guest<Handle>(kSendCancel, kSending, nullptr, &F::to_running),

      C::of<MailboxStart>(kReceiveStart, kUp, C::Subject::kNewGuest, 0, &F::check_receive_start,
                          &F::receive_start)
          .zero_at({20}),
      C::guest<MailboxUpdate>(kReceiveUpdateData, kReceiving, &F::check_receive_update,
                              &F::store_packet)
          .zero_at({4, 20, 36})
          .with_asid(),
      C::guest<MailboxUpdate>(kReceiveUpdateVmsa, kReceiving, &F::check_receive_update,
                              &F::store_packet)
          .zero_at({4, 20, 36})
          .if_fits(&F::fits_vmsa)
          .with_asid(),
      C::guest<Handle>(kReceiveFinish, kReceiving, nullptr, &F::to_running).with_asid(),
  };
  return kCommands;
}

const Firmware::Command* Firmware::find_command(MailboxCommand id) {
  for (const auto& commands :
       {platform_commands(), guest_commands(), launch_commands(), transport_commands()}) {
    const auto found = std::find_if(commands.begin(), commands.end(),
                                    [&](const Command& command) { return command.id == id; });
    if (found != commands.end()) return &*found;
  }
  return nullptr;
}

}  // namespace sealift::sev
