#include "vmm_glue/vmm/model_vm.h"

#include <chrono>
#include <cstring>
#include <utility>

#include "engine/assert.h"

namespace sealift {
namespace {

constexpr const char* kBlobName = "model.vcpu";
constexpr std::uint32_t kBlobVersion = 1;
constexpr std::size_t kBlobBytes = guest::kRegs * 8;
constexpr std::chrono::microseconds kYieldTime{1000};

}  // namespace

Result<std::unique_ptr<ModelVm>> ModelVm::make(const VmConfig& config,
                                               PrivateMemory* private_memory) {
  SEALIFT_TRY(Parts parts, make_parts(config, private_memory, GuestMemory::Populate::kOnTouch));
  return std::unique_ptr<ModelVm>(new ModelVm(std::move(parts)));
}

ModelVm::ModelVm(Parts parts) : Vm(std::move(parts)), log_(layout_.span_pages()) {
  const ModelMachine::Board board{
      memory_,     layout_,   map_, dirty_, log_, private_memory_, advertised_form(config_),
      hypercalls_, readiness_};
  for (std::uint32_t i = 0; i < config_.vcpus; ++i) {
    vcpus_.push_back(std::make_unique<ModelMachine>(board));
  }
}

void ModelVm::run(std::uint32_t vcpu) {
  ModelMachine& machine = *vcpus_[vcpu];
  guest::WorkloadVcpu<ModelMachine> program(machine, vcpu);
  while (!control_.should_stop()) {
    control_.pay_throttle(vcpu);
    program.advance();
    if (!machine.fault().empty()) return control_.terminate(machine.fault());
    const int bell = machine.take_bell();
    if (bell < 0) continue;
    if (bell == static_cast<int>(guest::Doorbell::kYield)) {
      control_.nap(kYieldTime);
    } else {
      control_.ring();
    }
  }
}

Result<void> ModelVm::run_steps(std::uint32_t vcpu, std::uint64_t turns) {
  SEALIFT_ASSERT(vcpu < vcpus_.size());
  if (control_.state() != VmState::kPaused) {
    return fail(ErrorClass::kRefused, "single steps need a paused guest, and it is {}",
                name_of(control_.state()));
  }
  ModelMachine& machine = *vcpus_[vcpu];
  guest::WorkloadVcpu<ModelMachine> program(machine, vcpu);
  for (std::uint64_t i = 0; i < turns; ++i) {
    program.advance();
    (void)machine.take_bell();
    if (machine.fault().empty()) continue;
    control_.terminate(machine.fault());
    return fail(ErrorClass::kLocalFault, "the guest terminated: {}", machine.fault());
  }
  return {};
}

Result<void> ModelVm::start_dirty_tracking() {
  log_.clear();
  return {};
}

Result<void> ModelVm::harvest_dirty() {
  const std::lock_guard lock(harvest_mutex_);
  log_.harvest(dirty_);
  return {};
}

Result<std::vector<StateBlob>> ModelVm::save_vcpus() {
  std::vector<StateBlob> state;
  for (std::uint32_t i = 0; i < config_.vcpus; ++i) {
    StateBlob blob{StateBlob::Kind::kVcpu, i, kBlobName, kBlobVersion, Bytes(kBlobBytes)};
    std::memcpy(blob.bytes.data(), vcpus_[i]->regs().data(), kBlobBytes);
    state.push_back(std::move(blob));
  }
  return state;
}

Result<void> ModelVm::load_vcpus(std::vector<StateBlob> state) {
  std::vector<const StateBlob*> of_vcpu(config_.vcpus, nullptr);
  for (const StateBlob& blob : state) {
    if (blob.kind != StateBlob::Kind::kVcpu || blob.name != kBlobName ||
        blob.version != kBlobVersion) {
      return fail(ErrorClass::kRefused, "state '{}' version {} is not known to a modelled guest",
                  blob.name, blob.version);
    }
    if (blob.index >= config_.vcpus || of_vcpu[blob.index] != nullptr) {
      return fail(ErrorClass::kRefused,
                  "state '{}' of vCPU {} comes twice or is beyond the {} vCPUs here", blob.name,
                  blob.index, config_.vcpus);
    }
    if (blob.bytes.size() != kBlobBytes) {
      return fail(ErrorClass::kMalformed, "state '{}' of vCPU {} has {} bytes instead of {}",
                  blob.name, blob.index, blob.bytes.size(), kBlobBytes);
    }
    of_vcpu[blob.index] = &blob;
  }
  for (std::uint32_t i = 0; i < config_.vcpus; ++i) {
    if (of_vcpu[i] == nullptr) {
      return fail(ErrorClass::kRefused, "state '{}' of vCPU {} is missing", kBlobName, i);
    }
  }
  for (std::uint32_t i = 0; i < config_.vcpus; ++i) {
    std::memcpy(vcpus_[i]->regs().data(), of_vcpu[i]->bytes.data(), kBlobBytes);
  }
  return {};
}

}  // namespace sealift
