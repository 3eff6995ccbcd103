// Setting up a SEV guest before it is launched or received.
//
// Spec:    Linux 6.1 Documentation/virt/kvm/x86/amd-memory-encryption.rst: INIT before any vCPU;
//          every page of RAM is registered (pinned) before first use, because its ciphertext is
//          bound to its physical address.
// Owner:   free functions on a SevVm. Threads: the VMM's setup thread.
// Failure: kLocalFault with the command, errno and firmware status; the VM is of no further use
//          then.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
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

// INIT. REQUIRES: no vCPU yet.
Result<void> sev_init(const SevVm& vm);

// REG_REGION over each range of guest RAM. RLIMIT_MEMLOCK counts it all.
Result<void> register_memory(const SevVm& vm, std::span<const MutableBytes> ram);

struct Launched {
  std::uint32_t handle = 0;
  std::array<std::byte, kMeasurementBytes> measurement{};
};
// INIT, REG_REGION over `ram`, LAUNCH_START with `policy`, LAUNCH_UPDATE_DATA over `encrypted`
// (within `ram`; encrypts in place, and is what the measurement covers), LAUNCH_MEASURE,
// LAUNCH_FINISH.
Result<Launched> launch(const SevVm& vm, std::uint32_t policy, std::span<const MutableBytes> ram,
                        std::span<const MutableBytes> encrypted);

// INIT and REG_REGION: ready for SevImporter::begin().
Result<void> prepare_receive(const SevVm& vm, std::span<const MutableBytes> ram);

}  // namespace sealift::sev
