// What only a real KVM can show: the probe, guests that end badly, memory on both sides of the gap.
#include "vmm_glue/vmm/kvm_vm.h"

#include <unistd.h>

#include <cstring>
#include <initializer_list>
#include <string>

#include "vmm_glue/guest/payload/payload_image.h"
#include "vmm_glue/vmm/vm_test_support.h"

namespace sealift {
namespace {

using namespace test;

class RealKvm : public testing::Test {
 protected:
  void SetUp() override {
    const auto probe = probe_kvm();
    if (!probe) GTEST_SKIP() << probe.error().detail;
    RecordProperty("back_end", *probe);
  }
  static VmConfig config(Workload workload) {
    VmConfig config;
    config.backend = Backend::kKvm;
    config.platform = Platform::kSev;
    config.workload = workload;
    config.memory_bytes = kGuestBytesMin;
    return config;
  }
};

// Overwrites the code that the guest runs, and waits for its end.
std::string end_of(Vm& vm, std::initializer_list<std::uint8_t> code) {
  SEALIFT_EXPECT_OK(vm.boot());
  std::memcpy(vm.host_address(Gfn{guest::kCodeGfn}), code.begin(), code.size());
  SEALIFT_EXPECT_OK(vm.resume());
  EXPECT_FALSE(vm.wait_booted(10s).has_value());
  EXPECT_EQ(vm.status().state, VmState::kTerminated);
  EXPECT_FALSE(vm.pause().has_value());
  return vm.status().reason;
}

TEST_F(RealKvm, ATripleFaultTerminates) {
  Machine vm = make_machine(config(Workload::kSweep));
  EXPECT_NE(end_of(*vm, {0x0f, 0x0b}).find("triple fault"), std::string::npos)
      << vm->status().reason;
}

TEST_F(RealKvm, AnUnknownMmioReadTerminates) {
  Machine vm = make_machine(config(Workload::kSweep));
  // mov edi, 0xd0005000; mov rax, [rdi]
  const std::string why = end_of(*vm, {0xbf, 0x00, 0x50, 0x00, 0xd0, 0x48, 0x8b, 0x07});
  EXPECT_NE(why.find("MMIO read of 8 bytes at gpa 0xd0005000"), std::string::npos) << why;
}

TEST_F(RealKvm, AnMmioWriteTerminates) {
  Machine vm = make_machine(config(Workload::kSweep));
  // mov edi, 0xd0000000; mov [rdi], rax
  const std::string why = end_of(*vm, {0xbf, 0x00, 0x00, 0x00, 0xd0, 0x48, 0x89, 0x07});
  EXPECT_NE(why.find("MMIO write"), std::string::npos) << why;
}

TEST_F(RealKvm, TheEndOfOneVcpuStopsTheOthers) {
  VmConfig two = config(Workload::kIdle);
  two.vcpus = 2;
  Machine vm = make_machine(two);
  // test rdi, rdi; jz $; ud2: vCPU 0 spins, vCPU 1 faults.
  const std::string why = end_of(*vm, {0x48, 0x85, 0xff, 0x74, 0xfe, 0x0f, 0x0b});
  EXPECT_NE(why.find("vCPU 1"), std::string::npos) << why;
}

TEST_F(RealKvm, PausesAGuestThatSpins) {
  Machine vm = make_machine(config(Workload::kIdle));
  SEALIFT_EXPECT_OK(vm->boot());
  const std::uint8_t spin[] = {0xeb, 0xfe};
  std::memcpy(vm->host_address(Gfn{guest::kCodeGfn}), spin, sizeof spin);
  for (int i = 0; i < 50; ++i) {
    SEALIFT_EXPECT_OK(vm->resume());
    SEALIFT_EXPECT_OK(vm->pause());
  }
}

TEST_F(RealKvm, LogsWritesOnBothSidesOfTheGap) {
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "6 GiB of guests are too much for a sanitizer build";
#endif
  VmConfig big = config(Workload::kRandom);
  big.platform = Platform::kNone;  // a conversion would mark pages without the log
  big.memory_bytes = (3ULL << 30) + (64ULL << 20);
  if (sysconf(_SC_AVPHYS_PAGES) * sysconf(_SC_PAGESIZE) < (8LL << 30))
    GTEST_SKIP() << "less than 8 GiB of free memory";
  Machine vm = booted_machine(big);
  EXPECT_EQ(vm->layout().ranges().size(), 2u);
  SEALIFT_EXPECT_OK(vm->start_dirty_tracking());
  PageBitmap before(vm->layout().span_pages());
  vm->dirty().drain(before);
  let_run(*vm, 100000);
  SEALIFT_EXPECT_OK(vm->harvest_dirty());
  std::uint64_t above = 0;
  for (std::uint64_t gfn = guest::kGapEndGfn; gfn < vm->layout().span_pages(); ++gfn) {
    above += vm->dirty().is_marked(Gfn{gfn}) ? 1u : 0u;
  }
  EXPECT_GT(above, 0u);
  EXPECT_FALSE(vm->dirty().is_marked(Gfn{guest::kGapFirstGfn + 5}));
  expect_no_errors(*vm);
}

// An exit that is half done when the state is saved is done again on the destination. A conversion
// done twice harms nobody, so the guest does not see it; the hosts' count against the guest's does.
TEST_F(RealKvm, NoExitIsServedTwiceByAMigration) {
  Machine here = booted_machine(config(Workload::kFlipstorm));
  std::uint64_t served = 0;
  for (int hop = 0; hop < 40; ++hop) {
    let_run(*here, 100);
    SEALIFT_EXPECT_OK(here->pause());
    Machine there = make_machine(config(Workload::kFlipstorm));
    HandMigration migration(here, there);
    migration.copy_all();
    migration.move_state();
    served += here->status().hypercalls;
    SEALIFT_EXPECT_OK(there->resume());
    here = std::move(there);
  }
  expect_no_errors(*here);
  SEALIFT_EXPECT_OK(here->pause());
  served += here->status().hypercalls;
  guest::VcpuMailbox block{};
  std::memcpy(&block, here->host_address(Gfn{guest::kMailboxGfn}) + offsetof(guest::Mailbox, vcpu),
              sizeof block);
  EXPECT_GE(served, block.conversions + block.refused);
  EXPECT_LE(served,
            block.conversions + block.refused + 1);  // one may be answered and not yet counted
}

TEST_F(RealKvm, RefusesTheStateOfAModelledGuest) {
  VmConfig model = config(Workload::kSweep);
  model.backend = Backend::kModel;
  Machine from = make_machine(model);
  SEALIFT_EXPECT_OK(from->boot());
  auto state = from->save_state();
  ASSERT_TRUE(state.has_value());
  Machine to = make_machine(config(Workload::kSweep));
  EXPECT_EQ(to->load_state(*state).error().cls, ErrorClass::kRefused);
}

// Where the value of an MSR is: the item is an array of {u32 index, u32 reserved, u64 data}.
std::size_t data_of_msr(const StateBlob& blob, std::uint32_t index) {
  for (std::size_t at = 0; at + 16 <= blob.bytes.size(); at += 16) {
    std::uint32_t found = 0;
    std::memcpy(&found, blob.bytes.data() + at, sizeof found);
    if (found == index) return at + 8;
  }
  return blob.bytes.size();
}

TEST_F(RealKvm, FindsALostRegister) {
  for (const char* lost : {"kvm.xsave", "kvm.regs", "kvm.msrs"}) {
    Machine vm = booted_machine(config(Workload::kSweep));
    let_run(*vm);
    SEALIFT_EXPECT_OK(vm->pause());
    auto state = vm->save_state();
    ASSERT_TRUE(state.has_value());
    for (StateBlob& blob : *state) {
      if (blob.name != lost) continue;
      // XMM0 lies at byte 160 of the FXSAVE area; r15 is the 16th of struct kvm_regs.
      std::size_t at = blob.name == "kvm.xsave" ? 160 : 15 * 8;
      if (blob.name == "kvm.msrs") at = data_of_msr(blob, guest::kCheckedMsr);
      ASSERT_LT(at, blob.bytes.size());
      blob.bytes[at] ^= std::byte{2};
    }
    SEALIFT_EXPECT_OK(vm->load_state(std::move(*state)));
    SEALIFT_EXPECT_OK(vm->resume());
    const auto check = vm->self_check(10s);
    ASSERT_TRUE(check.has_value()) << why(check);
    EXPECT_EQ(check->errors, 1u) << lost;
    EXPECT_EQ(check->first_bad_gfn, vm->plan().vcpus[0].control);
  }
}

TEST(Payload, FitsAndIsNotEmpty) {
  EXPECT_GT(payload_image().size(), 1000u);
  EXPECT_LT(payload_image().size(), guest::kCodePages * kPageBytes);
}

}  // namespace
}  // namespace sealift
