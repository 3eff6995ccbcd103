#include "tools/agent/machine.h"

#include <unistd.h>

#include <utility>
#include <vector>

#include "engine/assert.h"
#include "vmm_glue/inguest/exporter.h"
#include "vmm_glue/inguest/importer.h"
#include "vmm_glue/model/sev/soft_sev_host.h"
#include "vmm_glue/sev/importer.h"
#include "vmm_glue/sev/setup.h"
#include "vmm_glue/vmm/kvm_vm.h"

namespace sealift {
namespace {

// The guest's key exists once its VM does, which is after the VM was told where to find it.
class GuestKeyView : public PrivateMemory {
 public:
  void connect(PrivateMemory& view) { view_ = &view; }
  void load(const std::byte* host, MutableBytes out) const override { view_->load(host, out); }
  void store(std::byte* host, ByteView in) override { view_->store(host, in); }

 private:
  PrivateMemory* view_ = nullptr;
};

class NoPlatformHost : public PlatformHost {
 public:
  Platform platform() const override { return Platform::kNone; }
  std::string describe() const override { return "none: all memory is shared and travels plain"; }
};

class SevPlatformHost : public PlatformHost {
 public:
  explicit SevPlatformHost(bool encrypts_memory)
      : encrypts_memory_(encrypts_memory), soft(config(encrypts_memory)) {}
  Platform platform() const override { return Platform::kSev; }
  std::string describe() const override {
    return encrypts_memory_ ? "AMD SEV, firmware and memory encryption modelled in software with "
                              "real cryptography"
                            : "AMD SEV, firmware modelled in software with real cryptography; the "
                              "memory of a guest on "
                              "KVM is not encrypted, so this host can read its private pages";
  }

 private:
  static sev::SoftSevConfig config(bool encrypts_memory) {
    sev::SoftSevConfig config;
    config.firmware.encrypts_memory = encrypts_memory;
    return config;
  }
  bool encrypts_memory_;

 public:
  sev::SoftSevHost soft;
};

class PlainMachine : public Machine {
 public:
  explicit PlainMachine(std::unique_ptr<Vm> vm) : vm_(std::move(vm)) {}
  Vm& vm() override { return *vm_; }
  PrivateExporter* exporter() override { return nullptr; }
  PrivateImporter* importer() override { return nullptr; }

 private:
  std::unique_ptr<Vm> vm_;
};

std::vector<MutableBytes> ram_of(const Vm& vm) {
  std::vector<MutableBytes> ram;
  for (GfnRange range : vm.layout().ranges()) {
    ram.push_back(MutableBytes(vm.host_address(range.first), range.pages * kPageBytes));
  }
  return ram;
}

// Destroyed from the bottom up: drivers, then the guest, then its firmware context.
class SevMachine : public Machine {
 public:
  explicit SevMachine(SevPlatformHost& host)
      : host_(host), vm_fd_(host.soft.create_vm()), sev_fd_(host.soft.open_sev()) {}
  ~SevMachine() override {
    importer_.reset();
    exporter_.reset();
    vm_.reset();
    host_.soft.close_sev(sev_fd_);
    host_.soft.destroy_vm(vm_fd_);
  }

  Vm& vm() override { return *vm_; }
  PrivateExporter* exporter() override { return exporter_.get(); }
  PrivateImporter* importer() override { return importer_.get(); }

  Result<void> make(const VmConfig& config, bool launch) {
    SEALIFT_TRY(vm_, make_vm(config, config.backend == Backend::kModel ? &key_view_ : nullptr));
    const sev::SevVm sev{host_.soft, vm_fd_, sev_fd_};
    const std::vector<MutableBytes> ram = ram_of(*vm_);
    if (launch) {
      SEALIFT_CHECK(sev::launch(sev, kPolicy, ram, {}));
    } else {
      SEALIFT_CHECK(sev::prepare_receive(sev, ram));
    }
    key_view_.connect(host_.soft.guest_view(vm_fd_));
    const sev::HostAddress address = [vm = vm_.get()](Gfn gfn) {
      return vm->layout().contains(gfn) ? vm->host_address(gfn) : nullptr;
    };
    exporter_ = std::make_unique<sev::SevExporter>(sev, address, sev::SevConfig{kPolicy, {}});
    importer_ = std::make_unique<sev::SevImporter>(sev, address, sev::SevConfig{kPolicy, {}});
    return {};
  }

 private:
  static constexpr std::uint32_t kPolicy = 1;  // NODBG

  SevPlatformHost& host_;
  int vm_fd_;
  int sev_fd_;
  GuestKeyView key_view_;
  std::unique_ptr<Vm> vm_;
  std::unique_ptr<sev::SevExporter> exporter_;
  std::unique_ptr<sev::SevImporter> importer_;
};

class SwProtectedHost : public PlatformHost {
 public:
  Platform platform() const override { return Platform::kSwProtected; }
  std::string describe() const override {
    return "KVM_X86_SW_PROTECTED_VM: private pages are in a guest_memfd that this host cannot "
           "read; "
           "they travel encrypted by a helper vCPU in the guest's VM. Nothing is attested";
  }
};

// Destroyed from the bottom up: drivers, then the guest with its helper.
class SwProtectedMachine : public Machine {
 public:
  explicit SwProtectedMachine(std::unique_ptr<Vm> vm)
      : vm_(std::move(vm)),
        exporter_(*vm_->private_helper(), vm_->layout()),
        importer_(*vm_->private_helper(), vm_->layout()) {}
  Vm& vm() override { return *vm_; }
  PrivateExporter* exporter() override { return &exporter_; }
  PrivateImporter* importer() override { return &importer_; }

 private:
  std::unique_ptr<Vm> vm_;
  inguest::InGuestExporter exporter_;
  inguest::InGuestImporter importer_;
};

Result<std::unique_ptr<Machine>> make_machine(PlatformHost& host, const VmConfig& config,
                                              bool launch) {
  if (host.platform() == Platform::kNone) {
    SEALIFT_TRY(std::unique_ptr<Vm> vm, make_vm(config, nullptr));
    return std::make_unique<PlainMachine>(std::move(vm));
  }
  if (host.platform() == Platform::kSwProtected) {
    SEALIFT_TRY(std::unique_ptr<Vm> vm, make_vm(config, nullptr));
    return std::make_unique<SwProtectedMachine>(std::move(vm));
  }
  auto machine = std::make_unique<SevMachine>(dynamic_cast<SevPlatformHost&>(host));
  SEALIFT_CHECK(machine->make(config, launch));
  return machine;
}

}  // namespace

Result<BackendDecision> decide_backend(BackendChoice choice) {
  if (choice == BackendChoice::kModel) return BackendDecision{Backend::kModel, "model: asked for"};
  auto kvm = probe_kvm();
  if (kvm) return BackendDecision{Backend::kKvm, "kvm: " + *kvm};
  if (choice == BackendChoice::kKvm) {
    return fail(ErrorClass::kRefused, "backend=kvm is not possible here: {}", kvm.error().detail);
  }
  return BackendDecision{Backend::kModel, "model: " + kvm.error().detail};
}

Result<std::unique_ptr<PlatformHost>> PlatformHost::make(Platform platform, Backend backend) {
  switch (platform) {
    case Platform::kNone:
      return std::make_unique<NoPlatformHost>();
    case Platform::kSev:
      return std::make_unique<SevPlatformHost>(backend == Backend::kModel);
    case Platform::kSwProtected:
      return std::make_unique<SwProtectedHost>();
    default:
      return fail(ErrorClass::kUsage, "platform {} is not there yet", name_of(platform));
  }
}

Result<std::unique_ptr<Machine>> Machine::launch(PlatformHost& host, const VmConfig& config) {
  SEALIFT_TRY(std::unique_ptr<Machine> machine, make_machine(host, config, true));
  SEALIFT_CHECK(machine->vm().boot());
  SEALIFT_CHECK(machine->vm().resume());
  return machine;
}

Result<std::unique_ptr<Machine>> Machine::receive(PlatformHost& host, const VmConfig& config) {
  VmConfig empty = config;
  empty.image_path.clear();  // its memory comes from the source
  return make_machine(host, empty, false);
}

}  // namespace sealift
