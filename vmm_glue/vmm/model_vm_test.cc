// What only modelled vCPUs can show: determinism, refusals, hostile memory, quick pauses at any
// moment.
#include "vmm_glue/vmm/model_vm.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "vmm_glue/vmm/vm_test_support.h"

namespace sealift {
namespace {

using namespace test;

VmConfig small(Workload workload, Platform platform = Platform::kSev) {
  VmConfig config;
  config.platform = platform;
  config.workload = workload;
  config.memory_bytes = kGuestBytesMin;
  config.seed = 5;
  return config;
}

ModelVm& model(Machine& machine) { return dynamic_cast<ModelVm&>(*machine.vm); }

void poke_mailbox(Vm& vm, std::uint64_t offset, std::uint64_t word) {
  copy_to_guest(vm.host_address(Gfn{guest::kMailboxGfn}) + offset,
                std::as_bytes(std::span(&word, 1)));
}
constexpr std::uint64_t of_first_vcpu(std::uint64_t offset) {
  return offsetof(guest::Mailbox, vcpu) + offset;
}

TEST(ModelVm, SameSeedAndStepsGiveTheSameMemory) {
  std::vector<Bytes> first;
  for (int run = 0; run < 2; ++run) {
    Machine machine =
        make_machine(small(Workload::kFlipstorm), 99 + static_cast<std::uint64_t>(run));
    SEALIFT_EXPECT_OK(machine->boot());
    SEALIFT_EXPECT_OK(model(machine).run_steps(0, 3000));
    EXPECT_TRUE(machine->status().booted);
    std::size_t i = 0;
    for (const Gfn gfn : all_gfns(machine->layout())) {
      // Pages that nobody wrote are raw zeros, which each key sees as something else.
      if (value(gfn) < machine->plan().vcpus[0].arena_first) continue;
      if (value(gfn) >= machine->plan().vcpus[0].arena_first + machine->plan().vcpus[0].arena_pages)
        continue;
      if (run == 0) {
        first.push_back(guest_view(*machine, gfn));
      } else {
        ASSERT_EQ(guest_view(*machine, gfn), first[i++]) << value(gfn);
      }
    }
  }
}

TEST(ModelVm, StepsMigrateWithoutThreads) {
  Machine from = make_machine(small(Workload::kFlipstorm));
  SEALIFT_EXPECT_OK(from->boot());
  Machine to = make_machine(small(Workload::kIdle), 1);  // what it does comes with the memory
  HandMigration migration(from, to);
  SEALIFT_EXPECT_OK(from->start_dirty_tracking());
  migration.copy_all();
  for (int i = 0; i < 40; ++i) {
    SEALIFT_EXPECT_OK(model(from).run_steps(0, 37));
    migration.round();
  }
  migration.move_state();
  SEALIFT_EXPECT_OK(model(to).run_steps(0, 500));
  SEALIFT_EXPECT_OK(to->resume());
  expect_no_errors(*to);
}

// SEV-ES: the host has no registers to save; they move as the platform moves their pages.
TEST(ModelVm, RegistersThatThePlatformKeepsAreNotInTheSavedState) {
  Machine from = make_machine(small(Workload::kFlipstorm), 3);
  Machine to = make_machine(small(Workload::kIdle), 4);
  Bytes from_page(kPageBytes), to_page(kPageBytes);
  from.secret->keep_registers(from_page);
  to.secret->keep_registers(to_page);
  SEALIFT_EXPECT_OK(from->boot());
  HandMigration migration(from, to);
  SEALIFT_EXPECT_OK(from->start_dirty_tracking());
  SEALIFT_EXPECT_OK(model(from).run_steps(0, 4000));
  migration.copy_all();
  const auto state = from->save_state();
  ASSERT_TRUE(state.has_value());
  for (const StateBlob& blob : *state) EXPECT_NE(blob.kind, StateBlob::Kind::kVcpu) << blob.name;

  Bytes registers(kPageBytes);
  from.secret->load(from_page.data(), registers);
  EXPECT_NE(registers, Bytes(kPageBytes));
  migration.move_state();
  to.secret->store(to_page.data(), registers);
  SEALIFT_EXPECT_OK(model(to).run_steps(0, 2000));
  SEALIFT_EXPECT_OK(to->resume());
  expect_no_errors(*to);

  Machine other = make_machine(small(Workload::kIdle), 5);  // its platform keeps none
  SEALIFT_EXPECT_OK(other->boot());
  auto foreign = other->save_state();
  ASSERT_TRUE(foreign.has_value());
  SEALIFT_EXPECT_OK(to->pause());
  const auto loaded = to->load_state(std::move(*foreign));
  ASSERT_FALSE(loaded.has_value());
  EXPECT_NE(loaded.error().detail.find("the platform keeps the registers"), std::string::npos);
}

TEST(ModelVm, AGuestWhosePlatformForbidsItDoesNotRun) {
  Machine machine = booted_machine(small(Workload::kSweep));
  SEALIFT_EXPECT_OK(machine->pause());
  machine.secret->refusal = "the firmware says SENT";
  const std::uint64_t steps = machine->status().steps;
  SEALIFT_EXPECT_OK(machine->resume());
  EXPECT_FALSE(machine->self_check(60s).has_value());
  EXPECT_EQ(machine->status().state, VmState::kTerminated);
  EXPECT_EQ(machine->status().reason, "the firmware says SENT");
  EXPECT_EQ(machine->status().steps, steps);
}

TEST(ModelVm, TheGateIsAskedBeforeEachConversionAndCanPutItOff) {
  Machine machine = make_machine(small(Workload::kFlipstorm));
  std::uint64_t asked = 0;
  bool later = false;
  machine->set_convert_gate([&](GfnRange range, PageClass wish) {
    EXPECT_NE(machine->page_map().class_of(range.first), wish);  // before, not after
    ++asked;
    return later ? ConvertVerdict::kLater : ConvertVerdict::kNow;
  });
  SEALIFT_EXPECT_OK(machine->boot());
  SEALIFT_EXPECT_OK(model(machine).run_steps(0, 3000));
  EXPECT_EQ(asked, machine->status().hypercalls);
  EXPECT_GT(asked, 100u);
  const auto shared = machine->page_map().shared_ranges();
  later = true;
  asked = 0;
  SEALIFT_EXPECT_OK(model(machine).run_steps(0, 500));
  EXPECT_GT(asked, 0u);
  EXPECT_EQ(machine->page_map().shared_ranges(), shared);
}

// What a guest never touches stays as the host gave it.
TEST(ModelVm, AGuestTouchesOnlyItsPopulatedShare) {
  VmConfig config = small(Workload::kRandom);
  config.memory_bytes = 16ULL << 20;
  config.populated_percent = 30;
  Machine machine = booted_machine(config);
  let_run(*machine, 3000);
  SEALIFT_EXPECT_OK(machine->pause());
  std::uint64_t touched = 0;
  for (const Gfn gfn : all_gfns(machine->layout())) {
    const std::byte* page = machine->host_address(gfn);
    touched += std::any_of(page, page + kPageBytes, [](std::byte b) { return b != std::byte{0}; });
  }
  const std::uint64_t pages = machine->layout().pages();
  EXPECT_LE(touched, pages * 31 / 100);
  EXPECT_GE(touched, pages * 28 / 100);
}

TEST(ModelVm, ARefusedConversionChangesNoClass) {
  for (std::uint64_t form : {guest::kFormPageEncStatus, guest::kFormMapGpaRange}) {
    VmConfig config = small(Workload::kFlipstorm);
    config.hypercall_form = static_cast<HypercallForm>(form);
    Machine machine = booted_machine(config);
    expect_no_errors(*machine);
  }
  // Arena pages that are no RAM: the decoder refuses, the guest counts, nothing is converted.
  Machine machine = make_machine(small(Workload::kSweep));
  SEALIFT_EXPECT_OK(machine->boot());
  const auto shared = machine->page_map().shared_ranges();
  poke_mailbox(*machine, of_first_vcpu(offsetof(guest::VcpuMailbox, arena_first)), 400);
  SEALIFT_EXPECT_OK(model(machine).run_steps(0, 1));
  poke_mailbox(*machine, of_first_vcpu(offsetof(guest::VcpuMailbox, arena_first)), 1u << 20);
  Machine other = make_machine(small(Workload::kSweep));
  SEALIFT_EXPECT_OK(other->boot());
  poke_mailbox(*other, of_first_vcpu(offsetof(guest::VcpuMailbox, arena_first)), 1u << 20);
  SEALIFT_EXPECT_OK(model(other).run_steps(0, 1));
  EXPECT_EQ(other->page_map().shared_ranges(), shared);
  guest::VcpuMailbox block{};
  std::memcpy(&block, other->host_address(Gfn{guest::kMailboxGfn}) + of_first_vcpu(0),
              sizeof block);
  EXPECT_EQ(block.refused, 1u);
  EXPECT_EQ(block.conversions, 0u);
}

TEST(ModelVm, HostileMailboxEndsTheGuestAndNothingElse) {
  for (std::uint64_t offset = 0; offset < of_first_vcpu(sizeof(guest::VcpuMailbox)); offset += 8) {
    for (std::uint64_t word : {std::uint64_t{0}, std::uint64_t{1}, ~std::uint64_t{0},
                               std::uint64_t{1} << 63, std::uint64_t{0xfffffffffffff000}}) {
      Machine machine = make_machine(small(Workload::kFlipstorm));
      SEALIFT_EXPECT_OK(machine->boot());
      poke_mailbox(*machine, offset, word);
      (void)model(machine).run_steps(0, 700);
      poke_mailbox(*machine, offset, word);
      (void)model(machine).run_steps(0, 50);
      (void)machine->status();
    }
  }
}

TEST(ModelVm, HostileRegistersEndTheGuestAndNothingElse) {
  Machine from = make_machine(small(Workload::kFlipstorm));
  SEALIFT_EXPECT_OK(from->boot());
  SEALIFT_EXPECT_OK(model(from).run_steps(0, 1000));
  const auto good = from->save_state();
  ASSERT_TRUE(good.has_value());
  for (std::size_t at = 0; at < (*good)[0].bytes.size(); at += 8) {
    for (int fill : {0x00, 0x01, 0x7f, 0xff}) {
      auto bad = *good;
      std::memset(bad[0].bytes.data() + at, fill, 8);
      if (from->load_state(bad)) (void)model(from).run_steps(0, 200);
      if (from->status().state == VmState::kTerminated) return;
    }
  }
}

TEST(ModelVm, AnAccessOutsideRamTerminates) {
  Machine machine = booted_machine(small(Workload::kSweep, Platform::kNone));
  poke_mailbox(*machine, of_first_vcpu(offsetof(guest::VcpuMailbox, table_gpa)), 1ULL << 40);
  const auto check = machine->self_check(10s);
  ASSERT_FALSE(check.has_value());
  EXPECT_NE(check.error().detail.find("terminated"), std::string::npos) << check.error().detail;
  EXPECT_EQ(machine->status().state, VmState::kTerminated);
  EXPECT_FALSE(machine->pause().has_value());
  EXPECT_FALSE(machine->resume().has_value());
  EXPECT_FALSE(machine->save_state().has_value());
}

TEST(ModelVm, KeepsAnImageAndFindsDamageInIt) {
  char path[] = "/tmp/sealift_image_XXXXXX";
  const int fd = mkstemp(path);
  ASSERT_GE(fd, 0);
  Bytes image(100 * kPageBytes + 123);
  for (std::size_t i = 0; i < image.size(); ++i)
    image[i] = std::byte(static_cast<std::uint8_t>(i * 7));
  ASSERT_EQ(write(fd, image.data(), image.size()), static_cast<ssize_t>(image.size()));
  close(fd);
  for (Platform platform : {Platform::kNone, Platform::kSev}) {
    VmConfig config = small(Workload::kRandom, platform);
    config.vcpus = 2;
    config.image_path = path;
    Machine machine = booted_machine(config);
    expect_no_errors(*machine);
    const VcpuPlan& plan = machine->plan().vcpus[1];
    const Gfn last{plan.arena_first + plan.arena_pages - 1};
    EXPECT_EQ(guest_view(*machine, last)[122], image.back());
    EXPECT_EQ(guest_view(*machine, last)[123], std::byte{0});
    SEALIFT_EXPECT_OK(machine->pause());
    machine->host_address(last)[99] ^= std::byte{1};
    SEALIFT_EXPECT_OK(machine->resume());
    const auto check = machine->self_check(10s);
    ASSERT_TRUE(check.has_value()) << why(check);
    EXPECT_EQ(check->errors, 1u);
    EXPECT_EQ(check->first_bad_gfn, last);
  }
  unlink(path);
}

TEST(ModelVm, PausesQuicklyInBootAndInACheck) {
  VmConfig config = small(Workload::kSweep);
  config.memory_bytes = 128ULL << 20;
  config.vcpus = 2;
  Machine machine = make_machine(config);
  SEALIFT_EXPECT_OK(machine->boot());
  auto longest = 0ns;
  bool paused_in_boot = false;
  for (int i = 0; i < 2000 && !machine->status().booted; ++i) {
    SEALIFT_EXPECT_OK(machine->resume());
    const auto start = std::chrono::steady_clock::now();
    SEALIFT_EXPECT_OK(machine->pause());
    longest = std::max<std::chrono::nanoseconds>(longest, std::chrono::steady_clock::now() - start);
    paused_in_boot |= !machine->status().booted;
  }
  EXPECT_TRUE(paused_in_boot);
  EXPECT_LT(longest, 500ms);  // generous: the host may be loaded
  RecordProperty("longest_pause_us", static_cast<int>(longest / 1us));
  SEALIFT_EXPECT_OK(machine->resume());
  SEALIFT_EXPECT_OK(machine->wait_booted(60s));
  const auto impatient = machine->self_check(0ms);
  EXPECT_TRUE(impatient || impatient.error().cls == ErrorClass::kTimedOut);
  expect_no_errors(*machine);
}

TEST(ModelVm, RefusesWishesInTheWrongState) {
  Machine machine = make_machine(small(Workload::kSweep));
  EXPECT_EQ(machine->resume().error().cls, ErrorClass::kRefused);
  EXPECT_EQ(machine->self_check(1s).error().cls, ErrorClass::kRefused);
  EXPECT_EQ(machine->save_state().error().cls, ErrorClass::kRefused);
  SEALIFT_EXPECT_OK(machine->boot());
  EXPECT_EQ(machine->boot().error().cls, ErrorClass::kRefused);
  SEALIFT_EXPECT_OK(machine->resume());
  EXPECT_EQ(machine->load_state({}).error().cls, ErrorClass::kRefused);
  EXPECT_EQ(model(machine).run_steps(0, 1).error().cls, ErrorClass::kRefused);
  SEALIFT_EXPECT_OK(machine->pause());
  SEALIFT_EXPECT_OK(machine->pause());
}

TEST(ModelVm, BootsOneGiBOfPlainMemoryInTime) {
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "a sanitizer build is not measured";
#endif
  VmConfig config = small(Workload::kSweep, Platform::kNone);
  config.memory_bytes = 1ULL << 30;
  Machine machine = make_machine(config);
  const auto start = std::chrono::steady_clock::now();
  SEALIFT_EXPECT_OK(machine->boot());
  SEALIFT_EXPECT_OK(machine->resume());
  SEALIFT_EXPECT_OK(machine->wait_booted(60s));
  const auto took = std::chrono::steady_clock::now() - start;
  RecordProperty("boot_ms", static_cast<int>(took / 1ms));
  EXPECT_LT(took, 20s);  // about 1 s when the host is free
}

TEST(VmConfigCheck, RefusesWhatCannotBe) {
  const auto refused = [](auto change) {
    VmConfig config = small(Workload::kSweep);
    change(config);
    const auto vm = make_vm(config, nullptr);
    EXPECT_FALSE(vm.has_value());
    return vm ? ErrorClass::kLocalFault : vm.error().cls;
  };
  constexpr auto kUsage = ErrorClass::kUsage;
  EXPECT_EQ(refused([](VmConfig& c) { c.memory_bytes = 1 << 20; }), kUsage);
  EXPECT_EQ(refused([](VmConfig& c) { c.memory_bytes += 1; }), kUsage);
  EXPECT_EQ(refused([](VmConfig& c) { c.memory_bytes = 1ULL << 60; }), kUsage);
  EXPECT_EQ(refused([](VmConfig& c) { c.vcpus = 0; }), kUsage);
  EXPECT_EQ(refused([](VmConfig& c) { c.vcpus = 9; }), kUsage);
  EXPECT_EQ(refused([](VmConfig& c) { c.shared_percent = 101; }), kUsage);
  EXPECT_EQ(refused([](VmConfig& c) { c.flips_per_1000 = 1001; }), kUsage);
  EXPECT_EQ(refused([](VmConfig& c) { c.hypercall_form = HypercallForm::kNone; }), kUsage);
  EXPECT_EQ(refused([](VmConfig& c) { c.image_path = "/nonexistent"; }), kUsage);
  EXPECT_EQ(refused([](VmConfig& c) { c.image_path = "/dev/zero"; }), kUsage);
}

}  // namespace
}  // namespace sealift
