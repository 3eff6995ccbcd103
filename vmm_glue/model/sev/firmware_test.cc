// New guests: who may come, who shares a key, how many fit.
#include <gtest/gtest.h>

#include "vmm_glue/model/sev/firmware_test_support.h"

namespace sealift::sev {
namespace {

using enum MailboxCommand;

class SevFirmware : public testing::Test {
 protected:
  SevFirmware() { bench.init(); }
  Status launch(std::uint32_t policy, std::uint32_t shares_with, std::uint32_t& handle) {
    MailboxStart start{.handle = shares_with, .policy = policy};
    const Status status = bench.run(kLaunchStart, start);
    handle = start.handle;
    return status;
  }
  FirmwareBench bench{{.guests_max = 2}};
};

TEST_F(SevFirmware, OnlySoManyGuestsAndNoHandleTwice) {
  std::uint32_t first = 0;
  std::uint32_t second = 0;
  std::uint32_t third = 0;
  ASSERT_EQ(launch(0, 0, first), Status::kSuccess);
  ASSERT_EQ(launch(0, 0, second), Status::kSuccess);
  EXPECT_EQ(launch(0, 0, third), Status::kResourceLimit);
  EXPECT_EQ(bench.run(kReceiveStart, bench.start_with_session(bench.peer, 0)),
            Status::kResourceLimit);
  ASSERT_EQ(bench.on(kDecommission, first), Status::kSuccess);
  EXPECT_EQ(bench.on(kDecommission, first), Status::kInvalidGuest);
  ASSERT_EQ(launch(0, 0, third), Status::kSuccess);
  EXPECT_NE(third, first);  // a stale handle is always found
  EXPECT_NE(third, second);
}

TEST_F(SevFirmware, KeySharingNeedsBothPolicies) {
  for (const bool receives : {false, true}) {
    FirmwareBench platform;
    platform.init();
    const std::uint32_t open = platform.guest({});
    const std::uint32_t closed = platform.guest({.policy = kPolicyNoKeySharing});
    const auto start = [&](std::uint32_t policy, std::uint32_t with) {
      MailboxStart request = platform.start_with_session(platform.peer, policy);
      request.handle = with;
      const Status status = platform.run(receives ? kReceiveStart : kLaunchStart, request);
      return std::pair(status, request.handle);
    };
    EXPECT_EQ(start(0, 77).first, Status::kInvalidGuest);
    EXPECT_EQ(start(kPolicyNoKeySharing, open).first, Status::kPolicyFailure);
    EXPECT_EQ(start(0, closed).first, Status::kPolicyFailure);
    const auto [status, shared] = start(0, open);
    ASSERT_EQ(status, Status::kSuccess);
    EXPECT_EQ(platform.firmware.find(shared)->memory, platform.firmware.find(open)->memory);
    const auto [other_status, own] = start(0, 0);
    ASSERT_EQ(other_status, Status::kSuccess);
    EXPECT_NE(platform.firmware.find(own)->memory, platform.firmware.find(open)->memory);
  }
}

TEST_F(SevFirmware, PoliciesThisPlatformRefuses) {
  struct Row {
    std::uint32_t policy;
    Status status;
  };
  for (const Row& row : {Row{kPolicyEs, Status::kUnsupported},        // not INITed for it
                         Row{1u << 6, Status::kPolicyFailure},        // reserved
                         Row{1u << 15, Status::kPolicyFailure},       // reserved
                         Row{0x38010000, Status::kPolicyFailure},     // API 1.56
                         Row{0x00020000, Status::kPolicyFailure}}) {  // API 2.0
    std::uint32_t handle = 0;
    EXPECT_EQ(launch(row.policy, 0, handle), row.status) << row.policy;
    EXPECT_EQ(bench.run(kReceiveStart, bench.start_with_session(bench.peer, row.policy)),
              row.status)
        << row.policy;
  }
  EXPECT_EQ(bench.firmware.state(), PlatformState::kInit);
  std::uint32_t handle = 0;
  EXPECT_EQ(launch(0x37010000, 0, handle), Status::kSuccess);  // its own API, 1.55
}

// Without a session nobody knows the key that measures: two launches of the same measure apart.
TEST_F(SevFirmware, ALaunchWithoutAnOwnerCannotBeChecked) {
  Bytes measures[2];
  for (Bytes& measure : measures) {
    const std::uint32_t handle =
        bench.guest({.state = GuestState::kLaunchUpdate, .bound = false, .has_owner = false});
    bench.random.script(counting(0));  // the same nonce
    Bytes buffer = bench.good_buffer(kLaunchMeasure, handle);
    ASSERT_EQ(bench.run_bytes(kLaunchMeasure, buffer), Status::kSuccess);
    std::uint64_t address = 0;
    std::memcpy(&address, buffer.data() + 8, sizeof(address));
    measure = FirmwareBench::kernel_bytes(address, kMeasurementBytes);
  }
  EXPECT_NE(measures[0], measures[1]);
}

// What is launched is what is measured: one byte, one call more or another order count.
TEST_F(SevFirmware, TheDigestIsOverAllPlainTextInOrder) {
  FirmwareBench platform;
  platform.init();
  const Bytes a(kPageBytes, std::byte{1});
  const Bytes b(kPageBytes, std::byte{2});
  const auto digest_of = [&](std::vector<std::pair<ByteView, std::uint32_t>> calls) {
    const std::uint32_t handle = platform.guest({.state = GuestState::kLaunchUpdate});
    std::uint64_t gfn = 0;
    for (const auto& [bytes, length] : calls) {
      std::copy(bytes.begin(), bytes.end(), platform.ram.page(gfn).begin());
      MailboxLaunchUpdate update{.handle = handle, .address = platform.page(gfn), .len = length};
      EXPECT_EQ(platform.run(kLaunchUpdateData, update), Status::kSuccess);
      ++gfn;
    }
    Bytes buffer = platform.good_buffer(kLaunchMeasure, handle);
    EXPECT_EQ(platform.run_bytes(kLaunchMeasure, buffer), Status::kSuccess);
    return *platform.firmware.find(handle)->launch_digest;
  };
  const auto sha256 = [](std::vector<ByteView> parts) {
    Sha256 digest;
    for (const ByteView part : parts) digest.add(part);
    return digest.finish();
  };
  EXPECT_EQ(digest_of({}), sha256({}));
  EXPECT_EQ(digest_of({{a, 4096}, {b, 4096}}), sha256({a, b}));
  EXPECT_EQ(digest_of({{b, 4096}, {a, 4096}}), sha256({b, a}));
  EXPECT_EQ(digest_of({{a, 16}}), sha256({ByteView(a).first(16)}));
}

// LAUNCH_UPDATE_DATA is not bound to a packet: all of memory may come in one call.
TEST_F(SevFirmware, ALongLaunchUpdate) {
  const Bytes plain(bench.ram.all().begin(), bench.ram.all().end());
  const std::uint32_t handle = bench.guest({.state = GuestState::kLaunchUpdate});
  MailboxLaunchUpdate update{
      .handle = handle, .address = bench.page(0), .len = static_cast<std::uint32_t>(plain.size())};
  ASSERT_EQ(bench.run(kLaunchUpdateData, update), Status::kSuccess);
  Bytes seen(plain.size());
  bench.memory.load(bench.firmware.find(handle)->asid, bench.ram.all().data(), seen);
  EXPECT_EQ(seen, plain);
  EXPECT_NE(Bytes(bench.ram.all().begin(), bench.ram.all().end()), plain);
}

}  // namespace
}  // namespace sealift::sev
