// What the tests of state on a real KVM share: small VMs without a guest program, and kernels that
// fail on demand.
//
// FailingKernel's fault model: the nth ioctl is not made and gives an errno; all others are the
// real kernel's.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/kvm.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "vmm_glue/abi/kvm_requests.h"
#include "vmm_glue/vmm/kvm_msrs.h"
#include "vmm_glue/vmm/kvm_vcpu.h"
#include "vmm_glue/vmm/kvm_vcpu_items.h"

namespace sealift::test {

class FailingKernel final : public HostIoctl {
 public:
  explicit FailingKernel(int nth, int error = EIO) : left_(nth), error_(error) {}
  int ioctl(int fd, unsigned long request, void* arg) override {
    if (left_-- == 0) return -error_;
    return kernel_.ioctl(fd, request, arg);
  }
  bool has_failed() const { return left_ < 0; }

 private:
  KernelIoctl kernel_;
  int left_;
  int error_;
};

struct VmOptions {
  bool irqchip = false;
  bool pit = false;
  std::uint32_t vcpus = 1;
};

// A VM with one page of memory at 0x1000.
struct BareVm {
  KvmHandle vm;
  std::unique_ptr<std::byte, void (*)(std::byte*)> page{
      nullptr, [](std::byte* at) { munmap(at, kPageBytes); }};
  std::vector<std::unique_ptr<KvmVcpu>> vcpus;

  static Result<BareVm> make(const KvmSystem& system, const VmOptions& options) {
    BareVm bare;
    SEALIFT_TRY(const int fd, SEALIFT_KVM(system.handle, KVM_CREATE_VM, 0UL));
    bare.vm = KvmHandle(fd);
    for (const std::uint32_t cap : {std::uint32_t{KVM_CAP_EXCEPTION_PAYLOAD},
                                    std::uint32_t{KVM_CAP_X86_TRIPLE_FAULT_EVENT}}) {
      kvm_enable_cap enable{};
      enable.cap = cap;
      enable.args[0] = 1;
      (void)SEALIFT_KVM(bare.vm, KVM_ENABLE_CAP, &enable);  // old kernels have less
    }
    if (options.irqchip) {
      SEALIFT_TRY([[maybe_unused]] int made,
                  bare.vm.call("KVM_CREATE_IRQCHIP", KVM_CREATE_IRQCHIP));
    }
    if (options.pit) {
      kvm_pit_config config{};
      SEALIFT_TRY([[maybe_unused]] int made, SEALIFT_KVM(bare.vm, KVM_CREATE_PIT2, &config));
    }
    void* page =
        mmap(nullptr, kPageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) return fail(ErrorClass::kLocalFault, "mmap failed");
    bare.page.reset(static_cast<std::byte*>(page));
    kvm_userspace_memory_region region{};
    region.guest_phys_addr = 0x1000;
    region.memory_size = kPageBytes;
    region.userspace_addr = reinterpret_cast<std::uintptr_t>(page);
    SEALIFT_TRY([[maybe_unused]] int set,
                SEALIFT_KVM(bare.vm, KVM_SET_USER_MEMORY_REGION, &region));
    SEALIFT_TRY(auto cpuid, supported_cpuid(system));
    // Depends on a LAPIC, so KVM does not say it here but in KVM_CAP_TSC_DEADLINE_TIMER.
    for (kvm_cpuid_entry2& leaf : cpuid) {
      if (leaf.function == 1 && options.irqchip) leaf.ecx |= 1u << 24;
    }
    for (std::uint32_t i = 0; i < options.vcpus; ++i) {
      SEALIFT_TRY(auto vcpu, KvmVcpu::make(system, bare.vm, i, cpuid));
      bare.vcpus.push_back(std::move(vcpu));
    }
    return bare;
  }
};

class RealKvmState : public testing::Test {
 protected:
  void SetUp() override {
    auto opened = KvmSystem::open();
    if (!opened) GTEST_SKIP() << opened.error().detail;
    system_ = std::make_unique<KvmSystem>(std::move(*opened));
    const auto tried = BareVm::make(*system_, {});
    if (!tried) GTEST_SKIP() << tried.error().detail;
  }
  // Why there are no VMs with these parts here, or "".
  std::string why_not(const VmOptions& options) const {
    const auto tried = BareVm::make(*system_, options);
    return tried ? "" : tried.error().detail;
  }
  BareVm make(const VmOptions& options) const {
    auto bare = BareVm::make(*system_, options);
    EXPECT_TRUE(bare.has_value());
    return std::move(*bare);
  }
  VcpuPort port(HostIoctl& kernel, const KvmVcpu& vcpu, std::uint32_t index = 0) const {
    return {kernel,       vcpu.handle().fd(), index, system_->has_sregs2, system_->xsave_bytes,
            system_->msrs};
  }

  std::unique_ptr<KvmSystem> system_;
};

inline Result<int> set_msr(const KvmVcpu& vcpu, std::uint32_t index, std::uint64_t value) {
  KvmOneMsr one;
  one.index = index;
  one.data = value;
  return vcpu.handle().call("KVM_SET_MSRS", kKvmSetMsrs, &one);
}

inline StateBlob& blob_of(std::vector<StateBlob>& state, const std::string& name,
                          std::uint32_t index = 0) {
  for (StateBlob& blob : state) {
    if (blob.name == name && blob.index == index) return blob;
  }
  ADD_FAILURE() << "no " << name;
  return state.front();
}

inline std::map<std::uint32_t, std::uint64_t> msrs_of(const Bytes& bytes) {
  std::map<std::uint32_t, std::uint64_t> values;
  for (std::size_t at = 0; at + sizeof(kvm_msr_entry) <= bytes.size();
       at += sizeof(kvm_msr_entry)) {
    kvm_msr_entry entry{};
    std::memcpy(&entry, bytes.data() + at, sizeof entry);
    values[entry.index] = entry.data;
  }
  return values;
}

inline void append_msr(Bytes& bytes, std::uint32_t index, std::uint64_t value,
                       std::uint32_t reserved = 0) {
  const kvm_msr_entry entry{index, reserved, value};
  bytes.resize(bytes.size() + sizeof entry);
  std::memcpy(bytes.data() + bytes.size() - sizeof entry, &entry, sizeof entry);
}

}  // namespace sealift::test
