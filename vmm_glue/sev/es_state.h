// The vCPUs of a SEV-ES guest: their registers leave in a VMSA that only the firmware reads, and
// what KVM keeps beside it (GHCB registration, AP jump table) has to go along.
//
// Spec:    docs/spec/wire.md, "SEV-ES state". The kernel's commands are MODEL CHOICES of
//          abi/sev_abi.h: no mainline kernel has them (setup.h, kernel_moves_vmsa).
// Owner:   free functions; the Binding is the session's. Threads: as the exporter and importer.
// Failure: kLocalFault with the command; kMalformed for what the peer sent and does not fit. All
//          items are checked before the first command.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/guest_port.h"
#include "engine/limits.h"
#include "engine/result.h"
#include "vmm_glue/sev/binding.h"
#include "vmm_glue/sev/command.h"

namespace sealift::sev {

inline constexpr const char* kEsStateName = "sev-es.vmsa";
inline constexpr std::uint32_t kEsStateVersion = 1;
inline constexpr std::size_t kEsStateHeadBytes = 32;  // before the packet header
inline constexpr std::size_t kEsStateBytes =
    kEsStateHeadBytes + kPacketHeaderBytes + kVmsaBytes + sizeof(Digest);
static_assert(kEsStateBytes <= limits::kStateBlobBytesMax);

// One item for each vCPU, in order. REQUIRES: no vCPU runs.
Result<std::vector<StateBlob>> save_es_state(const SevVm& vm, std::uint32_t vcpus,
                                             Binding& binding);
// REQUIRES: the VM has `vcpus` vCPUs.
Result<void> load_es_state(const SevVm& vm, std::uint32_t vcpus,
                           const std::vector<StateBlob>& state, Binding& binding);

}  // namespace sealift::sev
