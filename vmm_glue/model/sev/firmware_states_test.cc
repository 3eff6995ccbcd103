// Every command in every state of platform and guest. The tables here are written from the state
// tables of AMD sev-tool, not from the firmware's own.
#include <gtest/gtest.h>

#include "vmm_glue/model/sev/firmware_test_support.h"

namespace sealift::sev {
namespace {

using enum MailboxCommand;

// ---- platform commands: UNINIT, INIT, WORKING --------------------------------------------------
struct PlatformRow {
  MailboxCommand id;
  const char* name;
  std::array<int, 3> status;
};
constexpr PlatformRow kPlatformRows[] = {
    {kInit, "INIT", {0x00, 0x01, 0x01}},
    {kShutdown, "SHUTDOWN", {0x01, 0x00, 0x00}},
    {kPlatformReset, "PLATFORM_RESET", {0x00, 0x01, 0x01}},
    {kPlatformStatus, "PLATFORM_STATUS", {0x00, 0x00, 0x00}},
    {kPekGen, "PEK_GEN", {0x01, 0x00, 0x01}},
    {kPekCsr, "PEK_CSR", {0x01, 0x00, 0x01}},
    {kPekCertImport, "PEK_CERT_IMPORT", {0x01, 0x00, 0x01}},
    {kPdhCertExport, "PDH_CERT_EXPORT", {0x01, 0x00, 0x00}},
    {kPdhGen, "PDH_GEN", {0x01, 0x00, 0x00}},
    {kDfFlush, "DF_FLUSH", {0x01, 0x00, 0x00}},
    {kGetId, "GET_ID", {0x00, 0x00, 0x00}},
    {kNop, "NOP", {0x00, 0x00, 0x00}},
    {kLaunchStart, "LAUNCH_START", {0x01, 0x00, 0x00}},
    {kReceiveStart, "RECEIVE_START", {0x01, 0x00, 0x00}},
};

// A buffer that the command takes in the state it is made for.
Bytes platform_buffer(FirmwareBench& bench, MailboxCommand id) {
  const auto bytes_of = [](const auto& value) {
    const auto bytes = std::as_bytes(std::span(&value, 1));
    return Bytes(bytes.begin(), bytes.end());
  };
  switch (id) {
    case kInit:
      return bytes_of(MailboxInit{});
    case kPlatformStatus:
      return bytes_of(MailboxPlatformStatus{});
    case kPekCsr:
      return bytes_of(blob_at(bench.room(kCertificateBytes), kCertificateBytes));
    case kGetId:
      return bytes_of(blob_at(bench.room(kChipIdBytes), kChipIdBytes));
    case kPdhCertExport:
      return bytes_of(MailboxPdhCertExport{.pdh_address = bench.room(kCertificateBytes),
                                           .pdh_len = kCertificateBytes,
                                           .chain_address = bench.room(kChainBytes),
                                           .chain_len = kChainBytes});
    case kPekCertImport: {
      MailboxPekCertImport request{.pek_address = bench.room(kCertificateBytes),
                                   .pek_len = kCertificateBytes,
                                   .oca_address = bench.room(kCertificateBytes),
                                   .oca_len = kCertificateBytes};
      if (bench.firmware.state() != PlatformState::kInit) return bytes_of(request);
      const Bytes chain = bench.certificates().chain;  // its own PEK and OCA will do
      request.pek_address = bench.kernel(ByteView(chain).first(kCertificateBytes));
      request.oca_address =
          bench.kernel(ByteView(chain).subspan(kCertificateBytes, kCertificateBytes));
      return bytes_of(request);
    }
    case kLaunchStart:
    case kReceiveStart:
      return bytes_of(bench.start_with_session(bench.peer, 0));
    default:
      return {};
  }
}

TEST(SevFirmwareStates, PlatformCommandsInEveryPlatformState) {
  for (const PlatformRow& row : kPlatformRows) {
    for (int state = 0; state < 3; ++state) {
      FirmwareBench bench;
      if (state >= 1) bench.init();
      if (state == 2) bench.guest({.state = GuestState::kRunning});
      ASSERT_EQ(static_cast<int>(bench.firmware.state()), state);
      Bytes buffer = platform_buffer(bench, row.id);
      const Status status = bench.run_bytes(row.id, buffer);
      EXPECT_EQ(static_cast<int>(status), row.status[static_cast<std::size_t>(state)])
          << row.name << " in platform state " << state << ": " << describe(status);
    }
  }
}

// ---- guest commands: no guest, LUPDATE, LSECRET, RUNNING, SUPDATE, RUPDATE, SENT --------------
struct GuestRow {
  MailboxCommand id;
  const char* name;
  bool bound;
  std::array<int, 7> status;
};
constexpr GuestRow kGuestRows[] = {
    {kActivate, "ACTIVATE", false, {0x10, 0, 0, 0, 0, 0, 2}},
    {kDeactivate, "DEACTIVATE", true, {0x10, 0, 0, 0, 0, 0, 0}},
    {kDecommission, "DECOMMISSION", false, {0x10, 0, 0, 0, 0, 0, 0}},
    {kGuestStatus, "GUEST_STATUS", true, {0x10, 0, 0, 0, 0, 0, 0}},
    {kLaunchUpdateData, "LAUNCH_UPDATE_DATA", true, {0x10, 0, 2, 2, 2, 2, 2}},
    {kLaunchUpdateVmsa, "LAUNCH_UPDATE_VMSA", true, {0x10, 0, 2, 2, 2, 2, 2}},
    {kLaunchMeasure, "LAUNCH_MEASURE", true, {0x10, 0, 2, 2, 2, 2, 2}},
    {kLaunchSecret, "LAUNCH_SECRET", true, {0x10, 2, 0, 2, 2, 2, 2}},
    {kLaunchFinish, "LAUNCH_FINISH", true, {0x10, 2, 0, 2, 2, 2, 2}},
    {kAttestation, "ATTESTATION", true, {0x10, 2, 0, 0, 0, 2, 2}},
    {kSendStart, "SEND_START", true, {0x10, 2, 2, 0, 2, 2, 2}},
    {kSendUpdateData, "SEND_UPDATE_DATA", true, {0x10, 2, 2, 2, 0, 2, 2}},
    {kSendUpdateVmsa, "SEND_UPDATE_VMSA", true, {0x10, 2, 2, 2, 0, 2, 2}},
    {kSendFinish, "SEND_FINISH", true, {0x10, 2, 2, 2, 0, 2, 2}},
    {kSendCancel, "SEND_CANCEL", true, {0x10, 2, 2, 2, 0, 2, 2}},
    {kReceiveUpdateData, "RECEIVE_UPDATE_DATA", true, {0x10, 2, 2, 2, 2, 0, 2}},
    {kReceiveUpdateVmsa, "RECEIVE_UPDATE_VMSA", true, {0x10, 2, 2, 2, 2, 0, 2}},
    {kReceiveFinish, "RECEIVE_FINISH", true, {0x10, 2, 2, 2, 2, 0, 2}},
    {kDbgDecrypt, "DBG_DECRYPT", true, {0x10, 2, 2, 0, 0, 2, 2}},
    {kDbgEncrypt, "DBG_ENCRYPT", true, {0x10, 2, 2, 0, 0, 2, 2}},
};
// Where a command that succeeds leaves a guest, if not where it was.
struct Transition {
  MailboxCommand id;
  GuestState to;
};
constexpr Transition kTransitions[] = {
    {kLaunchMeasure, GuestState::kLaunchSecret}, {kLaunchFinish, GuestState::kRunning},
    {kSendStart, GuestState::kSendUpdate},       {kSendFinish, GuestState::kSent},
    {kSendCancel, GuestState::kRunning},         {kReceiveFinish, GuestState::kRunning},
    {kDecommission, GuestState::kUninit},
};

GuestState state_after(MailboxCommand id, GuestState before) {
  for (const Transition& transition : kTransitions) {
    if (transition.id == id) return transition.to;
  }
  return before;
}

TEST(SevFirmwareStates, GuestCommandsInEveryGuestState) {
  for (const GuestRow& row : kGuestRows) {
    for (std::size_t index = 0; index < row.status.size(); ++index) {
      SCOPED_TRACE(fmt::format("{} in guest state {}", row.name, index));
      FirmwareBench bench;
      bench.init(true);
      bench.guest({});  // so that the platform is WORKING
      const auto state = static_cast<GuestState>(index);
      std::uint32_t handle = 12345;
      if (index != 0) {
        handle = bench.guest({.policy = kPolicyEs, .state = state, .bound = row.bound});
      }
      Bytes buffer = bench.good_buffer(row.id, handle);
      const Status status = bench.run_bytes(row.id, buffer);
      EXPECT_EQ(static_cast<int>(status), row.status[index]) << describe(status);
      if (index == 0) continue;
      const GuestContext* guest = bench.firmware.find(handle);
      const GuestState now = guest != nullptr ? guest->state : GuestState::kUninit;
      EXPECT_EQ(now, status == Status::kSuccess ? state_after(row.id, state) : state);
    }
  }
}

TEST(SevFirmwareStates, GuestCommandsNeedAWorkingPlatform) {
  for (const GuestRow& row : kGuestRows) {
    for (const bool up : {false, true}) {
      FirmwareBench bench;
      if (up) bench.init();
      Bytes buffer = bench.good_buffer(row.id, 1);
      EXPECT_EQ(bench.run_bytes(row.id, buffer), Status::kInvalidPlatformState) << row.name;
    }
  }
}

// DOWNLOAD_FIRMWARE, INIT_EX, RING_BUFFER, COPY, ACTIVATE_EX, SWAP_OUT, SWAP_IN, and no command.
TEST(SevFirmwareStates, CommandsThatThisFirmwareLacks) {
  FirmwareBench bench;
  for (const int id : {0x0b, 0x0d, 0x0f, 0x24, 0x25, 0x70, 0x71, 0x00, 0x99, 0xffff}) {
    EXPECT_EQ(bench.run(static_cast<MailboxCommand>(id)), Status::kInvalidCommand) << id;
  }
  FirmwareBench old({.has_send_cancel = false});
  old.init();
  const std::uint32_t handle = old.guest({.state = GuestState::kSendUpdate});
  EXPECT_EQ(old.on(kSendCancel, handle), Status::kInvalidCommand);
}

}  // namespace
}  // namespace sealift::sev
