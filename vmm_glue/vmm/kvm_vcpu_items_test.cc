// The state of vCPUs on a real KVM: everything comes back, and nothing wrong gets in.
#include "vmm_glue/vmm/kvm_vcpu_items.h"

#include <algorithm>
#include <chrono>

#include "vmm_glue/vmm/kvm_state_test_support.h"
#include "vmm_glue/vmm/kvm_tsc.h"

namespace sealift {
namespace {

using namespace test;
using testing::HasSubstr;

constexpr VmOptions kTwoWithIrqchip{.irqchip = true, .pit = false, .vcpus = 2};
constexpr std::uint64_t kNever = 1ULL << 60;  // a TSC value, decades away
constexpr std::size_t kTmcct = 0x390;         // counts down by itself

// What each of these MSRs must hold again. KVM may know only some of them.
const std::map<std::uint32_t, std::uint64_t> kMsrValues = {
    {0xc0000081, 0x0023001000000000},  // STAR
    {0xc0000082, 0xffffffff81a00010},  // LSTAR
    {0xc0000083, 0xffffffff81a00020},  // CSTAR
    {0xc0000084, 0x47700},             // SFMASK
    {0xc0000102, 0xffff888012345000},  // KERNEL_GS_BASE
    {0xc0000103, 0x1007},              // TSC_AUX
    {0x174, 0x10},                     // SYSENTER_CS
    {0x175, 0xfffffe0000001000},       // SYSENTER_ESP
    {0x176, 0xffffffff81a01230},       // SYSENTER_EIP
    {0x277, 0x0407050600070106},       // PAT
    {0x2ff, 0xc06},                    // MTRR default type
    {0x200, 0x80000006},               // first variable MTRR
    {0x250, 0x0606060606060606},       // first fixed MTRR
    {0x3b, 0x4321},                    // TSC_ADJUST
    {0x401, 0x9000000000000135},       // status of machine check bank 0
    {0x4b564d01, 0x1001},              // kvmclock, at 0x1000
};

template <class State>
void put(const KvmVcpu& vcpu, const char* name, unsigned long request, State state) {
  const auto done = vcpu.handle().call(name, request, &state);
  EXPECT_TRUE(done.has_value()) << done.error().detail;
}

void fill_registers(const KvmVcpu& vcpu) {
  kvm_sregs sregs{};
  ASSERT_TRUE(SEALIFT_KVM(vcpu.handle(), KVM_GET_SREGS, &sregs).has_value());
  sregs.fs.base = 0x7f0011223000;
  sregs.gs.base = 0x7f0044556000;
  sregs.idt.base = 0xfffffe0000000000;
  sregs.idt.limit = 0xfff;
  sregs.gdt.base = 0xfffffe0000002000;
  sregs.gdt.limit = 0x7f;
  sregs.cr2 = 0xdeadbeef123;
  put(vcpu, "KVM_SET_SREGS", KVM_SET_SREGS, sregs);
  kvm_regs regs{};
  auto* const words = reinterpret_cast<std::uint64_t*>(&regs);
  for (std::size_t i = 0; i < sizeof regs / 8; ++i) words[i] = 0x1111111111111100 + i;
  regs.rip = 0x1230;
  regs.rflags = 0x246;
  put(vcpu, "KVM_SET_REGS", KVM_SET_REGS, regs);
  kvm_debugregs debugregs{};
  for (std::uint64_t i = 0; i < 4; ++i) debugregs.db[i] = 0x1000 + 0x10 * i;
  debugregs.dr6 = 0xffff0ff0;
  debugregs.dr7 = 0x455;
  put(vcpu, "KVM_SET_DEBUGREGS", KVM_SET_DEBUGREGS, debugregs);
}

void fill_xsave(const KvmVcpu& vcpu, std::uint64_t xsave_bytes) {
  kvm_xcrs xcrs{};
  xcrs.nr_xcrs = 1;
  xcrs.xcrs[0].value = 7;  // x87, SSE, AVX
  const bool has_avx = SEALIFT_KVM(vcpu.handle(), KVM_SET_XCRS, &xcrs).has_value();
  Bytes xsave(xsave_bytes);
  ASSERT_TRUE(vcpu.handle().call("KVM_GET_XSAVE2", kKvmGetXsave2, xsave.data()).has_value());
  for (std::size_t i = 160; i < 416; ++i) xsave[i] = static_cast<std::byte>(i);  // XMM0 to 15
  for (std::size_t i = 576; has_avx && i < 832; ++i) xsave[i] = static_cast<std::byte>(i * 3);
  const std::uint32_t mxcsr = 0x1fa0;
  std::memcpy(xsave.data() + 24, &mxcsr, sizeof mxcsr);
  const std::uint64_t components = has_avx ? 7 : 3;
  std::memcpy(xsave.data() + 512, &components, sizeof components);
  ASSERT_TRUE(vcpu.handle().call("KVM_SET_XSAVE", kKvmSetXsave, xsave.data()).has_value());
}

void fill_lapic(const KvmVcpu& vcpu) {
  kvm_lapic_state lapic{};
  ASSERT_TRUE(SEALIFT_KVM(vcpu.handle(), KVM_GET_LAPIC, &lapic).has_value());
  const auto set = [&](std::size_t at, std::uint32_t value) {
    std::memcpy(lapic.regs + at, &value, sizeof value);
  };
  set(0x80, 0x50);      // task priority
  set(0xf0, 0x1ff);     // enabled
  set(0x110, 1 << 5);   // in service: 0x25
  set(0x220, 1 << 9);   // requested: 0x49
  set(0x320, 0x400ec);  // timer: TSC deadline, vector 0xec
  set(0x350, 0x700);    // LINT0: ExtINT
  set(0x370, 0xfe);     // error: vector 0xfe
  set(0x3e0, 0xb);      // divide by 1
  put(vcpu, "KVM_SET_LAPIC", KVM_SET_LAPIC, lapic);
}

void fill_events(const KvmVcpu& vcpu) {
  kvm_vcpu_events events{};
  ASSERT_TRUE(SEALIFT_KVM(vcpu.handle(), KVM_GET_VCPU_EVENTS, &events).has_value());
  events.exception.nr = 14;
  events.exception.has_error_code = 1;
  events.exception.error_code = 2;
  if ((events.flags & KVM_VCPUEVENT_VALID_PAYLOAD) != 0) {
    events.exception.pending = 1;
    events.exception_has_payload = 1;
    events.exception_payload = 0x12345000;
  } else {
    events.exception.injected = 1;
  }
  events.nmi.masked = 1;
  events.nmi.pending = 1;
  events.interrupt.shadow = 1;
  put(vcpu, "KVM_SET_VCPU_EVENTS", KVM_SET_VCPU_EVENTS, events);
}

// Everything that a vCPU holds gets a value that no fresh one has.
void fill(const KvmVcpu& vcpu, const KvmSystem& system, bool has_lapic) {
  fill_registers(vcpu);
  fill_xsave(vcpu, system.xsave_bytes);
  if (has_lapic) fill_lapic(vcpu);
  int set = 0;
  for (const auto& [index, value] : kMsrValues) set += set_msr(vcpu, index, value).value_or(0);
  EXPECT_GE(set, 8);
  if (has_lapic) {
    EXPECT_EQ(set_msr(vcpu, kMsrTscDeadline, kNever).value_or(0), 1);
  }
  fill_events(vcpu);
}

// Item for item; what moves by itself is compared apart.
void expect_same(std::vector<StateBlob> was, std::vector<StateBlob> is) {
  ASSERT_EQ(was.size(), is.size());
  for (std::size_t i = 0; i < was.size(); ++i) {
    ASSERT_EQ(was[i].name, is[i].name);
    EXPECT_EQ(was[i].index, is[i].index);
    if (was[i].name == "kvm.msrs") {
      auto old_values = msrs_of(was[i].bytes), values = msrs_of(is[i].bytes);
      EXPECT_GE(values[kMsrTsc], old_values[kMsrTsc]);
      const auto moves = [](const auto& msr) {
        return msr.first != kMsrTscDeadline && role_of_msr(msr.first) == MsrRole::kCounter;
      };
      std::erase_if(old_values, moves);
      std::erase_if(values, moves);
      EXPECT_EQ(values, old_values);
      continue;
    }
    for (auto* bytes : {&was[i].bytes, &is[i].bytes}) {
      if (was[i].name == "kvm.lapic") std::fill_n(bytes->begin() + kTmcct, 4, std::byte{0});
    }
    if (was[i].name == kTscOffsetItem) continue;  // relative to the host's TSC
    EXPECT_EQ(was[i].bytes, is[i].bytes) << was[i].name;
  }
}

std::vector<StateBlob> saved(const KvmVcpu& vcpu) {
  StateNotes notes;
  auto state = vcpu.save(notes);
  EXPECT_TRUE(state.has_value()) << (state ? "" : state.error().detail);
  return state.value_or(std::vector<StateBlob>());
}

std::string texts(const StateNotes& notes) {
  std::string all;
  for (const StateNote& note : notes) all += note.item + ": " + note.why + "\n";
  return all;
}

class VcpuState : public RealKvmState {
 protected:
  void SetUp() override {
    RealKvmState::SetUp();
    if (!IsSkipped() && !is_tsc_stable()) {
      GTEST_SKIP() << "the host's TSC is unstable: KVM sets back that of a vCPU that never ran";
    }
  }
  // Whether a vCPU's TSC gets on between two looks at it.
  bool is_tsc_stable() const {
    constexpr auto kTime = std::chrono::milliseconds(20);
    const BareVm vm = make({});
    KvmOneMsr looks[2];
    for (KvmOneMsr& look : looks) {
      look.index = kMsrTsc;
      EXPECT_TRUE(vm.vcpus[0]->handle().call("KVM_GET_MSRS", kKvmGetMsrs, &look).has_value());
      const auto start = std::chrono::steady_clock::now();
      while (std::chrono::steady_clock::now() - start < kTime) continue;
    }
    const auto khz = vm.vcpus[0]->handle().call("KVM_GET_TSC_KHZ", KVM_GET_TSC_KHZ).value_or(0);
    return looks[1].data > looks[0].data + static_cast<std::uint64_t>(khz * kTime.count() / 2);
  }
  // Loads `state` into a fresh vCPU, which must refuse it and stay fresh.
  void expect_refused(const std::vector<StateBlob>& state, ErrorClass cls, const char* why) {
    const BareVm to = make({});
    const auto before = saved(*to.vcpus[0]);
    const auto loaded = to.vcpus[0]->load(state);
    ASSERT_FALSE(loaded.has_value()) << why;
    EXPECT_EQ(loaded.error().cls, cls) << loaded.error().detail;
    EXPECT_THAT(loaded.error().detail, HasSubstr(why));
    expect_same(before, saved(*to.vcpus[0]));
  }
};

TEST_F(VcpuState, ComesBackItemByItem) {
  const BareVm from = make({}), to = make({});
  fill(*from.vcpus[0], *system_, false);
  const auto state = saved(*from.vcpus[0]);
  const auto loaded = to.vcpus[0]->load(state);
  ASSERT_TRUE(loaded.has_value()) << loaded.error().detail;
  EXPECT_EQ(texts(*loaded), "");
  expect_same(state, saved(*to.vcpus[0]));
}

TEST_F(VcpuState, ComesBackWithItsLapicAndItsNeighbour) {
  if (const auto why = why_not(kTwoWithIrqchip); !why.empty()) GTEST_SKIP() << why;
  const BareVm from = make(kTwoWithIrqchip), to = make(kTwoWithIrqchip);
  std::vector<StateBlob> state;
  for (const auto& vcpu : from.vcpus) {
    fill(*vcpu, *system_, true);
    if (vcpu == from.vcpus[1]) {
      put(*vcpu, "KVM_SET_MP_STATE", KVM_SET_MP_STATE, kvm_mp_state{KVM_MP_STATE_HALTED});
    }
    for (StateBlob& blob : saved(*vcpu)) state.push_back(std::move(blob));
  }
  EXPECT_EQ(msrs_of(blob_of(state, "kvm.msrs", 1).bytes)[kMsrTscDeadline], kNever);
  EXPECT_EQ(blob_of(state, "kvm.mp_state", 1).bytes[0], std::byte{KVM_MP_STATE_HALTED});
  std::vector<StateBlob> again;
  for (const auto& vcpu : to.vcpus) {
    const auto loaded = vcpu->load(state);
    ASSERT_TRUE(loaded.has_value()) << loaded.error().detail;
    EXPECT_EQ(texts(*loaded), "");
    for (StateBlob& blob : saved(*vcpu)) again.push_back(std::move(blob));
  }
  expect_same(state, again);
}

// A guest whose TSC ran back, or whose vCPUs lost step, would see time go backwards. The guest here
// is just made, so that KVM takes the write of its TSC for an attempt at synchronising vCPUs.
TEST_F(VcpuState, TheTscsOfAGuestStayInStepAndNeverRunBack) {
  KernelIoctl kernel;
  const BareVm from = make({.vcpus = 2});
  const auto first = tsc_offset(kernel, from.vcpus[0]->handle().fd());
  if (!first || !*first) GTEST_SKIP() << "KVM has no TSC offsets here";
  constexpr std::uint64_t kSkew = 1'000'000;
  (void)set_tsc_offset(kernel, from.vcpus[1]->handle().fd(), **first + kSkew);
  const auto skew_of = [&](const BareVm& vm) {
    const auto one = tsc_offset(kernel, vm.vcpus[0]->handle().fd());
    const auto other = tsc_offset(kernel, vm.vcpus[1]->handle().fd());
    return other->value_or(1) - one->value_or(0);
  };
  std::vector<StateBlob> state;
  for (const auto& vcpu : from.vcpus) {
    for (StateBlob& blob : saved(*vcpu)) state.push_back(std::move(blob));
  }
  const BareVm to = make({.vcpus = 2});
  std::vector<int> vcpus;
  for (const auto& vcpu : to.vcpus) {
    const auto loaded = vcpu->load(state);
    ASSERT_TRUE(loaded.has_value()) << loaded.error().detail;
    vcpus.push_back(vcpu->handle().fd());
  }
  const auto aligned = align_tscs(kernel, vcpus, state);
  ASSERT_TRUE(aligned.has_value());
  EXPECT_TRUE(aligned->empty());
  EXPECT_EQ(skew_of(to), skew_of(from));
  for (std::uint32_t i = 0; i < 2; ++i) {
    auto again = saved(*to.vcpus[i]);
    EXPECT_GE(msrs_of(blob_of(again, "kvm.msrs", i).bytes)[kMsrTsc],
              msrs_of(blob_of(state, "kvm.msrs", i).bytes)[kMsrTsc]);
  }
}

TEST_F(VcpuState, VcpusWithoutTscOffsetsAreANote) {
  KernelIoctl kernel;
  const BareVm vm = make({.vcpus = 2});
  const int vcpus[] = {vm.vcpus[0]->handle().fd(), vm.vcpus[1]->handle().fd()};
  const auto aligned = align_tscs(kernel, vcpus, {});
  ASSERT_TRUE(aligned.has_value());
  EXPECT_THAT(texts(*aligned), HasSubstr("vCPU 1 TSC: not aligned"));
  FailingKernel failing(0);
  EXPECT_THAT(align_tscs(failing, vcpus, {}).error().detail, HasSubstr("EIO"));
}

TEST_F(VcpuState, ATscThatCannotBeReachedIsRefused) {
  const BareVm from = make({}), to = make({});
  auto state = saved(*from.vcpus[0]);
  Bytes& msrs = blob_of(state, "kvm.msrs").bytes;
  const std::uint64_t far = 1ULL << 55;
  for (std::size_t at = 0; at < msrs.size(); at += sizeof(kvm_msr_entry)) {
    if (std::memcmp(msrs.data() + at, &kMsrTsc, 4) == 0) std::memcpy(msrs.data() + at + 8, &far, 8);
  }
  const auto loaded = to.vcpus[0]->load(state);
  if (loaded) {
    EXPECT_GE(msrs_of(blob_of(state = saved(*to.vcpus[0]), "kvm.msrs").bytes)[kMsrTsc], far);
  } else {
    EXPECT_THAT(loaded.error().detail, HasSubstr("would go backwards: 0x80000000000000 was saved"));
  }
}

TEST_F(VcpuState, TheTscFrequencyIsTheGuests) {
  const BareVm from = make({}), to = make({});
  auto state = saved(*from.vcpus[0]);
  Bytes& bytes = blob_of(state, "kvm.tsc_khz").bytes;
  std::uint32_t khz = 0;
  std::memcpy(&khz, bytes.data(), sizeof khz);
  khz += khz / 20000;  // within every KVM's tolerance
  std::memcpy(bytes.data(), &khz, sizeof khz);
  const auto loaded = to.vcpus[0]->load(state);
  ASSERT_TRUE(loaded.has_value()) << loaded.error().detail;
  auto again = saved(*to.vcpus[0]);
  EXPECT_EQ(blob_of(again, "kvm.tsc_khz").bytes, bytes);

  khz /= 2;
  std::memcpy(bytes.data(), &khz, sizeof khz);
  const auto scaled = to.vcpus[0]->load(state);
  const auto can_scale = SEALIFT_KVM(system_->handle, KVM_CHECK_EXTENSION, KVM_CAP_TSC_CONTROL);
  EXPECT_EQ(scaled.has_value(), can_scale.value_or(0) > 0);
  if (!scaled) {
    EXPECT_THAT(scaled.error().detail, HasSubstr(fmt::format("ran at {} kHz", khz)));
  }
}

TEST_F(VcpuState, RefusesItemsThatAreNotWellFormedAndStaysFresh) {
  const BareVm from = make({});
  fill(*from.vcpus[0], *system_, false);
  const auto good = saved(*from.vcpus[0]);
  for (std::size_t i = 0; i < good.size(); ++i) {
    SCOPED_TRACE(good[i].name);
    auto bad = good;
    if (!bad[i].bytes.empty()) {  // TSC offsets may be missing
      bad[i].bytes.pop_back();
      expect_refused(bad, ErrorClass::kMalformed, "bytes");
    }
    bad = good;
    bad[i].bytes.resize(1 << 20);
    expect_refused(bad, ErrorClass::kMalformed, "bytes");
    bad = good;
    bad[i].version = 2;
    expect_refused(bad, ErrorClass::kRefused, "version 2 instead of 1");
    bad = good;
    bad.push_back(good[i]);
    expect_refused(bad, ErrorClass::kRefused, "2 times instead of once");
    bad = good;
    bad[i].index = 1;
    expect_refused(bad, ErrorClass::kRefused, "0 times instead of once");
    bad = good;
    bad[i].kind = StateBlob::Kind::kDevice;
    expect_refused(bad, ErrorClass::kRefused, "0 times instead of once");
  }
  auto bad = good;
  bad.push_back(good[0]);
  bad.back().name = "kvm.unheard_of";
  expect_refused(bad, ErrorClass::kRefused, "'kvm.unheard_of' of vCPU 0 is not known");
  expect_refused({}, ErrorClass::kRefused, "0 times instead of once");
}

TEST_F(VcpuState, TheReasonForARefusedMsrIsGiven) {
  const BareVm from = make({}), to = make({});
  const auto good = saved(*from.vcpus[0]);
  const auto load_with = [&](std::uint32_t index, std::uint64_t value) {
    auto state = good;
    append_msr(blob_of(state, "kvm.msrs").bytes, index, value);
    return to.vcpus[0]->load(state);
  };
  const auto unknown = load_with(0x12345678, 5);
  ASSERT_FALSE(unknown.has_value());
  EXPECT_EQ(unknown.error().cls, ErrorClass::kRefused);
  EXPECT_THAT(unknown.error().detail, HasSubstr("vCPU 0 MSR 0x12345678 would be lost: 0x5"));
  const auto unused = load_with(0x12345678, 0);
  ASSERT_TRUE(unused.has_value()) << unused.error().detail;
  EXPECT_THAT(texts(*unused), HasSubstr("vCPU 0 MSR 0x12345678: unknown here"));
  const auto host = load_with(kMsrMtrrCap, 0x1);
  ASSERT_TRUE(host.has_value()) << host.error().detail;
  EXPECT_THAT(texts(*host), HasSubstr("vCPU 0 MSR 0xfe: the host's own"));
}

TEST_F(VcpuState, ALapicIsNotLeftOutSilently) {
  const VmOptions with{.irqchip = true, .pit = false, .vcpus = 1};
  if (const auto why = why_not(with); !why.empty()) GTEST_SKIP() << why;
  const BareVm chip = make(with), none = make({});
  const auto forth = none.vcpus[0]->load(saved(*chip.vcpus[0]));
  const auto back = chip.vcpus[0]->load(saved(*none.vcpus[0]));
  ASSERT_FALSE(forth.has_value() || back.has_value());
  EXPECT_THAT(forth.error().detail, HasSubstr("has no LAPIC in the kernel here, and one there"));
  EXPECT_THAT(back.error().detail, HasSubstr("has a LAPIC in the kernel here, and none there"));
}

TEST_F(VcpuState, TakesTheStateOfAnOlderKernel) {
  const BareVm from = make({}), to = make({});
  fill(*from.vcpus[0], *system_, false);
  const auto good = saved(*from.vcpus[0]);
  auto old = good;
  for (StateBlob& blob : old) {
    if (blob.name == "kvm.xsave") blob.bytes.resize(8192);  // more components, none of them used
    if (blob.name != "kvm.sregs2") continue;
    kvm_sregs sregs{};
    ASSERT_TRUE(SEALIFT_KVM(from.vcpus[0]->handle(), KVM_GET_SREGS, &sregs).has_value());
    blob.name = "kvm.sregs";
    blob.bytes.assign(reinterpret_cast<const std::byte*>(&sregs),
                      reinterpret_cast<const std::byte*>(&sregs + 1));
  }
  const auto loaded = to.vcpus[0]->load(old);
  ASSERT_TRUE(loaded.has_value()) << loaded.error().detail;
  expect_same(good, saved(*to.vcpus[0]));
}

// As a KVM whose CPUID has no TSC deadline: it takes the LAPIC and drops the deadlines.
class WithoutDeadline final : public HostIoctl {
 public:
  int ioctl(int fd, unsigned long request, void* arg) override {
    std::uint32_t index = 0;
    if (request == kKvmSetMsrs) {
      std::memcpy(&index, static_cast<std::byte*>(arg) + kKvmMsrsHeadBytes, sizeof index);
    }
    return index == kMsrTscDeadline ? 1 : kernel_.ioctl(fd, request, arg);
  }

 private:
  KernelIoctl kernel_;
};

TEST_F(VcpuState, ALapicTimerThatWouldNeverFireIsRefused) {
  const VmOptions with{.irqchip = true, .pit = false, .vcpus = 1};
  if (const auto why = why_not(with); !why.empty()) GTEST_SKIP() << why;
  const BareVm from = make(with), to = make(with);
  auto state = saved(*from.vcpus[0]);
  blob_of(state, "kvm.lapic").bytes[0x322] = std::byte{4};
  WithoutDeadline kernel;
  const auto loaded = load_vcpu_items(port(kernel, *to.vcpus[0]), state);
  ASSERT_FALSE(loaded.has_value());
  EXPECT_THAT(loaded.error().detail,
              HasSubstr("the LAPIC timer of vCPU 0 is 0x40000, in the TSC deadline"));
}

// Sets bits of CR4 and EFER in what the real kernel says.
class Pretender final : public HostIoctl {
 public:
  Pretender(std::uint64_t cr4, std::uint64_t efer) : cr4_(cr4), efer_(efer) {}
  int ioctl(int fd, unsigned long request, void* arg) override {
    const int got = kernel_.ioctl(fd, request, arg);
    if (request != KVM_GET_SREGS2 && request != KVM_GET_SREGS) return got;
    auto* const bytes = static_cast<std::byte*>(arg);
    *reinterpret_cast<__u64*>(bytes + offsetof(kvm_sregs, cr4)) |= cr4_;
    *reinterpret_cast<__u64*>(bytes + offsetof(kvm_sregs, efer)) |= efer_;
    return got;
  }

 private:
  KernelIoctl kernel_;
  std::uint64_t cr4_, efer_;
};

TEST_F(VcpuState, AGuestWithMoreStateThanIsSavedIsRefused) {
  const BareVm vm = make({});
  const auto refusal = [&](std::uint64_t cr4, std::uint64_t efer) {
    Pretender kernel(cr4, efer);
    StateNotes notes;
    const auto state = save_vcpu_items(port(kernel, *vm.vcpus[0]), notes);
    return state ? "saved" : state.error().detail;
  };
  EXPECT_EQ(refusal(0, 0), "saved");
  EXPECT_THAT(refusal(1 << 13, 0), HasSubstr("guests of its own (CR4 0x2"));
  EXPECT_THAT(refusal(0, 1 << 12), HasSubstr("guests of its own"));
  EXPECT_THAT(refusal(1 << 23, 0), HasSubstr("shadow stacks"));
}

TEST_F(VcpuState, EveryFailedCallIsToldOf) {
  const VmOptions options{.irqchip = why_not({.irqchip = true}).empty()};
  const BareVm from = make(options);
  fill(*from.vcpus[0], *system_, options.irqchip);
  const auto state = saved(*from.vcpus[0]);
  int calls = 0;
  for (;; ++calls) {
    FailingKernel kernel(calls);
    StateNotes notes;
    const auto got = save_vcpu_items(port(kernel, *from.vcpus[0]), notes);
    if (!kernel.has_failed()) break;
    EXPECT_THAT(got ? texts(notes) : got.error().detail, HasSubstr("EIO")) << "call " << calls;
  }
  EXPECT_GT(calls, 10);
  for (calls = 0;; ++calls) {
    const BareVm to = make(options);
    FailingKernel kernel(calls);
    const auto loaded = load_vcpu_items(port(kernel, *to.vcpus[0]), state);
    if (!kernel.has_failed()) break;
    EXPECT_THAT(loaded ? texts(*loaded) : loaded.error().detail, HasSubstr("EIO"))
        << "call " << calls;
  }
  EXPECT_GT(calls, 10);
}

}  // namespace
}  // namespace sealift
