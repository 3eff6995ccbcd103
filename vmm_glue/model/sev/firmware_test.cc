// The modelled firmware at its mailbox, where KVM never goes: reserved fields, handles, ASIDs.

#include "vmm_glue/model/sev/firmware.h"

#include <gtest/gtest.h>

namespace sealift::sev {
namespace {

class SevFirmware : public testing::Test {
 protected:
  SevFirmware() : memory(random, 3), firmware({.asids = 3, .guests_max = 2}, random, memory) {}

  template <class T>
  Status run(MailboxCommand id, T& buffer) {
    return firmware.command(id, std::as_writable_bytes(std::span(&buffer, 1)));
  }
  void init() {
    MailboxInit buffer;
    ASSERT_EQ(run(MailboxCommand::kInit, buffer), Status::kSuccess);
  }
  Status launch(std::uint32_t policy, std::uint32_t shares_with, std::uint32_t& handle) {
    MailboxStart start{.handle = shares_with, .policy = policy};
    const Status status = run(MailboxCommand::kLaunchStart, start);
    handle = start.handle;
    return status;
  }
  Status with_handle(MailboxCommand id, std::uint32_t handle) {
    MailboxHandle buffer{.handle = handle};
    return run(id, buffer);
  }
  Status activate(std::uint32_t handle, std::uint32_t asid) {
    MailboxActivate buffer{.handle = handle, .asid = asid};
    return run(MailboxCommand::kActivate, buffer);
  }

  SystemRandom random;
  MemoryController memory;
  Firmware firmware;
};

TEST_F(SevFirmware, PlatformStatesAndUnknownCommands) {
  std::uint32_t handle = 0;
  MailboxPdhCertExport certificates;
  EXPECT_EQ(run(MailboxCommand::kPdhCertExport, certificates), Status::kInvalidPlatformState);
  EXPECT_EQ(launch(0, 0, handle), Status::kInvalidPlatformState);
  EXPECT_EQ(with_handle(MailboxCommand::kSendFinish, 1), Status::kInvalidPlatformState);
  EXPECT_EQ(with_handle(static_cast<MailboxCommand>(0x99), 1), Status::kInvalidCommand);
  MailboxPlatformStatus status;
  EXPECT_EQ(run(MailboxCommand::kPlatformStatus, status), Status::kSuccess);
  EXPECT_EQ(status.state, 0);
  init();
  MailboxInit again;
  EXPECT_EQ(run(MailboxCommand::kInit, again), Status::kInvalidPlatformState);
  ASSERT_EQ(launch(0, 0, handle), Status::kSuccess);
  EXPECT_EQ(firmware.state(), PlatformState::kWorking);
  EXPECT_EQ(with_handle(MailboxCommand::kDecommission, handle), Status::kSuccess);
  EXPECT_EQ(firmware.state(), PlatformState::kInit);
}

TEST_F(SevFirmware, ReservedFieldsComeBeforeTheHandleAndTheHandleBeforeTheState) {
  init();
  std::uint32_t handle = 0;
  ASSERT_EQ(launch(0, 0, handle), Status::kSuccess);
  for (const std::uint32_t bad : {0u, 1u, 2u}) {
    MailboxUpdate update{.handle = 77};
    update.reserved0 = bad == 0 ? 1 : 0;
    update.reserved1 = bad == 1 ? 1 : 0;
    update.reserved2 = bad == 2 ? 1 : 0;
    EXPECT_EQ(run(MailboxCommand::kSendUpdateData, update), Status::kInvalidParam) << bad;
  }
  MailboxUpdate update{.handle = 77};
  EXPECT_EQ(run(MailboxCommand::kSendUpdateData, update), Status::kInvalidGuest);
  update.handle = handle;
  EXPECT_EQ(run(MailboxCommand::kSendUpdateData, update), Status::kInvalidGuestState);
  MailboxLaunchUpdate launch_update{.handle = handle, .address = kCBit, .len = 4096};
  EXPECT_EQ(run(MailboxCommand::kLaunchUpdateData, launch_update), Status::kInactive);
  ASSERT_EQ(activate(handle, 1), Status::kSuccess);
  EXPECT_EQ(run(MailboxCommand::kLaunchUpdateData, launch_update), Status::kInvalidAddress);
}

TEST_F(SevFirmware, AsidsAndDecommission) {
  init();
  std::uint32_t first = 0;
  std::uint32_t second = 0;
  std::uint32_t third = 0;
  ASSERT_EQ(launch(0, 0, first), Status::kSuccess);
  ASSERT_EQ(launch(0, 0, second), Status::kSuccess);
  EXPECT_EQ(launch(0, 0, third), Status::kResourceLimit);
  EXPECT_EQ(activate(first, 0), Status::kInvalidAsid);
  EXPECT_EQ(activate(first, 4), Status::kInvalidAsid);
  EXPECT_EQ(activate(first, 3), Status::kSuccess);
  EXPECT_EQ(activate(first, 2), Status::kActive);
  EXPECT_EQ(activate(second, 3), Status::kAsidOwned);
  EXPECT_EQ(with_handle(MailboxCommand::kDecommission, first), Status::kActive);
  EXPECT_EQ(with_handle(MailboxCommand::kDeactivate, first), Status::kSuccess);
  EXPECT_EQ(with_handle(MailboxCommand::kDeactivate, first), Status::kInactive);
  EXPECT_EQ(with_handle(MailboxCommand::kDecommission, first), Status::kSuccess);
  EXPECT_EQ(with_handle(MailboxCommand::kDecommission, first), Status::kInvalidGuest);
  ASSERT_EQ(launch(0, 0, third), Status::kSuccess);
  EXPECT_NE(third, first);  // a stale handle is always found
}

TEST_F(SevFirmware, KeySharingNeedsBothPolicies) {
  init();
  std::uint32_t open = 0;
  std::uint32_t other = 0;
  ASSERT_EQ(launch(0, 0, open), Status::kSuccess);
  EXPECT_EQ(launch(0, 77, other), Status::kInvalidGuest);
  EXPECT_EQ(launch(kPolicyNoKeySharing, open, other), Status::kPolicyFailure);
  ASSERT_EQ(launch(0, open, other), Status::kSuccess);
  EXPECT_EQ(firmware.find(open)->memory, firmware.find(other)->memory);
}

TEST_F(SevFirmware, PoliciesThisPlatformRefuses) {
  init();
  std::uint32_t handle = 0;
  EXPECT_EQ(launch(kPolicyEs, 0, handle), Status::kUnsupported);
  EXPECT_EQ(launch(1u << 6, 0, handle), Status::kPolicyFailure);   // reserved bit
  EXPECT_EQ(launch(2u << 16, 0, handle), Status::kPolicyFailure);  // API 2.0
  EXPECT_EQ(firmware.state(), PlatformState::kInit);
}

}  // namespace
}  // namespace sealift::sev
