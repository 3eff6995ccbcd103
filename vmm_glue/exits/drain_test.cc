#include "vmm_glue/exits/drain.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <deque>
#include <string>

namespace sealift {
namespace {

// A vCPU whose completions give what the test lists, then EINTR for ever.
class FakeVcpu final : public DrainTarget {
 public:
  std::deque<int> results;
  int endless = EINTR;
  int fail_at = -1;  // this serve() fails
  std::deque<int> served;
  int runs = 0;

  int complete() override {
    ++runs;
    if (results.empty()) return endless;
    const int result = results.front();
    results.pop_front();
    return result;
  }
  Result<void> serve(int run_errno) override {
    served.push_back(run_errno);
    if (static_cast<int>(served.size()) == fail_at) {
      return fail(ErrorClass::kRefused, "exit {} is not known", fail_at);
    }
    return {};
  }
};

TEST(Drain, OneRunCompletesAnExitThatRaisesNoOther) {
  FakeVcpu vcpu;
  const auto served = drain_vcpu(vcpu, 1);
  ASSERT_TRUE(served) << served.error().detail;
  EXPECT_EQ(*served, 0u);
  EXPECT_EQ(vcpu.runs, 1);
}

TEST(Drain, ServesWhateverCompletionRaises) {
  FakeVcpu vcpu;
  vcpu.results = {0, 0, EFAULT, EAGAIN, EHWPOISON, 0};
  const auto served = drain_vcpu(vcpu, 100);
  ASSERT_TRUE(served) << served.error().detail;
  EXPECT_EQ(*served, 5u);
  EXPECT_EQ(vcpu.served, (std::deque<int>{0, 0, EFAULT, EHWPOISON, 0}));
  EXPECT_EQ(vcpu.runs, 7);
}

TEST(Drain, EndsAtItsBound) {
  for (const int result : {0, EAGAIN, EFAULT}) {
    FakeVcpu vcpu;
    vcpu.endless = result;
    const auto served = drain_vcpu(vcpu, 50);
    ASSERT_FALSE(served);
    EXPECT_EQ(served.error().detail, "still had exits to complete after 50 runs");
    EXPECT_EQ(vcpu.runs, 50);
  }
}

TEST(Drain, AnExitThatCannotBeServedEndsIt) {
  FakeVcpu vcpu;
  vcpu.endless = 0;
  vcpu.fail_at = 3;
  const auto served = drain_vcpu(vcpu, 50);
  ASSERT_FALSE(served);
  EXPECT_EQ(served.error().detail, "exit 3 is not known");
  EXPECT_EQ(vcpu.runs, 3);
}

TEST(Drain, AnErrorOfKvmRunIsNamedAndNothingIsServed) {
  for (const int error : {EINVAL, EIO, ENOMEM, ENOTTY}) {
    FakeVcpu vcpu;
    vcpu.results = {error};
    const auto served = drain_vcpu(vcpu, 50);
    ASSERT_FALSE(served);
    EXPECT_NE(served.error().detail.find(strerrorname_np(error)), std::string::npos);
    EXPECT_TRUE(vcpu.served.empty());
  }
}

TEST(Drain, TheBoundGrowsWithTheGuest) {
  const auto layout = MemoryLayout::make({GfnRange{Gfn{0}, 1 << 18}});
  ASSERT_TRUE(layout);
  EXPECT_EQ(drain_runs_max(*layout), 512u + 1024u);
}

}  // namespace
}  // namespace sealift
