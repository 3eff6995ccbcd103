#include "vmm_glue/exits/hypercall_setup.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "vmm_glue/host_ioctl.h"

namespace sealift {
namespace {

constexpr int kVm = 9;

// KVM as far as these requests go. Faults: a capability it lacks, a request that fails.
class FakeKvm final : public HostIoctl {
 public:
  std::map<std::uintptr_t, int> extensions = {
      {kKvmCapExitHypercall, 0x1000}, {kKvmCapUserSpaceMsr, 1}, {kKvmCapMsrFilter, 1}};
  unsigned long fails = 0;  // this request gives -EINVAL
  std::vector<std::string> calls;
  std::map<std::uint32_t, std::uint64_t> enabled;
  KvmMsrFilter filter{};
  std::uint64_t bitmap = ~0ULL;

  int ioctl(int fd, unsigned long request, void* arg) override {
    EXPECT_EQ(fd, kVm);
    if (request == fails) return -EINVAL;
    if (request == kKvmCheckExtension) return extensions[reinterpret_cast<std::uintptr_t>(arg)];
    if (request == kKvmEnableCap) {
      KvmEnableCap cap;
      std::memcpy(&cap, arg, sizeof cap);
      EXPECT_EQ(cap.flags, 0u);
      enabled[cap.cap] = cap.args[0];
      calls.push_back("enable " + std::to_string(cap.cap));
      return 0;
    }
    if (request != kKvmSetMsrFilter) return -ENOTTY;
    std::memcpy(&filter, arg, sizeof filter);
    std::memcpy(&bitmap, filter.ranges[0].bitmap, sizeof bitmap);  // as KVM copies it
    calls.push_back("filter");
    return 0;
  }
};

std::vector<kvm_cpuid_entry2> some_cpuid() {
  std::vector<kvm_cpuid_entry2> entries(3);
  entries[0].function = 1;
  entries[1].function = 0x40000000;
  entries[2].function = 0x40000001;
  entries[2].eax = 0x01007efb;
  return entries;
}

TEST(HypercallSetup, TellsKvmAndThenTheGuest) {
  FakeKvm kvm;
  const auto trap = trap_migration_control(kvm, kVm);
  ASSERT_TRUE(trap) << trap.error().detail;
  const auto exits = enable_page_state_exits(kvm, kVm);
  ASSERT_TRUE(exits) << exits.error().detail;
  EXPECT_EQ(kvm.calls, (std::vector<std::string>{"enable 188", "filter", "enable 201"}));
  EXPECT_EQ(kvm.enabled[kKvmCapUserSpaceMsr], 4u);
  EXPECT_EQ(kvm.enabled[kKvmCapExitHypercall], 0x1000u);

  auto cpuid = some_cpuid();
  ASSERT_TRUE(advertise_page_state(cpuid, *exits, nullptr));
  EXPECT_EQ(cpuid[2].eax, 0x01017efbu);
  ASSERT_TRUE(advertise_page_state(cpuid, *exits, &*trap));
  EXPECT_EQ(cpuid[2].eax, 0x01037efbu);
  EXPECT_EQ(cpuid[0].eax | cpuid[1].eax | cpuid[2].ebx, 0u);
}

TEST(HypercallSetup, TheFilterDeniesOneMsrAndAllowsTheRest) {
  FakeKvm kvm;
  ASSERT_TRUE(trap_migration_control(kvm, kVm));
  EXPECT_EQ(kvm.filter.flags, 0u);
  EXPECT_EQ(kvm.filter.ranges[0].flags, 3u);
  EXPECT_EQ(kvm.filter.ranges[0].base, 0x4b564d08u);
  EXPECT_EQ(kvm.filter.ranges[0].nmsrs, 1u);
  EXPECT_EQ(kvm.bitmap, 0u);
  for (std::size_t i = 1; i < kKvmMsrFilterRangesMax; ++i) {
    EXPECT_EQ(kvm.filter.ranges[i].nmsrs, 0u);
  }
}

TEST(HypercallSetup, AKernelThatLacksACapabilityIsNamed) {
  struct Row {
    std::uint32_t capability;
    int gives;
  };
  for (const Row row : {Row{kKvmCapExitHypercall, 0}, Row{kKvmCapExitHypercall, 0x800},
                        Row{kKvmCapExitHypercall, -EINVAL}, Row{kKvmCapUserSpaceMsr, 0},
                        Row{kKvmCapMsrFilter, 0}, Row{kKvmCapMsrFilter, -EINVAL}}) {
    FakeKvm kvm;
    kvm.extensions[row.capability] = row.gives;
    const bool is_hypercall = row.capability == kKvmCapExitHypercall;
    const std::string detail = is_hypercall ? enable_page_state_exits(kvm, kVm).error().detail
                                            : trap_migration_control(kvm, kVm).error().detail;
    EXPECT_NE(detail.find("gives " + std::to_string(row.gives)), std::string::npos) << detail;
    EXPECT_TRUE(kvm.calls.empty());
  }
}

TEST(HypercallSetup, AFailedRequestGivesNoToken) {
  for (const unsigned long request : {kKvmEnableCap, kKvmSetMsrFilter}) {
    FakeKvm kvm;
    kvm.fails = request;
    const auto trap = trap_migration_control(kvm, kVm);
    ASSERT_FALSE(trap);
    EXPECT_EQ(trap.error().cls, ErrorClass::kLocalFault);
    EXPECT_NE(trap.error().detail.find("EINVAL"), std::string::npos);
    EXPECT_EQ(enable_page_state_exits(kvm, kVm).has_value(), request != kKvmEnableCap);
  }
}

TEST(HypercallSetup, WithoutKvmsLeafNothingIsAdvertised) {
  FakeKvm kvm;
  const auto exits = enable_page_state_exits(kvm, kVm);
  ASSERT_TRUE(exits);
  auto cpuid = some_cpuid();
  cpuid.pop_back();
  const auto done = advertise_page_state(cpuid, *exits, nullptr);
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().detail, "none of the 2 CPUID entries is leaf 0x40000001");
}

}  // namespace
}  // namespace sealift
