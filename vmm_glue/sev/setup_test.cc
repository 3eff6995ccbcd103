// Setting up: what the limits of this process mean, in words, and vCPUs at launch.

#include "vmm_glue/sev/setup.h"

#include <gtest/gtest.h>
#include <linux/capability.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <limits>
#include <thread>

#include "vmm_glue/sev/test_support.h"

namespace sealift::sev {
namespace {

constexpr auto kNoLimit = std::numeric_limits<std::uint64_t>::max();

// Refuses to pin, and writes down the KVM commands.
struct Line final : HostIoctl {
  int ioctl(int, unsigned long request, void* arg) override {
    if (request == kKvmMemoryEncryptRegRegion) return -pin_error;
    if (request == kKvmMemoryEncryptOp) {
      issued.push_back(static_cast<KvmCommand>(static_cast<KvmSevCmd*>(arg)->id));
    }
    return 0;
  }
  int pin_error = 0;
  std::vector<KvmCommand> issued;
};

// As a service without CAP_IPC_LOCK has it; put back at the end.
class MemlockLimit {
 public:
  explicit MemlockLimit(rlim_t bytes) {
    EXPECT_EQ(::getrlimit(RLIMIT_MEMLOCK, &before_), 0);
    rlimit now = before_;
    now.rlim_cur = bytes;
    EXPECT_EQ(::setrlimit(RLIMIT_MEMLOCK, &now), 0);
  }
  ~MemlockLimit() { EXPECT_EQ(::setrlimit(RLIMIT_MEMLOCK, &before_), 0); }
  MemlockLimit(const MemlockLimit&) = delete;
  MemlockLimit& operator=(const MemlockLimit&) = delete;

 private:
  rlimit before_{};
};

std::string refusal(int error) {
  Line line;
  line.pin_error = error;
  TestRam ram(3);
  const MutableBytes all = ram.all();
  const auto done = register_memory({line, 1, 2}, {&all, 1});
  return done ? "" : done.error().detail;
}

struct Capabilities {
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3] = {};
  Capabilities() { EXPECT_EQ(::syscall(SYS_capget, &header, sets), 0); }
  std::uint32_t& effective() { return sets[CAP_TO_INDEX(CAP_IPC_LOCK)].effective; }
};

// Runs `body` without CAP_IPC_LOCK: capabilities are a thread's own.
void without_ipc_lock(const std::function<void()>& body) {
  std::thread([&] {
    Capabilities own;
    own.effective() &= ~CAP_TO_MASK(CAP_IPC_LOCK);
    ASSERT_EQ(::syscall(SYS_capset, &own.header, own.sets), 0);
    body();
  }).join();
}

TEST(SevSetup, PinningThatFailsNamesTheLimitAndTheWayOut) {
  const MemlockLimit limit(8192);
  without_ipc_lock([] {
    EXPECT_EQ(memlock_limit_bytes(), 8192u);
    const std::string text = refusal(ENOMEM);
    EXPECT_NE(
        text.find(
            "ENOMEM (Cannot allocate memory). KVM pins all RAM of the guest: RLIMIT_MEMLOCK is "
            "8192 bytes, this guest needs 16384. Raise it (ulimit -l, LimitMEMLOCK= of the "
            "service) or grant CAP_IPC_LOCK."),
        std::string::npos)
        << text;
    EXPECT_EQ(refusal(EINVAL).find("RLIMIT_MEMLOCK"), std::string::npos);
    EXPECT_NE(refusal(EINVAL).find("EINVAL"), std::string::npos);
  });
}

TEST(SevSetup, WhoMayLockAnyMemoryHasNoLimit) {
  const MemlockLimit limit(8192);
  if ((Capabilities().effective() & CAP_TO_MASK(CAP_IPC_LOCK)) == 0) {
    GTEST_SKIP() << "this process has no CAP_IPC_LOCK";
  }
  EXPECT_EQ(memlock_limit_bytes(), kNoLimit);
  EXPECT_NE(refusal(ENOMEM).find("RLIMIT_MEMLOCK does not bind this process"), std::string::npos);
}

TEST(SevSetup, AnEsGuestGetsItsVcpusBetweenInitAndTheirEncryption) {
  Line line;
  TestRam ram(1);
  const MutableBytes all = ram.all();
  std::size_t issued_before_vcpus = 0;
  (void)must(launch({line, 1, 2}, kPolicyEs, {&all, 1}, {&all, 1}, [&]() -> Result<void> {
    issued_before_vcpus = line.issued.size();
    return {};
  }));
  using enum KvmCommand;
  EXPECT_EQ(line.issued, (std::vector{kEsInit, kLaunchStart, kLaunchUpdateData, kLaunchUpdateVmsa,
                                      kLaunchMeasure, kLaunchFinish}));
  EXPECT_EQ(issued_before_vcpus, 1u);
  line.issued.clear();
  (void)must(launch({line, 1, 2}, 0, {&all, 1}, {}));
  EXPECT_EQ(line.issued, (std::vector{kInit, kLaunchStart, kLaunchMeasure, kLaunchFinish}));
  line.issued.clear();
  must(prepare_receive({line, 1, 2}, {&all, 1}, kPolicyEs));
  EXPECT_EQ(line.issued, std::vector{kEsInit});
}

TEST(SevSetup, VcpusThatCannotBeMadeEndTheLaunch) {
  Line line;
  TestRam ram(1);
  const MutableBytes all = ram.all();
  const auto launched = launch({line, 1, 2}, kPolicyEs, {&all, 1}, {}, []() -> Result<void> {
    return fail(ErrorClass::kLocalFault, "no vCPU today");
  });
  ASSERT_FALSE(launched.has_value());
  EXPECT_EQ(launched.error().detail, "no vCPU today");
  EXPECT_EQ(line.issued, std::vector{KvmCommand::kEsInit});
}

}  // namespace
}  // namespace sealift::sev
