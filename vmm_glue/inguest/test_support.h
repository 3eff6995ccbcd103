// What the tests of in-guest export share: two guests with RAM and a helper, the helper program in
// the test's own process or on a vCPU of a real KVM, and faults between it and the code above.
//
// Fault model of the in-process helper: none; it is the program's own code on the host's memory.
// Plain test code: one thread, failures are gtest's.
#pragma once

#include <gtest/gtest.h>
#include <linux/kvm.h>
#include <sys/mman.h>
#include <sys/random.h>

#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "vmm_glue/exits/memory_attributes.h"
#include "vmm_glue/inguest/exporter.h"
#include "vmm_glue/inguest/importer.h"
#include "vmm_glue/inguest/kvm_helper.h"
#include "vmm_glue/inguest/program/session.h"
#include "vmm_glue/vmm/kvm_vm.h"

namespace sealift::inguest::test {

template <class T>
T must(Result<T> result) {
  EXPECT_TRUE(result.has_value()) << (result ? "" : result.error().detail);
  if (!result) std::abort();
  return std::move(*result);
}
inline void must(const Result<void>& result) {
  ASSERT_TRUE(result.has_value()) << result.error().detail;
}
template <class T>
std::string why(const Result<T>& result) {
  return result ? "no error" : result.error().detail;
}

// Guest RAM at page-aligned addresses.
class TestRam {
 public:
  explicit TestRam(MemoryLayout layout)
      : layout_(std::move(layout)), bytes_(layout_.pages() * kPageBytes) {
    base_ = static_cast<std::byte*>(mmap(nullptr, bytes_, PROT_READ | PROT_WRITE,
                                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0));
    if (base_ == MAP_FAILED) std::abort();
  }
  TestRam(const TestRam&) = delete;
  TestRam& operator=(const TestRam&) = delete;
  ~TestRam() { munmap(base_, bytes_); }

  const MemoryLayout& layout() const { return layout_; }
  MutableBytes all() { return {base_, bytes_}; }
  std::byte* at(Gfn gfn) {
    std::byte* host = base_;
    for (const GfnRange& range : layout_.ranges()) {
      const std::uint64_t offset = value(gfn) - value(range.first);
      if (offset < range.pages) return host + offset * kPageBytes;
      host += range.pages * kPageBytes;
    }
    ADD_FAILURE() << "gfn " << value(gfn) << " is no RAM";
    std::abort();
  }
  Bytes page(Gfn gfn) { return Bytes(at(gfn), at(gfn) + kPageBytes); }
  // Differs in every word of every page.
  void fill(std::uint64_t seed) {
    for (std::size_t at = 0; at < bytes_; at += 8) {
      const std::uint64_t word = (at + seed) * 0x9e3779b97f4a7c15ULL;
      std::memcpy(base_ + at, &word, 8);
    }
  }
  std::vector<Gfn> gfns() const {
    std::vector<Gfn> out;
    for (const GfnRange& range : layout_.ranges()) {
      for (std::uint64_t i = 0; i < range.pages; ++i) out.push_back(range.first + i);
    }
    return out;
  }

 private:
  MemoryLayout layout_;
  std::size_t bytes_;
  std::byte* base_;
};

// The program's session in this process.
class InProcessHelper final : public HelperVcpu {
 public:
  explicit InProcessHelper(TestRam& ram) : machine_{ram}, shared_(kSharedPages * kPageBytes) {}
  Result<void> restart() override {
    session_ = std::make_unique<Session<HostMachine>>();
    session_->boot(machine_, mailbox(), buffer());
    return {};
  }
  Result<void> enter() override {
    if (!session_) return fail(ErrorClass::kLocalFault, "not started");
    session_->serve(mailbox(), buffer());
    return {};
  }
  MutableBytes shared() override { return shared_; }
  void set_entropy(bool there) { machine_.entropy = there; }

 private:
  struct HostMachine {
    TestRam& ram;
    bool entropy = true;
    u8* page(u64 gfn) { return reinterpret_cast<u8*>(ram.at(Gfn{gfn})); }
    bool random(void* out, u64 bytes) {
      return entropy && getrandom(out, bytes, 0) == static_cast<ssize_t>(bytes);
    }
  };
  Mailbox& mailbox() { return *reinterpret_cast<Mailbox*>(shared_.data()); }
  u8* buffer() { return reinterpret_cast<u8*>(shared_.data() + kPageBytes); }

  HostMachine machine_;
  Bytes shared_;
  std::unique_ptr<Session<HostMachine>> session_;
};

// A VM of its own with RAM, the helper's slots and the helper's vCPU. With guest_memfd the VM is a
// KVM_X86_SW_PROTECTED_VM, all of its RAM is private, and `ram` is its unused shared side.
class KvmSide {
 public:
  static constexpr unsigned long kDefaultVm = 0, kSwProtectedVm = 1;

  explicit KvmSide(TestRam& ram, std::chrono::milliseconds limit = std::chrono::seconds(10),
                   SecretMemory memory = SecretMemory::kPlain)
      : kind_(memory),
        system_(must(KvmSystem::open())),
        vm_(must(SEALIFT_KVM(system_.handle, KVM_CREATE_VM,
                             memory == SecretMemory::kPlain ? kDefaultVm : kSwProtectedVm))),
        memory_(make_memory(ram)),
        vcpu_(must(KvmVcpu::make(system_, vm_, 0, must(supported_cpuid(system_))))),
        helper_(*vcpu_, memory_, limit) {}

  KvmHelper& helper() { return helper_; }
  HelperMemory& memory() { return memory_; }

 private:
  HelperMemory make_memory(TestRam& ram) {
    KernelIoctl kernel;
    std::uint32_t slot = 0;
    for (const GfnRange& range : ram.layout().ranges()) {
      KvmUserMemoryRegion2 region{};
      region.slot = slot++;
      region.guest_phys_addr = value(base_of(range.first));
      region.memory_size = range.pages * kPageBytes;
      region.userspace_addr = reinterpret_cast<std::uintptr_t>(ram.at(range.first));
      if (kind_ == SecretMemory::kPlain) {
        // The old request takes the first 32 bytes.
        must(SEALIFT_KVM(vm_, KVM_SET_USER_MEMORY_REGION, &region));
        continue;
      }
      guest_memfds_.emplace_back(must(create_guest_memfd(kernel, vm_.fd(), region.memory_size, 0)));
      region.flags = kKvmMemGuestMemfd;
      region.guest_memfd = static_cast<std::uint32_t>(guest_memfds_.back().fd());
      must(set_user_memory_region2(kernel, vm_.fd(), region));
      must(set_memory_attributes(kernel, vm_.fd(), range, PageClass::kPrivate));
    }
    return must(HelperMemory::make(vm_, ram.layout(), slot, kind_));
  }

  SecretMemory const kind_;
  KvmSystem const system_;
  KvmHandle const vm_;
  std::vector<KvmHandle> guest_memfds_;
  HelperMemory memory_;
  std::unique_ptr<KvmVcpu> vcpu_;
  KvmHelper helper_;
};

enum class Runs : std::uint8_t { kInProcess, kOnKvm };

// One guest with its helper.
struct Guest {
  Guest(Runs runs, const MemoryLayout& layout) : ram(layout) {
    if (runs == Runs::kOnKvm) {
      kvm = std::make_unique<KvmSide>(ram);
    } else {
      local = std::make_unique<InProcessHelper>(ram);
    }
  }
  HelperVcpu& helper() {
    if (kvm) return kvm->helper();
    return *local;
  }
  TestRam ram;
  std::unique_ptr<KvmSide> kvm;
  std::unique_ptr<InProcessHelper> local;
};

// The nth entry (restart() counts) fails before or after it ran; or `meddle` changes what it left.
class FaultyHelper final : public HelperVcpu {
 public:
  explicit FaultyHelper(HelperVcpu& inner) : inner_(inner) {}
  enum class When : std::uint8_t { kBefore, kAfter };
  void fail_at(std::uint64_t nth, When when) {
    left_ = nth;
    when_ = when;
    fired_ = false;
  }
  bool fired() const { return fired_; }
  void die() { dead_ = true; }
  std::function<void(Mailbox&)> before, after;

  Result<void> restart() override {
    return pass([&] { return inner_.restart(); });
  }
  Result<void> enter() override {
    return pass([&] { return inner_.enter(); });
  }
  MutableBytes shared() override { return inner_.shared(); }

 private:
  template <class Call>
  Result<void> pass(Call call) {
    auto& mailbox = *reinterpret_cast<Mailbox*>(shared().data());
    if (dead_) return fail(ErrorClass::kLocalFault, "dead");
    if (before) before(mailbox);
    const bool fires = !fired_ && left_ != kNever && left_-- == 0;
    fired_ = fired_ || fires;
    if (fires && when_ == When::kBefore) return fail(ErrorClass::kLocalFault, "planted");
    SEALIFT_CHECK(call());
    if (after) after(mailbox);
    if (fires) return fail(ErrorClass::kLocalFault, "planted");
    return {};
  }
  static constexpr std::uint64_t kNever = ~std::uint64_t{0};

  HelperVcpu& inner_;
  std::uint64_t left_ = kNever;
  When when_ = When::kBefore;
  bool fired_ = false;
  bool dead_ = false;
};

// RAM on both sides of a small gap and beyond 4 GiB.
inline MemoryLayout small_layout() {
  return must(MemoryLayout::make({{Gfn{0}, 0xa0}, {Gfn{0x100}, 0x40}, {Gfn{0x100010}, 0x10}}));
}

// Source and destination, with a line for faults before each helper.
struct Pair {
  explicit Pair(Runs runs)
      : from(runs, small_layout()),
        to(runs, small_layout()),
        line_from(from.helper()),
        line_to(to.helper()),
        exporter(line_from, from.ram.layout()),
        importer(line_to, to.ram.layout()) {
    from.ram.fill(1);
    to.ram.fill(2);
  }
  Result<void> open() {
    SEALIFT_TRY(const Bytes identity, importer.identity());
    SEALIFT_TRY(const Bytes start, exporter.begin(identity));
    SEALIFT_CHECK(importer.begin(start));
    return exporter.guest_paused();
  }
  Result<void> move(std::uint32_t epoch, std::span<const Gfn> gfns) {
    SEALIFT_TRY(const ExportResult exported, exporter.export_batch(0, epoch, gfns));
    EXPECT_EQ(exported.outcomes.size(), gfns.size());
    SEALIFT_CHECK(importer.import_batch(exported.batch));
    SEALIFT_TRY(const Bytes token, exporter.end_epoch(epoch));
    return importer.end_epoch(epoch, token);
  }
  Result<void> close() {
    SEALIFT_TRY(const Bytes seal, exporter.seal());
    SEALIFT_CHECK(importer.seal(seal));
    SEALIFT_CHECK(importer.commit());
    return exporter.release();
  }
  Result<void> whole() {
    SEALIFT_CHECK(open());
    SEALIFT_CHECK(move(1, from.ram.gfns()));
    return close();
  }
  bool same() {
    const MutableBytes a = from.ram.all();
    const MutableBytes b = to.ram.all();
    return std::memcmp(a.data(), b.data(), a.size()) == 0;
  }

  Guest from, to;
  FaultyHelper line_from, line_to;
  InGuestExporter exporter;
  InGuestImporter importer;
};

// Tests that run with the program in this process and on a real KVM.
class OnEachHelper : public testing::TestWithParam<Runs> {
 protected:
  void SetUp() override {
    if (GetParam() == Runs::kInProcess) return;
    const auto probe = probe_kvm();
    if (!probe) GTEST_SKIP() << probe.error().detail;
  }
};

inline std::string name_of_runs(const testing::TestParamInfo<Runs>& info) {
  return info.param == Runs::kOnKvm ? "OnKvm" : "InProcess";
}

}  // namespace sealift::inguest::test
