// The state of a real KVM's in-kernel devices and its clock.
#include "vmm_glue/vmm/kvm_vm_state.h"

#include <time.h>

#include "vmm_glue/vmm/kvm_state_test_support.h"

namespace sealift {
namespace {

using namespace test;
using testing::HasSubstr;

constexpr VmOptions kAll{.irqchip = true, .pit = true, .vcpus = 1};
constexpr VmParts kAllParts{.irqchip = true, .pit = true};
constexpr std::uint64_t kSecondNs = 1'000'000'000;

class VmState : public RealKvmState {
 protected:
  std::vector<StateBlob> saved(const BareVm& vm, const VmParts& parts) {
    auto state = save_vm_state(kernel_, vm.vm.fd(), parts);
    EXPECT_TRUE(state.has_value()) << (state ? "" : state.error().detail);
    return state.value_or(std::vector<StateBlob>());
  }
  Result<StateNotes> load(const BareVm& vm, const VmParts& parts,
                          const std::vector<StateBlob>& state) {
    return load_vm_state(kernel_, vm.vm.fd(), parts, state);
  }
  KernelIoctl kernel_;
};

kvm_clock_data clock_in(std::vector<StateBlob>& state) {
  kvm_clock_data clock{};
  std::memcpy(&clock, blob_of(state, "kvm.clock").bytes.data(), sizeof clock);
  return clock;
}
void put_clock(std::vector<StateBlob>& state, const kvm_clock_data& clock) {
  std::memcpy(blob_of(state, "kvm.clock").bytes.data(), &clock, sizeof clock);
}

void fill_chips(const KvmHandle& vm) {
  kvm_irqchip chip{};
  for (std::uint32_t i = 0; i < 2; ++i) {
    chip.chip_id = i;
    ASSERT_TRUE(SEALIFT_KVM(vm, KVM_GET_IRQCHIP, &chip).has_value());
    chip.chip.pic.imr = static_cast<__u8>(0xa5 + i);
    chip.chip.pic.irq_base = static_cast<__u8>(0x30 + 8 * i);
    chip.chip.pic.elcr = static_cast<__u8>(i == 0 ? 0x20 : 0x0c);
    ASSERT_TRUE(SEALIFT_KVM(vm, KVM_SET_IRQCHIP, &chip).has_value());
  }
  chip.chip_id = 2;
  ASSERT_TRUE(SEALIFT_KVM(vm, KVM_GET_IRQCHIP, &chip).has_value());
  chip.chip.ioapic.id = 5;
  chip.chip.ioapic.ioregsel = 0x12;
  for (std::uint32_t pin = 0; pin < 24; ++pin) {
    chip.chip.ioapic.redirtbl[pin].bits = 0x10000 | (0x30 + pin);  // masked
  }
  ASSERT_TRUE(SEALIFT_KVM(vm, KVM_SET_IRQCHIP, &chip).has_value());
}

void fill_pit(const KvmHandle& vm) {
  kvm_pit_state2 pit{};
  ASSERT_TRUE(SEALIFT_KVM(vm, KVM_GET_PIT2, &pit).has_value());
  for (std::uint32_t i = 0; i < 3; ++i) {
    pit.channels[i].count = 11932 + i;
    pit.channels[i].mode = 2;
    pit.channels[i].rw_mode = 3;
    pit.channels[i].gate = 1;
  }
  ASSERT_TRUE(SEALIFT_KVM(vm, KVM_SET_PIT2, &pit).has_value());
}

TEST_F(VmState, ComesBackItemByItem) {
  if (const auto why = why_not(kAll); !why.empty()) GTEST_SKIP() << why;
  const BareVm from = make(kAll), to = make(kAll);
  fill_chips(from.vm);
  fill_pit(from.vm);
  kvm_clock_data clock{};
  clock.clock = 123'456 * kSecondNs;
  ASSERT_TRUE(SEALIFT_KVM(from.vm, KVM_SET_CLOCK, &clock).has_value());
  auto state = saved(from, kAllParts);
  const auto loaded = load(to, kAllParts, state);
  ASSERT_TRUE(loaded.has_value()) << loaded.error().detail;
  EXPECT_TRUE(loaded->empty());
  auto again = saved(to, kAllParts);
  ASSERT_EQ(again.size(), 5u);
  for (std::uint32_t chip = 0; chip < 3; ++chip) {
    EXPECT_EQ(blob_of(again, "kvm.irqchip", chip), blob_of(state, "kvm.irqchip", chip)) << chip;
  }
  EXPECT_EQ(blob_of(state, "kvm.irqchip", 1)
                .bytes[offsetof(kvm_irqchip, chip) + offsetof(kvm_pic_state, imr)],
            std::byte{0xa6});
  kvm_pit_state2 was{}, is{};
  std::memcpy(&was, blob_of(state, "kvm.pit2").bytes.data(), sizeof was);
  std::memcpy(&is, blob_of(again, "kvm.pit2").bytes.data(), sizeof is);
  for (std::size_t i = 0; i < 3; ++i) {
    is.channels[i].count_load_time = was.channels[i].count_load_time;  // the kernel's own time
    EXPECT_EQ(std::memcmp(&is.channels[i], &was.channels[i], sizeof is.channels[i]), 0) << i;
    EXPECT_EQ(is.channels[i].count, 11932 + i);
  }
  EXPECT_GE(clock_in(again).clock, clock_in(state).clock);
  EXPECT_LT(clock_in(again).clock, clock_in(state).clock + 30 * kSecondNs);
  EXPECT_GE(clock_in(state).clock, 123'456 * kSecondNs);
}

TEST_F(VmState, TheDowntimeIsCountedOnRequestOnly) {
  const BareVm vm = make({});
  auto state = saved(vm, {});
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  kvm_clock_data clock{};
  clock.clock = 1000 * kSecondNs;
  clock.flags = KVM_CLOCK_REALTIME;
  clock.realtime = (static_cast<std::uint64_t>(now.tv_sec) - 40) * kSecondNs;
  put_clock(state, clock);
  const auto clock_after = [&](bool count_downtime) {
    const auto loaded = load(vm, {.count_downtime = count_downtime}, state);
    EXPECT_TRUE(loaded.has_value());
    auto again = saved(vm, {});
    return std::pair(clock_in(again).clock / kSecondNs,
                     loaded && !loaded->empty() ? loaded->front().why : "");
  };
  const auto stopped = clock_after(false);
  EXPECT_LT(stopped.first, 1030u);
  EXPECT_EQ(stopped.second, "");
  const auto counted = clock_after(true);
  const auto offered = SEALIFT_KVM(vm.vm, KVM_CHECK_EXTENSION, KVM_CAP_ADJUST_CLOCK);
  if ((offered.value_or(0) & KVM_CLOCK_REALTIME) == 0) {
    EXPECT_THAT(counted.second, HasSubstr("this KVM cannot add it"));
  } else {
    EXPECT_GE(counted.first, 1040u);
    EXPECT_EQ(counted.second, "");
  }
}

TEST_F(VmState, ADowntimeThatCannotBeIsANote) {
  const BareVm vm = make({});
  const auto offered = SEALIFT_KVM(vm.vm, KVM_CHECK_EXTENSION, KVM_CAP_ADJUST_CLOCK);
  const bool can_add = (offered.value_or(0) & KVM_CLOCK_REALTIME) != 0;
  auto state = saved(vm, {});
  const auto note_for = [&](std::uint32_t flags, std::uint64_t realtime) {
    kvm_clock_data clock{};
    clock.clock = 1000 * kSecondNs;
    clock.flags = flags;
    clock.realtime = realtime;
    put_clock(state, clock);
    const auto loaded = load(vm, {.count_downtime = true}, state);
    EXPECT_TRUE(loaded && loaded->size() == 1);
    auto again = saved(vm, {});
    EXPECT_LT(clock_in(again).clock, 1030 * kSecondNs);
    return loaded && !loaded->empty() ? loaded->front().why : "";
  };
  EXPECT_THAT(note_for(0, 0), HasSubstr("gives no wall clock"));
  if (!can_add) return;
  EXPECT_THAT(note_for(KVM_CLOCK_REALTIME, 0), HasSubstr("wall clocks are apart"));
  EXPECT_THAT(note_for(KVM_CLOCK_REALTIME, ~0ULL), HasSubstr("wall clocks are apart"));
}

TEST_F(VmState, RefusesWhatIsNotThisVms) {
  const bool has_all = why_not(kAll).empty();
  const BareVm vm = make(has_all ? kAll : VmOptions{});
  const VmParts parts = has_all ? kAllParts : VmParts{};
  const auto good = saved(vm, parts);
  const auto expect_refused = [&](const std::vector<StateBlob>& bad, const char* why) {
    kvm_clock_data zero{};
    ASSERT_TRUE(SEALIFT_KVM(vm.vm, KVM_SET_CLOCK, &zero).has_value());
    const auto loaded = load(vm, parts, bad);
    ASSERT_FALSE(loaded.has_value()) << why;
    EXPECT_THAT(loaded.error().detail, HasSubstr(why));
  };
  for (std::size_t i = 0; i < good.size(); ++i) {
    SCOPED_TRACE(good[i].name);
    auto bad = good;
    bad[i].bytes.pop_back();
    expect_refused(bad, "bytes instead of");
    bad[i].bytes.resize(1 << 20);
    expect_refused(bad, "bytes instead of");
    bad = good;
    bad[i].version = 0;
    expect_refused(bad, "version 0");
    bad = good;
    bad.push_back(good[i]);
    expect_refused(bad, "2 times instead of once");
    bad = good;
    bad[i].index += 7;
    expect_refused(bad, "0 times instead of once");
    bad[i] = good[i];
    bad.push_back(good[i]);
    bad.back().name = "kvm.unheard_of";
    expect_refused(bad, "belongs to no part of this VM");
    if (good[i].name != "kvm.irqchip") continue;
    bad = good;
    bad[i].bytes[0] = std::byte{9};
    expect_refused(bad, "says that it is chip 9");
  }
  EXPECT_FALSE(load(vm, {.irqchip = !parts.irqchip}, good).has_value()) << "other parts";
  auto with_others = good;
  with_others.push_back({StateBlob::Kind::kDevice, 0, "serial", 9, {}});
  with_others.push_back({StateBlob::Kind::kVcpu, 0, "kvm.regs", 1, {}});
  EXPECT_TRUE(load(vm, parts, with_others).has_value());
}

TEST_F(VmState, EveryFailedCallIsToldOf) {
  const bool has_all = why_not(kAll).empty();
  const BareVm vm = make(has_all ? kAll : VmOptions{});
  const VmParts parts = has_all ? kAllParts : VmParts{};
  const auto state = saved(vm, parts);
  for (int i = 0; i < static_cast<int>(state.size()); ++i) {
    FailingKernel saving(i), loading(i);
    const auto got = save_vm_state(saving, vm.vm.fd(), parts);
    const auto set = load_vm_state(loading, vm.vm.fd(), parts, state);
    ASSERT_FALSE(got.has_value() || set.has_value()) << i;
    EXPECT_THAT(got.error().detail, HasSubstr("cannot be read: EIO"));
    EXPECT_THAT(set.error().detail, HasSubstr("cannot be set: EIO"));
  }
}

}  // namespace
}  // namespace sealift
