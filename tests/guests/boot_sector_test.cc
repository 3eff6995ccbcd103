// Guests that know nothing of us: boot sectors in the reference VMM, migrated while they run.
#include <gtest/gtest.h>
#include <time.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <sstream>
#include <string>

#include "vmm_glue/vmm/vm_test_support.h"

namespace sealift {
namespace {

using namespace test;

constexpr std::uint64_t kCounterFirstGfn = 0x100;  // as page_counter.S has it
constexpr std::uint64_t kCounterEndGfn = 0x800;

class BootSector : public testing::Test {
 protected:
  void SetUp() override {
    const auto probe = probe_kvm();
    if (!probe) GTEST_SKIP() << probe.error().detail;
  }
  void TearDown() override {
    for (const std::string& path : files_) unlink(path.c_str());
  }
  // A guest that prints to a file of its own.
  VmConfig config(const std::string& sector) {
    VmConfig config;
    config.backend = Backend::kKvm;
    config.program = Program::kBootSector;
    config.program_path = std::string(SEALIFT_BOOT_SECTORS) + "/" + sector + ".bin";
    config.memory_bytes = 16ULL << 20;
    char path[] = "/tmp/sealift-serial-XXXXXX";
    close(mkstemp(path));
    files_.push_back(path);
    config.serial_path = path;
    return config;
  }
  std::string printed() const {
    std::string all;
    for (const std::string& path : files_) {
      std::ostringstream text;
      text << std::ifstream(path).rdbuf();
      all += text.str();
    }
    return all;
  }

  std::vector<std::string> files_;
};

// Until the guest has printed `bytes` more on this host.
void wait_printed(const Vm& vm, std::uint64_t bytes) {
  const std::uint64_t goal = vm.status().serial_bytes + bytes;
  const auto deadline = std::chrono::steady_clock::now() + 60s;
  while (vm.status().serial_bytes < goal && vm.status().state == VmState::kRunning &&
         std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(1ms);  // tidy: allow (pacing a poll of the guest's own output)
  }
  EXPECT_GE(vm.status().serial_bytes, goal) << vm.status().reason;
}

void copy_pages(Vm& from, Vm& to, const PageBitmap* only) {
  Bytes page(kPageBytes);
  const std::span<std::byte, kPageBytes> view(page);
  for (const Gfn gfn : all_gfns(from.layout())) {
    const std::uint64_t i = value(gfn);
    if (only != nullptr && (only->words()[i / 64] >> (i % 64) & 1) == 0) continue;
    SEALIFT_EXPECT_OK(from.read_plain(gfn, view));
    SEALIFT_EXPECT_OK(to.write_plain(gfn, view));
  }
}

void copy_dirty(Vm& from, Vm& to) {
  SEALIFT_EXPECT_OK(from.harvest_dirty());
  PageBitmap taken(from.layout().span_pages());
  from.dirty().drain(taken);
  copy_pages(from, to, &taken);
}

// Live, with rounds while the guest runs; `last_round` off is the planted bug.
Machine move(Machine& from, const VmConfig& config, bool last_round = true) {
  Machine to = make_machine(config);
  SEALIFT_EXPECT_OK(from->start_dirty_tracking());
  copy_pages(*from, *to, nullptr);
  for (int i = 0; i < 3; ++i) {
    wait_printed(*from, 1);
    copy_dirty(*from, *to);
  }
  wait_printed(*from, 1);
  SEALIFT_EXPECT_OK(from->pause());
  if (last_round) copy_dirty(*from, *to);
  auto state = from->save_state();
  EXPECT_TRUE(state.has_value()) << why(state);
  if (state) SEALIFT_EXPECT_OK(to->load_state(std::move(*state)));
  SEALIFT_EXPECT_OK(from->stop_dirty_tracking());
  SEALIFT_EXPECT_OK(to->resume());
  return to;
}

// v, v, … v, v-1, … v-1: at most one step down, by one.
void expect_unbroken_row(const Vm& vm) {
  int steps_down = 0;
  auto last = static_cast<std::uint8_t>(*vm.host_address(Gfn{kCounterFirstGfn}));
  for (std::uint64_t gfn = kCounterFirstGfn; gfn < kCounterEndGfn; ++gfn) {
    const auto now = static_cast<std::uint8_t>(*vm.host_address(Gfn{gfn}));
    if (now == last) continue;
    EXPECT_EQ(now, static_cast<std::uint8_t>(last - 1)) << "gfn " << gfn;
    ++steps_down;
    last = now;
  }
  EXPECT_LE(steps_down, 1);
}

TEST_F(BootSector, CountsOnThroughMigrationsWithoutAGap) {
  VmConfig own = config("page_counter");
  Machine vm = booted_machine(own);
  wait_printed(*vm, 1);
  for (int hop = 0; hop < 3; ++hop) {
    const auto at = [](const Vm& v) {
      return static_cast<std::uint8_t>(*v.host_address(Gfn{kCounterFirstGfn}));
    };
    Machine next = move(vm, config("page_counter"));
    wait_printed(*next, 2);
    SEALIFT_EXPECT_OK(next->pause());
    expect_unbroken_row(*next);
    EXPECT_NE(at(*next), at(*vm));  // it went on
    SEALIFT_EXPECT_OK(next->resume());
    vm = std::move(next);
  }
  const std::string text = printed();
  EXPECT_EQ(text.find('A'), 0u) << text;
  EXPECT_EQ(text.find_first_not_of('B', 1), std::string::npos) << text;
}

// Planted: a round left out. The guest itself notices.
TEST_F(BootSector, NoticesALostRound) {
  Machine vm = booted_machine(config("page_counter"));
  wait_printed(*vm, 1);
  Machine next = move(vm, config("page_counter"), false);
  wait_printed(*next, 8);
  EXPECT_NE(printed().find('!'), std::string::npos) << printed();
}

// Without the in-kernel timer, interrupt controllers and LAPIC of the source it would halt for
// ever.
TEST_F(BootSector, LivesOnTimerInterruptsThroughAMigration) {
  VmConfig own = config("timer_ticks");
  own.irqchip = true;
  const auto system = KvmSystem::open();
  ASSERT_TRUE(system.has_value());
  const auto irqchip = SEALIFT_KVM(system->handle, KVM_CHECK_EXTENSION, KVM_CAP_IRQCHIP);
  if (irqchip.value_or(0) == 0) GTEST_SKIP() << "this KVM has no KVM_CAP_IRQCHIP";
  Machine vm = make_machine(own);
  SEALIFT_EXPECT_OK(vm->boot());
  SEALIFT_EXPECT_OK(vm->resume());
  wait_printed(*vm, 4);
  VmConfig there = config("timer_ticks");
  there.irqchip = true;
  Machine next = move(vm, there);
  wait_printed(*next, 16);
  const std::string text = printed();
  EXPECT_EQ(text.find('T'), 0u) << text;
  EXPECT_EQ(text.find_first_not_of('.', 1), std::string::npos) << text;
}

TEST_F(BootSector, RefusesAFileThatIsNone) {
  VmConfig own = config("page_counter");
  own.program_path = "/proc/self/exe";
  const auto made = make_vm(own, nullptr);
  ASSERT_FALSE(made.has_value());
  EXPECT_NE(made.error().detail.find("larger than 512 bytes"), std::string::npos);
  own.program_path = files_.front();  // empty
  EXPECT_NE(make_vm(own, nullptr).error().detail.find("55 aa"), std::string::npos);
}

std::chrono::nanoseconds cpu_time() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
}

// Of one CPU, for as long as the guest needs to print `bytes`. A busy machine only lowers it.
double cpu_share(const Vm& vm, std::uint64_t bytes) {
  const auto wall = std::chrono::steady_clock::now();
  const auto cpu = cpu_time();
  wait_printed(vm, bytes);
  const std::chrono::duration<double> used = cpu_time() - cpu;
  const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - wall;
  return used / passed;
}

TEST_F(BootSector, IsSlowedDownByAThrottle) {
  Machine vm = booted_machine(config("page_counter"));
  wait_printed(*vm, 2);
  SEALIFT_EXPECT_OK(vm->throttle(90));
  EXPECT_EQ(vm->status().throttle_percent, 90u);
  EXPECT_LT(cpu_share(*vm, 4), 0.25);  // 0.1, and what this test itself uses
  SEALIFT_EXPECT_OK(vm->throttle(0));
  EXPECT_GT(cpu_share(*vm, 16), 0.3);
  EXPECT_FALSE(vm->throttle(100).has_value());
}

}  // namespace
}  // namespace sealift
