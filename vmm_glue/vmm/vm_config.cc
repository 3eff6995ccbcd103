#include "vmm_glue/vmm/vm_config.h"

#include <array>

#include "vmm_glue/guest/guest_plan.h"

namespace sealift {
namespace {

constexpr std::array kWorkloads = {Workload::kIdle, Workload::kSweep, Workload::kHotset,
                                   Workload::kRandom, Workload::kFlipstorm};
static_assert(static_cast<std::uint64_t>(HypercallForm::kNone) == guest::kFormNone);
static_assert(static_cast<std::uint64_t>(HypercallForm::kPageEncStatus) ==
              guest::kFormPageEncStatus);
static_assert(static_cast<std::uint64_t>(HypercallForm::kMapGpaRange) == guest::kFormMapGpaRange);
static_assert(guest::kPageStateHypercall == kKvmHypercallPageState);

}  // namespace

const char* name_of(Backend backend) {
  switch (backend) {
    case Backend::kModel:
      return "model";
    case Backend::kKvm:
      return "kvm";
  }
  return "invalid back-end";
}

Result<Backend> parse_backend(std::string_view name) {
  for (Backend backend : {Backend::kModel, Backend::kKvm}) {
    if (name == name_of(backend)) return backend;
  }
  return fail(ErrorClass::kUsage, "back-end '{}' is neither model nor kvm", name);
}

const char* name_of(Workload workload) {
  switch (workload) {
    case Workload::kIdle:
      return "idle";
    case Workload::kSweep:
      return "sweep";
    case Workload::kHotset:
      return "hotset";
    case Workload::kRandom:
      return "random";
    case Workload::kFlipstorm:
      return "flipstorm";
  }
  return "invalid workload";
}

Result<Workload> parse_workload(std::string_view name) {
  for (Workload workload : kWorkloads) {
    if (name == name_of(workload)) return workload;
  }
  return fail(ErrorClass::kUsage, "workload '{}' is none of idle, sweep, hotset, random, flipstorm",
              name);
}

std::uint32_t default_flips_per_1000(Workload workload) {
  switch (workload) {
    case Workload::kIdle:
      return 0;
    case Workload::kFlipstorm:
      return 500;
    default:
      return 2;
  }
}

HypercallForm advertised_form(const VmConfig& config) {
  return config.platform == Platform::kNone ? HypercallForm::kNone : config.hypercall_form;
}

Result<void> check_config(const VmConfig& config) {
  SEALIFT_TRY(const GuestPlan plan, plan_guest(config.memory_bytes, config.vcpus, 0));
  if (config.shared_percent > 100) {
    return fail(ErrorClass::kUsage, "shared_percent {} is above 100", config.shared_percent);
  }
  if (config.flips_per_1000.value_or(0) > 1000) {
    return fail(ErrorClass::kUsage, "flips_per_1000 {} is above 1000", *config.flips_per_1000);
  }
  if (config.platform != Platform::kNone && config.hypercall_form == HypercallForm::kNone) {
    return fail(ErrorClass::kUsage,
                "platform {} needs a page-state hypercall, but none is to be advertised",
                name_of(config.platform));
  }
  return {};
}

}  // namespace sealift
