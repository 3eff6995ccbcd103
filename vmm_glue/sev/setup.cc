#include "vmm_glue/sev/setup.h"

#include <fmt/format.h>
#include <linux/capability.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <string>

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

// Of this thread, as the kernel asks when it pins memory; one in a user namespace of our own would
// not count there, and then the kernel's ENOMEM says so.
bool may_lock_any_memory() {
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3] = {};
  if (::syscall(SYS_capget, &header, sets) != 0) return false;
  return (sets[CAP_TO_INDEX(CAP_IPC_LOCK)].effective & CAP_TO_MASK(CAP_IPC_LOCK)) != 0;
}

// Words for ENOMEM, which KVM gives for a limit and for a want of memory alike.
std::string memlock_advice(std::span<const MutableBytes> ram) {
  const std::uint64_t limit = memlock_limit_bytes();
  if (limit == std::numeric_limits<std::uint64_t>::max()) {
    return " RLIMIT_MEMLOCK does not bind this process: the host has no such memory to pin.";
  }
  std::uint64_t wanted = kPageBytes;  // while a page is exported or imported
  for (const MutableBytes& range : ram) wanted += range.size();
  return fmt::format(
      " KVM pins all RAM of the guest: RLIMIT_MEMLOCK is {} bytes, this guest needs {}. Raise it "
      "(ulimit -l, LimitMEMLOCK= of the service) or grant CAP_IPC_LOCK.",
      limit, wanted);
}

}  // namespace

std::uint64_t memlock_limit_bytes() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_MEMLOCK, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY ||
      may_lock_any_memory()) {
    return std::numeric_limits<std::uint64_t>::max();
  }
  return limit.rlim_cur;
}

Result<SevPlatform> platform_status(const SevVm& vm) {
  SevPlatformStatus status;
  constexpr auto kCommand = SevDeviceCommand::kPlatformStatus;
  SEALIFT_CHECK(check(issue(vm, kCommand, &status), name_of(kCommand)));
  return SevPlatform{
      .api_major = status.api_major, .api_minor = status.api_minor, .build = status.build};
}

Result<void> sev_init(const SevVm& vm, std::uint32_t policy) {
  return run(vm, (policy & kPolicyEs) != 0 ? KvmCommand::kEsInit : KvmCommand::kInit, nullptr);
}

Result<bool> kernel_moves_vmsa(const SevVm& vm) {
  constexpr auto kCommand = KvmCommand::kSendUpdateVmsa;
  const CommandResult outcome = issue(vm, kCommand, nullptr);
  if (outcome.result == -EINVAL) return false;
  if (outcome.result == -EFAULT) return true;
  SEALIFT_CHECK(check(outcome, name_of(kCommand), " (without data)"));
  return fail(ErrorClass::kLocalFault, "{} accepted a call without data.", name_of(kCommand));
}

Result<void> register_memory(const SevVm& vm, std::span<const MutableBytes> ram) {
  for (const MutableBytes& range : ram) {
    KvmEncRegion region{.addr = address_of(range), .size = range.size()};
    const int result = vm.host.ioctl(vm.vm_fd, kKvmMemoryEncryptRegRegion, &region);
    if (result < 0) {
      return fail(ErrorClass::kLocalFault,
                  "KVM_MEMORY_ENCRYPT_REG_REGION of {} bytes at {:#x} failed: {}.{}", region.size,
                  region.addr, errno_text(-result),
                  result == -ENOMEM ? memlock_advice(ram) : std::string());
    }
  }
  return {};
}

Result<Launched> launch(const SevVm& vm, std::uint32_t policy, std::span<const MutableBytes> ram,
                        std::span<const MutableBytes> encrypted, const CreateVcpus& create_vcpus) {
  SEALIFT_CHECK(sev_init(vm, policy));
  if (create_vcpus) SEALIFT_CHECK(create_vcpus());
  SEALIFT_CHECK(register_memory(vm, ram));
  KvmSevStart start;
  start.policy = policy;
  SEALIFT_CHECK(run(vm, KvmCommand::kLaunchStart, &start));
  for (const MutableBytes& range : encrypted) SEALIFT_CHECK(encrypt_range(vm, range));
  if ((policy & kPolicyEs) != 0) SEALIFT_CHECK(run(vm, KvmCommand::kLaunchUpdateVmsa, nullptr));

  Launched out;
  out.handle = start.handle;
  KvmSevLaunchMeasure measure;
  measure.uaddr = reinterpret_cast<std::uint64_t>(out.measurement.data());
  measure.len = static_cast<std::uint32_t>(out.measurement.size());
  SEALIFT_CHECK(run(vm, KvmCommand::kLaunchMeasure, &measure));
  SEALIFT_CHECK(run(vm, KvmCommand::kLaunchFinish, nullptr));
  return out;
}

Result<void> prepare_receive(const SevVm& vm, std::span<const MutableBytes> ram,
                             std::uint32_t policy) {
  SEALIFT_CHECK(sev_init(vm, policy));
  return register_memory(vm, ram);
}

}  // namespace sealift::sev
