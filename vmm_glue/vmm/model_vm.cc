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
      memory_,
      layout_,
      map_,
      dirty_,
      log_,
      private_memory_,
      advertised_form(config_),
      hypercalls_,
      readiness_,
      [this](GfnRange range, PageClass wish) { return ask_gate(range, wish); }};
  for (std::uint32_t i = 0; i < config_.vcpus; ++i) {
    vcpus_.push_back(std::make_unique<ModelMachine>(board));
  }
}

void ModelVm::load_registers(std::uint32_t vcpu) {
  if (!has_register_pages()) return;
  const MutableBytes regs = std::as_writable_bytes(std::span(vcpus_[vcpu]->regs()));
  private_memory_->load(private_memory_->register_page(vcpu), regs);
}

void ModelVm::store_registers(std::uint32_t vcpu) {
  if (!has_register_pages()) return;
  auto& regs = vcpus_[vcpu]->regs();
  private_memory_->store(private_memory_->register_page(vcpu), std::as_bytes(std::span(regs)));
  regs.fill(0);  // the host keeps none
}

void ModelVm::run(std::uint32_t vcpu) {
  if (private_memory_ != nullptr) {
    if (std::string why = private_memory_->why_not_run(); !why.empty()) {
      return control_.terminate(std::move(why));
    }
  }
  load_registers(vcpu);
  run_guest(vcpu);
  store_registers(vcpu);
}

void ModelVm::run_guest(std::uint32_t vcpu) {
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
  load_registers(vcpu);
  guest::WorkloadVcpu<ModelMachine> program(machine, vcpu);
  for (std::uint64_t i = 0; i < turns && machine.fault().empty(); ++i) {
    program.advance();
    (void)machine.take_bell();
  }
  store_registers(vcpu);
  if (machine.fault().empty()) return {};
  control_.terminate(machine.fault());
  return fail(ErrorClass::kLocalFault, "the guest terminated: {}", machine.fault());
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

// Registers that the platform keeps leave through it (PrivateExporter::save_state()).
Result<std::vector<StateBlob>> ModelVm::save_vcpus() {
  std::vector<StateBlob> state;
  if (has_register_pages()) return state;
  for (std::uint32_t i = 0; i < config_.vcpus; ++i) {
    StateBlob blob{StateBlob::Kind::kVcpu, i, kBlobName, kBlobVersion, Bytes(kBlobBytes)};
    std::memcpy(blob.bytes.data(), vcpus_[i]->regs().data(), kBlobBytes);
    state.push_back(std::move(blob));
  }
  return state;
}

Result<void> ModelVm::load_vcpus(std::vector<StateBlob> state) {
  if (has_register_pages()) {
    if (state.empty()) return {};
    return fail(ErrorClass::kRefused, "state '{}' came, but the platform keeps the registers here",
                state.front().name);
  }
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
