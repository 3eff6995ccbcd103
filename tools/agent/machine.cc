#include "tools/agent/machine.h"

#include <utility>

#include "tools/agent/sev_machine.h"
#include "vmm_glue/inguest/exporter.h"
#include "vmm_glue/inguest/importer.h"
#include "vmm_glue/vmm/kvm_vm.h"

namespace sealift {
namespace {

class NoPlatformHost : public PlatformHost {
 public:
  Platform platform() const override { return Platform::kNone; }
  std::string describe() const override { return "none: all memory is shared and travels plain"; }
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
  return make_sev_machine(host, config, launch);
}

}  // namespace

Result<BackendDecision> decide_backend(BackendChoice choice, Platform platform) {
  if (platform == Platform::kSevEs) {
    if (choice != BackendChoice::kKvm) {
      return BackendDecision{Backend::kModel, "model: SEV-ES guests run on modelled vCPUs only"};
    }
    return fail(ErrorClass::kUsage,
                "platform=sev-es needs backend=model: the registers of a guest that runs natively "
                "on KVM are in no VMSA");
  }
  if (choice == BackendChoice::kModel) return BackendDecision{Backend::kModel, "model: asked for"};
  auto kvm = probe_kvm();
  if (kvm) return BackendDecision{Backend::kKvm, "kvm: " + *kvm};
  if (choice == BackendChoice::kKvm) {
    return fail(ErrorClass::kRefused, "backend=kvm is not possible here: {}", kvm.error().detail);
  }
  return BackendDecision{Backend::kModel, "model: " + kvm.error().detail};
}

Result<std::unique_ptr<PlatformHost>> PlatformHost::make(const PlatformConfig& config) {
  switch (config.platform) {
    case Platform::kNone:
      return std::make_unique<NoPlatformHost>();
    case Platform::kSev:
    case Platform::kSevEs:
      return make_sev_host(config);
    case Platform::kSwProtected:
      return std::make_unique<SwProtectedHost>();
    default:
      return fail(ErrorClass::kUsage, "platform {} is not there yet", name_of(config.platform));
  }
}

Result<std::unique_ptr<Machine>> Machine::launch(PlatformHost& host, const VmConfig& config) {
  SEALIFT_TRY(std::unique_ptr<Machine> machine, make_machine(host, config, true));
  SEALIFT_CHECK(machine->vm().boot());
  return machine;
}

Result<std::unique_ptr<Machine>> Machine::receive(PlatformHost& host, const VmConfig& config) {
  VmConfig empty = config;
  empty.image_path.clear();  // its memory comes from the source
  return make_machine(host, empty, false);
}

}  // namespace sealift
