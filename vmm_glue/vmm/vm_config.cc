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
static_assert(static_cast<std::uint64_t>(HypercallBy::kMmio) == guest::kByMmio);
static_assert(static_cast<std::uint64_t>(HypercallBy::kVmcall) == guest::kByVmcall);
static_assert(static_cast<std::uint64_t>(HypercallBy::kVmmcall) == guest::kByVmmcall);
static_assert(static_cast<std::uint64_t>(ReadyWhen::kBooted) == guest::kReadyWhenBooted);
static_assert(static_cast<std::uint64_t>(ReadyWhen::kNever) == guest::kReadyNever);
static_assert(static_cast<std::uint64_t>(ReadyWhen::kWithdrawn) == guest::kReadyWithdrawn);

constexpr std::uint64_t kBootSectorBytes = 512;
constexpr std::uint64_t kFlatBinaryBytesMax = 512ULL << 10;  // up to 0x9000:0, below the BIOS areas

template <class Kind, std::size_t kCount>
Result<Kind> parse_kind(const char* what, const std::array<Kind, kCount>& kinds,
                        std::string_view name) {
  std::string names;
  for (Kind kind : kinds) {
    if (name == name_of(kind)) return kind;
    names += names.empty() ? "" : ", ";
    names += name_of(kind);
  }
  return fail(ErrorClass::kUsage, "{} '{}' is none of {}", what, name, names);
}

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

const char* name_of(Program program) {
  switch (program) {
    case Program::kChecker:
      return "checker";
    case Program::kBootSector:
      return "boot-sector";
    case Program::kFlatBinary:
      return "flat-binary";
  }
  return "invalid program";
}

const char* name_of(HypercallBy by) {
  switch (by) {
    case HypercallBy::kAuto:
      return "auto";
    case HypercallBy::kMmio:
      return "mmio";
    case HypercallBy::kVmcall:
      return "vmcall";
    case HypercallBy::kVmmcall:
      return "vmmcall";
  }
  return "invalid hypercall instruction";
}

Result<HypercallBy> parse_hypercall_by(std::string_view name) {
  constexpr std::array kKinds = {HypercallBy::kAuto, HypercallBy::kMmio, HypercallBy::kVmcall,
                                 HypercallBy::kVmmcall};
  return parse_kind("hypercall-by", kKinds, name);
}

const char* name_of(ReadyWhen when) {
  switch (when) {
    case ReadyWhen::kBooted:
      return "booted";
    case ReadyWhen::kNever:
      return "never";
    case ReadyWhen::kWithdrawn:
      return "withdrawn";
  }
  return "invalid readiness";
}

Result<ReadyWhen> parse_ready_when(std::string_view name) {
  constexpr std::array kKinds = {ReadyWhen::kBooted, ReadyWhen::kNever, ReadyWhen::kWithdrawn};
  return parse_kind("ready", kKinds, name);
}

const char* name_of(MemoryBacking backing) {
  switch (backing) {
    case MemoryBacking::kMemfd:
      return "memfd";
    case MemoryBacking::kHugePages:
      return "hugepages";
  }
  return "invalid memory backing";
}

Result<MemoryBacking> parse_memory_backing(std::string_view name) {
  constexpr std::array kKinds = {MemoryBacking::kMemfd, MemoryBacking::kHugePages};
  return parse_kind("memory-backing", kKinds, name);
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

namespace {

// A program that we did not write knows nothing of our mailbox: what only the checker can do is
// refused.
Result<void> check_foreign_program(const VmConfig& config) {
  if (config.backend != Backend::kKvm) {
    return fail(ErrorClass::kUsage, "a {} needs backend=kvm: modelled vCPUs run only the checker",
                name_of(config.program));
  }
  if (config.program_path.empty()) {
    return fail(ErrorClass::kUsage, "a {} needs a file", name_of(config.program));
  }
  if (!config.image_path.empty()) {
    return fail(ErrorClass::kUsage,
                "image={} needs the checker, which keeps it; this guest runs a {}",
                config.image_path, name_of(config.program));
  }
  if (config.vcpus > 1 && !config.irqchip) {
    return fail(ErrorClass::kUsage,
                "{} vCPUs of a {} need irqchip=on: without it nobody can start the second",
                config.vcpus, name_of(config.program));
  }
  return {};
}

// The host cannot write private pages either, so nothing can be in them when the guest starts.
Result<void> check_sw_protected(const VmConfig& config) {
  if (config.backend != Backend::kKvm) {
    return fail(ErrorClass::kUsage, "platform sw-protected needs backend=kvm");
  }
  if (config.program != Program::kChecker || !config.image_path.empty()) {
    return fail(ErrorClass::kUsage,
                "a guest of platform sw-protected runs the checker, without an image: the host "
                "cannot write private pages");
  }
  if (config.dirty != DirtyBackend::kAuto && config.dirty != DirtyBackend::kUffd) {
    return fail(ErrorClass::kUsage,
                "dirty={} is not possible with platform sw-protected: KVM has no dirty log of "
                "guest_memfd slots; use uffd",
                name_of(config.dirty));
  }
  return {};
}

}  // namespace

std::uint64_t program_bytes_max(Program program) {
  return program == Program::kBootSector ? kBootSectorBytes : kFlatBinaryBytesMax;
}

Result<void> check_config(const VmConfig& config) {
  SEALIFT_TRY(const GuestPlan plan,
              plan_guest(config.memory_bytes, config.vcpus, 0, config.populated_percent));
  if (config.shared_percent > 100) {
    return fail(ErrorClass::kUsage, "shared_percent {} is above 100", config.shared_percent);
  }
  if (config.flips_per_1000.value_or(0) > 1000) {
    return fail(ErrorClass::kUsage, "flips_per_1000 {} is above 1000", *config.flips_per_1000);
  }
  if (config.program != Program::kChecker) SEALIFT_CHECK(check_foreign_program(config));
  if (config.irqchip && config.backend != Backend::kKvm) {
    return fail(ErrorClass::kUsage, "irqchip=on needs backend=kvm");
  }
  if (config.memory_backing == MemoryBacking::kHugePages &&
      config.memory_bytes % kHugePageBytes != 0) {
    return fail(ErrorClass::kUsage, "guest memory of {} bytes is no multiple of {}-byte huge pages",
                config.memory_bytes, kHugePageBytes);
  }
  if (config.platform == Platform::kSwProtected) SEALIFT_CHECK(check_sw_protected(config));
  if (config.platform != Platform::kNone && config.hypercall_form == HypercallForm::kNone) {
    return fail(ErrorClass::kUsage,
                "platform {} needs a page-state hypercall, but none is to be advertised",
                name_of(config.platform));
  }
  return {};
}

}  // namespace sealift
