#include "vmm_glue/exits/guest_exits.h"

#include <cerrno>
#include <utility>

#include "engine/assert.h"
#include "vmm_glue/exits/system_event.h"
#include "vmm_glue/exits/vmgexit.h"

namespace sealift {

using Kind = ServedExit::Kind;

GuestExits::GuestExits(const GuestExitsConfig& config) : config_(config), locks_(config.vcpus) {
  SEALIFT_ASSERT(config.layout != nullptr && config.map != nullptr);
  SEALIFT_ASSERT(config.converter != nullptr && config.readiness != nullptr);
  SEALIFT_ASSERT(config.memory != nullptr);
  for (std::uint32_t i = 0; i < config.vcpus; ++i) {
    faults_.emplace_back(config.abi, config.memory_fault, *config.layout, *config.map,
                         *config.converter);
  }
}

ServedExit GuestExits::serve(std::uint32_t vcpu, int run_errno, KvmRun& run) {
  SEALIFT_ASSERT(vcpu < config_.vcpus);
  if (run_errno == EINTR || run_errno == EAGAIN) return {};
  if (faults_[vcpu].handles(run_errno, run)) return serve_fault(vcpu, run_errno, run);
  if (run_errno != 0) return {};
  faults_[vcpu].progress();
  if (config_.abi.has_posted_vmgexit && run.exit_reason == kPostedExitVmgexit) {
    return serve_posted(run);
  }
  switch (run.exit_reason) {
    case kKvmExitHypercall:
      return serve_page_state(run);
    case kKvmExitRdmsr:
    case kKvmExitWrmsr:
      return {Kind::kServed, describe(handle_msr(run, *config_.readiness)), false};
    case kKvmExitSystemEvent:
    case kKvmExitShutdown:
      return {Kind::kGuestEnded, decode_guest_end(run, config_.abi, config_.memory).why, false};
    case kKvmExitSnpReqCerts:
      return serve_certificates(vcpu, run);
    case kKvmExitTdx:
      if (config_.tdx == nullptr) return {Kind::kServed, "TDX call left to KVM's preset", false};
      return {Kind::kServed, describe(config_.tdx->handle(run, vcpu)), false};
    default:
      return {};
  }
}

ServedExit GuestExits::serve_page_state(KvmRun& run) {
  const HypercallOutcome outcome =
      handle_hypercall(run, config_.hypercall, *config_.layout, *config_.converter);
  page_state_requests_.fetch_add(1, std::memory_order_relaxed);
  const bool later = outcome.refusal == HypercallRefusal::kLater;
  return {later ? Kind::kLater : Kind::kServed, describe(outcome), outcome.converted()};
}

ServedExit GuestExits::serve_posted(KvmRun& run) {
  const PscOutcome outcome =
      handle_vmgexit(run, *config_.layout, *config_.converter, *config_.memory);
  page_state_requests_.fetch_add(1, std::memory_order_relaxed);
  return {Kind::kServed, describe(outcome), outcome.converted_pages > 0};
}

ServedExit GuestExits::serve_fault(std::uint32_t vcpu, int run_errno, KvmRun& run) {
  using Fault = MemoryFaultOutcome::Kind;
  MemoryFaultOutcome outcome = faults_[vcpu].handle(run_errno, run);
  switch (outcome.kind) {
    case Fault::kRetry:
      return {Kind::kServed, "an access that a conversion overtook: run again", false};
    case Fault::kConverted:
      return {Kind::kServed, "converted by the access itself", true};
    case Fault::kLater:
      return {Kind::kLater, std::move(outcome.why), false};
    case Fault::kFatal:
      break;
  }
  return {Kind::kFatal, std::move(outcome.why), false};
}

ServedExit GuestExits::serve_certificates(std::uint32_t vcpu, KvmRun& run) {
  CertsOutcome outcome = handle_snp_req_certs(run, config_.certificates, *config_.memory);
  locks_[vcpu] = std::move(outcome.lock);
  if (!locks_[vcpu].held()) {
    return {Kind::kServed, "certificates: " + outcome.reason, false};
  }
  return {Kind::kMustDrain, "certificates given", false};
}

void GuestExits::completed(std::uint32_t vcpu) {
  SEALIFT_ASSERT(vcpu < config_.vcpus);
  locks_[vcpu] = CertificateLock{};
}

}  // namespace sealift
