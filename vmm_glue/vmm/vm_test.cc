// One suite for both back-ends: every workload, with and without private memory, one and more
// vCPUs.
#include <algorithm>
#include <string>
#include <tuple>

#include "vmm_glue/vmm/vm_test_support.h"

namespace sealift {
namespace {

using namespace test;

struct Kind {
  Backend backend;
  Platform platform;
  std::uint32_t vcpus;
};

class EveryVm : public testing::TestWithParam<std::tuple<Kind, Workload>> {
 protected:
  void SetUp() override {
    if (std::get<0>(GetParam()).backend != Backend::kKvm) return;
    if (auto probe = probe_kvm(); !probe) GTEST_SKIP() << probe.error().detail;
  }
  static VmConfig config() {
    const auto& [kind, workload] = GetParam();
    VmConfig config;
    config.backend = kind.backend;
    config.platform = kind.platform;
    config.vcpus = kind.vcpus;
    config.workload = workload;
    config.memory_bytes = 4ULL << 20;
    config.seed = 77;
    return config;
  }
};

std::string name_of_case(const testing::TestParamInfo<EveryVm::ParamType>& info) {
  const auto& [kind, workload] = info.param;
  return std::string(name_of(kind.backend)) + "_" + name_of(kind.platform) + "_" +
         std::to_string(kind.vcpus) + "vcpu_" + name_of(workload);
}

INSTANTIATE_TEST_SUITE_P(All, EveryVm,
                         testing::Combine(testing::Values(Kind{Backend::kModel, Platform::kNone, 1},
                                                          Kind{Backend::kModel, Platform::kSev, 2},
                                                          Kind{Backend::kKvm, Platform::kNone, 1},
                                                          Kind{Backend::kKvm, Platform::kSev, 1},
                                                          Kind{Backend::kKvm, Platform::kNone, 2},
                                                          Kind{Backend::kKvm, Platform::kSev, 2}),
                                          testing::Values(Workload::kIdle, Workload::kSweep,
                                                          Workload::kHotset, Workload::kRandom,
                                                          Workload::kFlipstorm)),
                         name_of_case);

TEST_P(EveryVm, RunsAndFindsNoErrors) {
  Machine vm = booted_machine(config());
  let_run(*vm);
  expect_no_errors(*vm);
  let_run(*vm);
  expect_no_errors(*vm);
  const auto check = vm->self_check(60s);
  ASSERT_TRUE(check.has_value());
  EXPECT_GT(check->steps, 1000u);
  EXPECT_EQ(check->refused, 0u);
  EXPECT_EQ(check->conversions == 0, config().platform == Platform::kNone);
}

TEST_P(EveryVm, FindsACorruptedPage) {
  VmConfig one = config();
  one.flips_per_1000 = 0;  // a conversion would fill the page anew and hide the damage
  // A native guest writes all 512 words of every page within milliseconds, which repairs it, too.
  one.spin_per_step = 10000;
  Machine vm = booted_machine(one);
  const VcpuPlan& last = vm->plan().vcpus.back();
  const Gfn victim{guest::gfn_of_linear(last.arena_first + last.arena_pages / 3)};
  SEALIFT_EXPECT_OK(vm->pause());
  // In every word, so that the writes before the check do not happen to repair all of it.
  for (std::size_t at = 7; at < kPageBytes; at += 8)
    vm->host_address(victim)[at] ^= std::byte{0x40};
  SEALIFT_EXPECT_OK(vm->resume());
  const auto check = vm->self_check(60s);
  ASSERT_TRUE(check.has_value()) << check.error().detail;
  EXPECT_EQ(check->errors, 1u);
  ASSERT_TRUE(check->first_bad_gfn.has_value());
  EXPECT_EQ(*check->first_bad_gfn, victim);
}

TEST_P(EveryVm, PageMapEqualsTheGuestsOwnClassBits) {
  Machine vm = booted_machine(config());
  let_run(*vm);
  SEALIFT_EXPECT_OK(vm->pause());
  // On KVM a pause may fall between the hypercall's answer and the guest's note of it: at most one
  // range for each vCPU.
  std::uint64_t differences = 0, shared = 0;
  for (std::uint32_t i = 0; i < config().vcpus; ++i) {
    const VcpuPlan& plan = vm->plan().vcpus[i];
    for (std::uint64_t page = 0; page < plan.arena_pages; ++page) {
      const Gfn gfn{guest::gfn_of_linear(plan.arena_first + page)};
      const PageClass cls = vm->page_map().class_of(gfn);
      if (cls == PageClass::kShared) ++shared;
      if (config().platform == Platform::kNone) {
        EXPECT_EQ(cls, PageClass::kShared);
      } else if (cls != guest_class(*vm, i, page)) {
        ++differences;
      }
    }
  }
  EXPECT_LE(differences,
            config().backend == Backend::kKvm ? config().vcpus * guest::kFlipPagesMax : 0);
  EXPECT_GT(shared, 0u);
  EXPECT_EQ(vm->page_map().class_of(Gfn{guest::kMailboxGfn}), PageClass::kShared);
}

TEST_P(EveryVm, HarvestHasEveryChangedPage) {
  Machine vm = booted_machine(config());
  SEALIFT_EXPECT_OK(vm->pause());
  SEALIFT_EXPECT_OK(vm->start_dirty_tracking());
  SEALIFT_EXPECT_OK(vm->harvest_dirty());
  PageBitmap before_run(vm->layout().span_pages());
  vm->dirty().drain(before_run);
  std::vector<Bytes> before;
  const auto gfns = all_gfns(vm->layout());
  for (const Gfn gfn : gfns) before.push_back(guest_view(*vm, gfn));
  SEALIFT_EXPECT_OK(vm->resume());
  let_run(*vm, 3000);
  SEALIFT_EXPECT_OK(vm->pause());
  SEALIFT_EXPECT_OK(vm->harvest_dirty());
  std::uint64_t changed = 0;
  for (std::size_t i = 0; i < gfns.size(); ++i) {
    if (guest_view(*vm, gfns[i]) == before[i]) continue;
    ++changed;
    EXPECT_TRUE(vm->dirty().is_marked(gfns[i])) << value(gfns[i]);
  }
  if (config().workload == Workload::kIdle) {
    EXPECT_EQ(changed, 0u);
    // Processors that walk page tables under nested paging count that as writing to them.
    for (const Gfn gfn : gfns) {
      if (value(gfn) < value(vm->plan().vcpus.front().control)) continue;
      EXPECT_FALSE(vm->dirty().is_marked(gfn)) << value(gfn);
    }
  } else {
    EXPECT_GT(changed, 2u);
  }
}

TEST_P(EveryVm, MigratesAliveAndEqual) {
  Machine from = booted_machine(config());
  Machine to = make_machine(config(), 0x7654321);
  HandMigration migration(from, to);
  migration.run();
  EXPECT_EQ(from->page_map().shared_ranges(), to->page_map().shared_ranges());
  for (const Gfn gfn : all_gfns(from->layout())) {
    ASSERT_EQ(guest_view(*from, gfn), guest_view(*to, gfn)) << value(gfn);
  }
  EXPECT_TRUE(to->status().booted);
  SEALIFT_EXPECT_OK(to->resume());
  expect_no_errors(*to);
  let_run(*to);
  expect_no_errors(*to);
}

TEST_P(EveryVm, LeavingOutTheLastRoundIsCaught) {
  if (config().workload == Workload::kIdle) return;  // nothing changes, so nothing is missing
  Machine from = booted_machine(config());
  Machine to = make_machine(config(), 0x7654321);
  HandMigration migration(from, to);
  migration.run(false);
  SEALIFT_EXPECT_OK(to->resume());
  const auto check = to->self_check(60s);
  // The guest may even lose its way on stale memory.
  EXPECT_TRUE(!check || check->errors > 0);
}

TEST_P(EveryVm, PausesAndResumesManyTimes) {
  Machine vm = make_machine(config());
  SEALIFT_EXPECT_OK(vm->boot());
  auto longest = 0ns;
  for (int i = 0; i < 200; ++i) {
    SEALIFT_EXPECT_OK(vm->resume());
    if (i % 3 == 0) std::this_thread::yield();
    const auto start = std::chrono::steady_clock::now();
    SEALIFT_EXPECT_OK(vm->pause());
    longest = std::max<std::chrono::nanoseconds>(longest, std::chrono::steady_clock::now() - start);
  }
  RecordProperty("longest_pause_us", static_cast<int>(longest / 1us));
  SEALIFT_EXPECT_OK(vm->resume());
  SEALIFT_EXPECT_OK(vm->wait_booted(60s));
  expect_no_errors(*vm);
}

TEST_P(EveryVm, RefusesStateOfAWrongShape) {
  if (std::get<1>(GetParam()) != Workload::kSweep) return;
  Machine from = booted_machine(config());
  SEALIFT_EXPECT_OK(from->pause());
  const auto good = from->save_state();
  ASSERT_TRUE(good.has_value());
  for (std::size_t i = 0; i < good->size(); ++i) {
    SCOPED_TRACE((*good)[i].name);
    Machine to = make_machine(config());
    for (int change = 0; change < 6; ++change) {
      auto bad = *good;
      if (change == 0) bad[i].bytes.push_back(std::byte{0});
      if ((change == 1 || change == 2) && bad[i].bytes.empty()) continue;
      if (change == 1) bad[i].bytes.pop_back();
      if (change == 2) bad[i].bytes.clear();
      // A guest without MSRs, and a KVM without TSC offsets, are possible.
      const std::string& name = bad[i].name;
      if (change == 2 && (name == "kvm.msrs" || name == "kvm.tsc_offset")) continue;
      if (change == 3) bad[i].version = 99;
      if (change == 4) bad[i].index = config().vcpus;
      if (change == 5) bad.push_back(bad[i]);
      const auto loaded = to->load_state(bad);
      EXPECT_FALSE(loaded.has_value()) << change;
      EXPECT_EQ(to->status().state, VmState::kCreated);
    }
    auto missing = *good;
    missing.erase(missing.begin() + static_cast<std::ptrdiff_t>(i));
    EXPECT_FALSE(to->load_state(missing).has_value());
    SEALIFT_EXPECT_OK(to->load_state(*good));
  }
}

}  // namespace
}  // namespace sealift
