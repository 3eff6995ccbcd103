// MSR state against a kernel of the test's making: what is refused, dropped, or not known.
#include "vmm_glue/vmm/kvm_msrs.h"

#include <algorithm>

#include "vmm_glue/vmm/kvm_state_test_support.h"
#include "vmm_glue/vmm/kvm_tsc.h"

namespace sealift {
namespace {

using namespace test;
using testing::HasSubstr;

// Fault model: an MSR may be unknown, read-only, or take writes and drop them; a call may fail
// altogether.
class FakeMsrs final : public HostIoctl {
 public:
  struct Msr {
    std::uint64_t value = 0;
    bool is_settable = true;
    bool is_dropped = false;
  };
  std::map<std::uint32_t, Msr> msrs;
  std::vector<std::uint32_t> writes;
  int error = 0;
  int wrong_count = 0;

  int ioctl(int /*fd*/, unsigned long request, void* arg) override {
    if (error != 0) return -error;
    if (request != kKvmGetMsrs && request != kKvmSetMsrs) return -ENXIO;  // no TSC offsets
    auto* const head = static_cast<std::uint32_t*>(arg);
    auto* const entries =
        reinterpret_cast<kvm_msr_entry*>(static_cast<std::byte*>(arg) + kKvmMsrsHeadBytes);
    EXPECT_LT(head[0], 256u) << "KVM takes fewer than 256 MSRs";
    for (std::uint32_t i = 0; i < head[0]; ++i) {
      const auto it = msrs.find(entries[i].index);
      if (it == msrs.end()) return static_cast<int>(i);
      if (request == kKvmGetMsrs) {
        entries[i].data = it->second.value;
        continue;
      }
      if (!it->second.is_settable) return static_cast<int>(i);
      writes.push_back(entries[i].index);
      if (!it->second.is_dropped) it->second.value = entries[i].data;
    }
    return static_cast<int>(head[0]) + wrong_count;
  }
  MsrVcpu vcpu() { return {*this, 7, 3}; }
};

constexpr std::uint32_t kLstar = 0xc0000082, kPlatformInfo = 0xce;

TEST(KvmMsrs, SavesWhatIsListedAndWhatTheListLeavesOut) {
  FakeMsrs kernel;
  kernel.msrs[kLstar].value = 0x1234;
  kernel.msrs[kMsrPvmControl].value = 0x5001;
  kernel.msrs[kMsrMtrrCap].value = 0x508;
  for (std::uint32_t i = 0x200; i < 0x210; ++i) kernel.msrs[i].value = i;
  StateNotes notes;
  const auto saved = save_msrs(kernel.vcpu(), {kLstar, 0x777}, notes);
  ASSERT_TRUE(saved.has_value());
  const auto values = msrs_of(*saved);
  EXPECT_EQ(values.at(kLstar), 0x1234u);
  EXPECT_EQ(values.at(kMsrPvmControl), 0x5001u);
  EXPECT_EQ(values.at(0x20f), 0x20fu);
  EXPECT_EQ(values.size(), 18u);
  ASSERT_EQ(notes.size(), 1u);
  EXPECT_EQ(notes[0].item, "vCPU 3 MSR 0x777");
}

TEST(KvmMsrs, LeavesOutAControlPageThatIsNotSwitchedOn) {
  FakeMsrs kernel;
  kernel.msrs[kLstar];
  kernel.msrs[kMsrPvmControl].value = 0x400;
  StateNotes notes;
  const auto saved = save_msrs(kernel.vcpu(), {kLstar}, notes);
  ASSERT_TRUE(saved.has_value());
  EXPECT_EQ(msrs_of(*saved).count(kMsrPvmControl), 0u);
}

TEST(KvmMsrs, MachineCheckBanksAndMtrrsAreAsManyAsTheCapabilitiesSay) {
  const auto has = [](const std::vector<std::uint32_t>& list, std::uint32_t index) {
    return std::find(list.begin(), list.end(), index) != list.end();
  };
  const auto none = extra_msrs(0, 0);
  EXPECT_FALSE(has(none, 0x200) || has(none, 0x2ff) || has(none, 0x400) || has(none, 0x280));
  const auto some = extra_msrs(0x508, 0x40a);
  EXPECT_TRUE(has(some, 0x20f) && has(some, 0x2ff) && has(some, 0x26f));
  EXPECT_TRUE(has(some, 0x427) && has(some, 0x289));
  EXPECT_FALSE(has(some, 0x210) || has(some, 0x428) || has(some, 0x28a));
  const auto hostile = extra_msrs(~0ULL, ~0ULL);
  EXPECT_TRUE(has(hostile, 0x47f));
  EXPECT_FALSE(has(hostile, 0x480) || has(hostile, 0x2a0) || has(hostile, 0x220));
}

struct Case {
  const char* what;
  std::uint32_t index;
  std::uint64_t saved;
  bool is_known, is_settable, is_dropped;
  std::uint64_t own;
  const char* refusal;  // or nullptr
  const char* note;     // or nullptr
};

class JudgesMsr : public testing::TestWithParam<Case> {};
TEST_P(JudgesMsr, ByWhoseItIs) {
  const Case& param = GetParam();
  FakeMsrs kernel;
  kernel.msrs[0x277].value = 0;  // one that is fine
  if (param.is_known) {
    kernel.msrs[param.index] = {param.own, param.is_settable, param.is_dropped};
  }
  Bytes bytes;
  append_msr(bytes, param.index, param.saved);
  append_msr(bytes, 0x277, 0x0606);
  ASSERT_TRUE(check_msrs(3, bytes).has_value());
  StateNotes notes;
  const auto loaded = load_msrs(kernel.vcpu(), bytes, notes);
  EXPECT_EQ(loaded.has_value(), param.refusal == nullptr);
  if (param.refusal != nullptr && !loaded) {
    EXPECT_EQ(loaded.error().cls, ErrorClass::kRefused);
    EXPECT_THAT(loaded.error().detail, HasSubstr(param.refusal));
  }
  EXPECT_EQ(notes.size(), param.note == nullptr ? 0u : 1u);
  if (param.note != nullptr && !notes.empty()) {
    EXPECT_THAT(notes[0].why, HasSubstr(param.note));
  }
  if (param.index == kMsrTsc) return;  // comes before the others
  EXPECT_EQ(kernel.msrs[0x277].value, 0x0606u) << "the MSR behind a refused one is set too";
}
INSTANTIATE_TEST_SUITE_P(
    KvmMsrs, JudgesMsr,
    testing::Values(
        Case{"set", kLstar, 5, true, true, false, 0, nullptr, nullptr},
        Case{"refused, equal", kLstar, 5, true, false, false, 5, nullptr, nullptr},
        Case{"refused", kLstar, 5, true, false, false, 6,
             "vCPU 3 MSR 0xc0000082 would be lost: 0x5 was saved, KVM refuses it here, and the MSR "
             "reads 0x6",
             nullptr},
        Case{"unknown", kLstar, 5, false, false, false, 0, "and the MSR cannot be read", nullptr},
        Case{"unknown, unused", kLstar, 0, false, false, false, 0, nullptr, "unknown here"},
        Case{"dropped", kLstar, 5, true, true, true, 0, "0x5 was saved, KVM takes it here",
             nullptr},
        Case{"the host's", kPlatformInfo, 5, true, false, false, 6, nullptr, "the host's own"},
        Case{"the host's, dropped", kPlatformInfo, 5, true, true, true, 6, nullptr, "reads 0x6"},
        Case{"counter moves on", 0xc1, 5, true, true, true, 6, nullptr, nullptr},
        Case{"counter refused", 0xc1, 5, true, false, false, 6, "would be lost", nullptr},
        Case{"TSC behind", kMsrTsc, 500, true, true, true, 499, "go backwards", nullptr},
        Case{"TSC goes on", kMsrTsc, 500, true, true, true, 501, nullptr, nullptr},
        Case{"TSC far ahead", kMsrTsc, 500, true, true, true, 1ULL << 40, nullptr,
             "jumps forward"}));

// Takes writes of the TSC for attempts at synchronising vCPUs, as KVM does in a VM that was just
// made: only the offset moves it.
class SynchronisingKernel final : public HostIoctl {
 public:
  std::map<int, std::uint64_t> offsets;  // by descriptor
  int ioctl(int fd, unsigned long request, void* arg) override {
    if (request == KVM_GET_DEVICE_ATTR || request == KVM_SET_DEVICE_ATTR) {
      const auto* const attribute = static_cast<const kvm_device_attr*>(arg);
      auto* const value = reinterpret_cast<std::uint64_t*>(attribute->addr);
      (request == KVM_SET_DEVICE_ATTR ? offsets[fd] : *value) =
          request == KVM_SET_DEVICE_ATTR ? *value : offsets[fd];
      return 0;
    }
    if (request == kKvmGetMsrs) {
      const std::uint64_t now = 1000 + offsets[fd];
      std::memcpy(static_cast<std::byte*>(arg) + kKvmMsrsHeadBytes + 8, &now, sizeof now);
    }
    return 1;
  }
};

TEST(KvmMsrs, ATscThatKvmLeavesBehindIsPushedForward) {
  SynchronisingKernel kernel;
  Bytes bytes;
  append_msr(bytes, kMsrTsc, 5000);
  StateNotes notes;
  const auto loaded = load_msrs({kernel, 7, 3}, bytes, notes);
  ASSERT_TRUE(loaded.has_value()) << loaded.error().detail;
  EXPECT_TRUE(notes.empty());
  EXPECT_EQ(kernel.offsets[7], 4000u);
}

TEST(KvmTsc, VcpusKeepTheirDistance) {
  SynchronisingKernel kernel;
  std::vector<StateBlob> state;
  const std::uint64_t there[] = {~0ULL - 5, 20, ~0ULL - 9};  // wraps round
  for (std::uint32_t i = 0; i < 3; ++i) {
    Bytes bytes(sizeof there[i]);
    std::memcpy(bytes.data(), &there[i], bytes.size());
    state.push_back({StateBlob::Kind::kVcpu, i, kTscOffsetItem, 1, bytes});
  }
  kernel.offsets = {{7, 700}, {8, 0}, {9, 0}};
  const int vcpus[] = {7, 8, 9};
  const auto aligned = align_tscs(kernel, vcpus, state);
  ASSERT_TRUE(aligned.has_value());
  EXPECT_TRUE(aligned->empty());
  EXPECT_EQ(kernel.offsets, (std::map<int, std::uint64_t>{{7, 700}, {8, 726}, {9, 696}}));
}

TEST(KvmMsrs, TheDeadlineIsSetLast) {
  FakeMsrs kernel;
  for (const std::uint32_t index : {kMsrTscDeadline, kMsrTsc, kLstar}) kernel.msrs[index];
  Bytes bytes;
  append_msr(bytes, kMsrTscDeadline, 9);
  append_msr(bytes, kMsrTsc, 8);
  append_msr(bytes, kLstar, 7);
  StateNotes notes;
  EXPECT_TRUE(load_msrs(kernel.vcpu(), bytes, notes).has_value());
  EXPECT_EQ(kernel.writes, (std::vector<std::uint32_t>{kMsrTsc, kLstar, kMsrTscDeadline}));
}

TEST(KvmMsrs, TakesMoreThanKvmDoesInOneCall) {
  FakeMsrs kernel;
  Bytes bytes;
  for (std::uint32_t i = 0; i < 700; ++i) {
    kernel.msrs[0x10000 + i].value = 0;
    append_msr(bytes, 0x10000 + i, i + 1);
  }
  StateNotes notes;
  EXPECT_TRUE(load_msrs(kernel.vcpu(), bytes, notes).has_value());
  for (std::uint32_t i = 0; i < 700; ++i) EXPECT_EQ(kernel.msrs[0x10000 + i].value, i + 1);
}

TEST(KvmMsrs, AFailedCallIsThisHostsFault) {
  FakeMsrs kernel;
  kernel.error = EFAULT;
  StateNotes notes;
  const auto saved = save_msrs(kernel.vcpu(), {kLstar}, notes);
  ASSERT_FALSE(saved.has_value());
  EXPECT_EQ(saved.error().cls, ErrorClass::kLocalFault);
  EXPECT_THAT(saved.error().detail, HasSubstr("EFAULT"));
  kernel.error = 0;
  kernel.wrong_count = 1;
  kernel.msrs[kMsrMtrrCap];
  EXPECT_EQ(save_msrs(kernel.vcpu(), {kLstar}, notes).error().cls, ErrorClass::kLocalFault);
}

TEST(KvmMsrs, RefusesWhatIsNoList) {
  Bytes bytes;
  EXPECT_EQ(check_msrs(3, bytes).error().cls, ErrorClass::kMalformed) << "no entries";
  append_msr(bytes, kLstar, 1);
  EXPECT_TRUE(check_msrs(3, bytes).has_value());
  for (std::size_t cut = 1; cut < bytes.size(); ++cut) {
    EXPECT_FALSE(check_msrs(3, Bytes(bytes.begin(), bytes.end() - static_cast<std::ptrdiff_t>(cut)))
                     .has_value());
  }
  Bytes twice = bytes;
  append_msr(twice, kLstar, 1);
  EXPECT_THAT(check_msrs(3, twice).error().detail, HasSubstr("twice"));
  Bytes reserved = bytes;
  append_msr(reserved, 0x277, 1, 1);
  EXPECT_THAT(check_msrs(3, reserved).error().detail, HasSubstr("reserved"));
  Bytes many;
  for (std::uint32_t i = 0; i < 4096; ++i) append_msr(many, i, 0);
  EXPECT_TRUE(check_msrs(3, many).has_value());
  append_msr(many, 4096, 0);
  EXPECT_FALSE(check_msrs(3, many).has_value());
}

}  // namespace
}  // namespace sealift
