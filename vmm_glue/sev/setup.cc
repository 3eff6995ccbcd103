#include "vmm_glue/sev/setup.h"

#include <fmt/format.h>

#include <algorithm>

namespace sealift::sev {
namespace {

// LAUNCH_UPDATE_DATA's length is 32 bits; KVM pins and unpins what one command covers.
constexpr std::size_t kLaunchPieceBytes = 64u << 20;

std::uint64_t address_of(MutableBytes range) {
  return reinterpret_cast<std::uint64_t>(range.data());
}

Result<void> run(const SevVm& vm, KvmCommand command, void* data) {
  return check(issue(vm, command, data), name_of(command));
}

Result<void> encrypt_range(const SevVm& vm, MutableBytes range) {
  while (!range.empty()) {
    const MutableBytes piece = range.first(std::min(range.size(), kLaunchPieceBytes));
    KvmSevLaunchUpdateData update;
    update.uaddr = address_of(piece);
    update.len = static_cast<std::uint32_t>(piece.size());
    constexpr auto kCommand = KvmCommand::kLaunchUpdateData;
    SEALIFT_CHECK(check(issue(vm, kCommand, &update), name_of(kCommand),
                        fmt::format(" of {} bytes at {:#x}", piece.size(), update.uaddr)));
    range = range.subspan(piece.size());
  }
  return {};
}

}  // namespace

Result<SevPlatform> platform_status(const SevVm& vm) {
  SevPlatformStatus status;
  constexpr auto kCommand = SevDeviceCommand::kPlatformStatus;
  SEALIFT_CHECK(check(issue(vm, kCommand, &status), name_of(kCommand)));
  return SevPlatform{
      .api_major = status.api_major, .api_minor = status.api_minor, .build = status.build};
}

Result<void> sev_init(const SevVm& vm) { return run(vm, KvmCommand::kInit, nullptr); }

Result<void> register_memory(const SevVm& vm, std::span<const MutableBytes> ram) {
  for (const MutableBytes& range : ram) {
    KvmEncRegion region{.addr = address_of(range), .size = range.size()};
    const int result = vm.host.ioctl(vm.vm_fd, kKvmMemoryEncryptRegRegion, &region);
    if (result < 0) {
      return fail(ErrorClass::kLocalFault,
                  "KVM_MEMORY_ENCRYPT_REG_REGION of {} bytes at {:#x} failed: {}.", region.size,
                  region.addr, errno_text(-result));
    }
  }
  return {};
}

Result<Launched> launch(const SevVm& vm, std::uint32_t policy, std::span<const MutableBytes> ram,
                        std::span<const MutableBytes> encrypted) {
  SEALIFT_CHECK(sev_init(vm));
  SEALIFT_CHECK(register_memory(vm, ram));
  KvmSevStart start;
  start.policy = policy;
  SEALIFT_CHECK(run(vm, KvmCommand::kLaunchStart, &start));
  for (const MutableBytes& range : encrypted) SEALIFT_CHECK(encrypt_range(vm, range));

  Launched out;
  out.handle = start.handle;
  KvmSevLaunchMeasure measure;
  measure.uaddr = reinterpret_cast<std::uint64_t>(out.measurement.data());
  measure.len = static_cast<std::uint32_t>(out.measurement.size());
  SEALIFT_CHECK(run(vm, KvmCommand::kLaunchMeasure, &measure));
  SEALIFT_CHECK(run(vm, KvmCommand::kLaunchFinish, nullptr));
  return out;
}

Result<void> prepare_receive(const SevVm& vm, std::span<const MutableBytes> ram) {
  SEALIFT_CHECK(sev_init(vm));
  return register_memory(vm, ram);
}

}  // namespace sealift::sev
