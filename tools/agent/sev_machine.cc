#include "tools/agent/sev_machine.h"

#include <fmt/format.h>

#include <bit>
#include <utility>
#include <vector>

#include "vmm_glue/model/sev/soft_sev_host.h"
#include "vmm_glue/sev/host_card.h"
#include "vmm_glue/sev/importer.h"
#include "vmm_glue/sev/setup.h"

namespace sealift {
namespace {

class SevPlatformHost : public PlatformHost {
 public:
  explicit SevPlatformHost(const PlatformConfig& config)
      : config_(with_es_bit(config)), soft(soft_config(config)), sev_fd_(soft.open_sev()) {}
  ~SevPlatformHost() override { soft.close_sev(sev_fd_); }

  Platform platform() const override { return config_.platform; }
  std::string describe() const override {
    const bool encrypts = config_.backend == Backend::kModel;
    return fmt::format("AMD {}, firmware {}modelled in software with real cryptography{}{}",
                       is_es() ? "SEV-ES" : "SEV", encrypts ? "and memory encryption " : "",
                       encrypts ? ""
                                : "; the memory of a guest on KVM is not encrypted, so this host "
                                  "can read its private pages",
                       config_.sev.slow_firmware ? "; as slow as AMD's, 400 pages/s" : "");
  }
  Result<Bytes> card() override {
    SEALIFT_TRY(const sev::HostCard own, host_card());
    return sev::encode(own);
  }
  Result<sev::HostCard> host_card() {
    const sev::SevVm vm{soft, -1, sev_fd_};
    SEALIFT_TRY(sev::HostCard card, sev::read_host_card(vm));
    // Of the modelled processor and kernel, not of the one below them.
    card.c_bit_position = static_cast<std::uint8_t>(std::countr_zero(sev::kCBit));
    card.phys_addr_reduction = 0;
    card.memlock_limit_bytes = sev::kMemlockUnlimited;
    card.moves_vmsa = config_.sev.kernel_moves_vmsa;
    card.modelled = true;
    card.expected_policy = config_.sev.policy;
    return card;
  }

  bool is_es() const { return config_.platform == Platform::kSevEs; }
  const PlatformConfig& config() const { return config_; }

 private:
  static PlatformConfig with_es_bit(PlatformConfig config) {
    if (config.platform == Platform::kSevEs) config.sev.policy |= sev::kPolicyEs;
    return config;
  }
  static sev::SoftSevConfig soft_config(const PlatformConfig& config) {
    sev::SoftSevConfig soft;
    soft.firmware.encrypts_memory = config.backend == Backend::kModel;
    soft.kernel_moves_vmsa = config.sev.kernel_moves_vmsa;
    if (config.sev.slow_firmware) soft.latency = sev::LatencyProfile::asp();
    return soft;
  }
  PlatformConfig const config_;

 public:
  sev::SoftSevHost soft;

 private:
  int const sev_fd_;  // of the host itself; each machine has its own
};

// What a modelled vCPU sees of its platform. The guest's key exists once its VM does, which is
// after the VM was told where to find it.
class GuestSide : public PrivateMemory {
 public:
  GuestSide(sev::SoftSevHost& host, int vm_fd) : host_(host), vm_fd_(vm_fd) {}
  void connect(std::uint32_t register_pages) {
    view_ = &host_.guest_view(vm_fd_);
    for (std::uint32_t i = 0; i < register_pages; ++i) {
      register_pages_.push_back(host_.vmsa(vm_fd_, i).data());
    }
  }

  void load(const std::byte* host, MutableBytes out) const override { view_->load(host, out); }
  void store(std::byte* host, ByteView in) override { view_->store(host, in); }
  std::string why_not_run() const override {
    if (host_.may_run(vm_fd_)) return {};
    return fmt::format("the SEV firmware does not let it run in state {}",
                       static_cast<std::uint32_t>(host_.guest_state(vm_fd_)));
  }
  std::byte* register_page(std::uint32_t vcpu) const override {
    return vcpu < register_pages_.size() ? register_pages_[vcpu] : nullptr;
  }

 private:
  sev::SoftSevHost& host_;
  int const vm_fd_;
  PrivateMemory* view_ = nullptr;
  std::vector<std::byte*> register_pages_;  // of a SEV-ES guest
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
      : host_(host),
        vm_fd_(host.soft.create_vm()),
        sev_fd_(host.soft.open_sev()),
        guest_side_(host.soft, vm_fd_) {}
  ~SevMachine() override {
    if (vm_) (void)vm_->pause();  // its vCPUs ask the exporter about conversions
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
    SEALIFT_TRY(vm_, make_vm(config, config.backend == Backend::kModel ? &guest_side_ : nullptr));
    const sev::SevVm sev{host_.soft, vm_fd_, sev_fd_};
    SEALIFT_CHECK(make_guest(sev, config.vcpus, launch));
    guest_side_.connect(host_.is_es() ? config.vcpus : 0);
    make_drivers(sev, config);
    return {};
  }

 private:
  Result<void> make_guest(const sev::SevVm& sev, std::uint32_t vcpus, bool launch) {
    const std::uint32_t policy = host_.config().sev.policy;
    const auto create_vcpus = [this, vcpus]() -> Result<void> {
      for (std::uint32_t i = 0; i < vcpus; ++i) host_.soft.create_vcpu(vm_fd_);
      return {};
    };
    const std::vector<MutableBytes> ram = ram_of(*vm_);
    if (launch) {
      SEALIFT_CHECK(sev::launch(sev, policy, ram, {}, create_vcpus));
      return {};
    }
    SEALIFT_CHECK(sev::prepare_receive(sev, ram, policy));
    return host_.is_es() ? create_vcpus() : Result<void>();
  }

  void make_drivers(const sev::SevVm& sev, const VmConfig& config) {
    const sev::HostAddress address = [vm = vm_.get()](Gfn gfn) {
      return vm->layout().contains(gfn) ? vm->host_address(gfn) : nullptr;
    };
    sev::SevConfig driver;
    driver.policy = host_.config().sev.policy;
    driver.es = host_.is_es();
    driver.vcpus = config.vcpus;
    driver.memory_bytes = config.memory_bytes;
    driver.coherent_caches = true;  // the modelled memory has no caches
    driver.describe_host = [this] { return host_.host_card(); };
    driver.reveal = host_.config().reveal;
    exporter_ = std::make_unique<sev::SevExporter>(sev, address, driver);
    importer_ = std::make_unique<sev::SevImporter>(sev, address, driver);
    vm_->set_convert_gate([exporter = exporter_.get()](GfnRange range, PageClass wish) {
      return exporter->may_convert(range, wish);
    });
    if (driver.reveal) {
      sev::EcNumber key = host_.soft.pdh_private_key();
      driver.reveal("pdh-private-key", key);
      sev::erase_secret(key);
    }
  }

  SevPlatformHost& host_;
  int vm_fd_;
  int sev_fd_;
  GuestSide guest_side_;
  std::unique_ptr<Vm> vm_;
  std::unique_ptr<sev::SevExporter> exporter_;
  std::unique_ptr<sev::SevImporter> importer_;
};

}  // namespace

Result<std::unique_ptr<PlatformHost>> make_sev_host(const PlatformConfig& config) {
  return std::make_unique<SevPlatformHost>(config);
}

Result<std::unique_ptr<Machine>> make_sev_machine(PlatformHost& host, const VmConfig& config,
                                                  bool launch) {
  auto machine = std::make_unique<SevMachine>(dynamic_cast<SevPlatformHost&>(host));
  SEALIFT_CHECK(machine->make(config, launch));
  return machine;
}

}  // namespace sealift
