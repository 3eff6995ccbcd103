// Setting up a SEV guest before it is launched or received.
//
// Spec:    Linux 6.1 Documentation/virt/kvm/x86/amd-memory-encryption.rst: INIT before any vCPU;
//          every page of RAM is registered (pinned) before first use, because its ciphertext is
//          bound to its physical address. SEV-ES: the same with ES_INIT, and LAUNCH_UPDATE_VMSA,
//          which encrypts the registers of all vCPUs, before LAUNCH_MEASURE.
// Owner:   free functions on a SevVm. Threads: the VMM's setup thread.
// Failure: kLocalFault with the command, errno and firmware status; the VM is of no further use
//          then.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "engine/result.h"
#include "engine/types.h"
#include "vmm_glue/sev/command.h"

namespace sealift::sev {

struct SevPlatform {
  std::uint8_t api_major = 0;
  std::uint8_t api_minor = 0;
  std::uint8_t build = 0;
};
// What `migrate check` asks first: is there a working /dev/sev?
Result<SevPlatform> platform_status(const SevVm& vm);

// INIT, or ES_INIT for a policy with the SEV-ES bit. REQUIRES: no vCPU yet.
Result<void> sev_init(const SevVm& vm, std::uint32_t policy = 0);

// Can this kernel move the registers of a SEV-ES guest? Asks SEND_UPDATE_VMSA without data: EINVAL
// says the number means nothing (KVM of today), EFAULT that the command is there.
Result<bool> kernel_moves_vmsa(const SevVm& vm);

// What this process may pin: RLIMIT_MEMLOCK, or UINT64_MAX when nothing limits it.
std::uint64_t memlock_limit_bytes();

// REG_REGION over each range of guest RAM. RLIMIT_MEMLOCK counts it all, and each SEND_UPDATE or
// RECEIVE_UPDATE one page more while it runs.
Result<void> register_memory(const SevVm& vm, std::span<const MutableBytes> ram);

struct Launched {
  std::uint32_t handle = 0;
  std::array<std::byte, kMeasurementBytes> measurement{};
};
// INIT, REG_REGION over `ram`, LAUNCH_START with `policy`, LAUNCH_UPDATE_DATA over `encrypted`
// (within `ram`; encrypts in place, and is what the measurement covers), LAUNCH_MEASURE,
// LAUNCH_FINISH. With the SEV-ES bit in `policy` the vCPUs are made by `create_vcpus`, between
// ES_INIT and LAUNCH_UPDATE_VMSA; without it their time is the caller's choice, after launch().
using CreateVcpus = std::function<Result<void>()>;
Result<Launched> launch(const SevVm& vm, std::uint32_t policy, std::span<const MutableBytes> ram,
                        std::span<const MutableBytes> encrypted,
                        const CreateVcpus& create_vcpus = {});

// INIT (ES_INIT) and REG_REGION: ready for SevImporter::begin(). vCPUs are made after it.
Result<void> prepare_receive(const SevVm& vm, std::span<const MutableBytes> ram,
                             std::uint32_t policy = 0);

}  // namespace sealift::sev
