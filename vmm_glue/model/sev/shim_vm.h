// SoftVm: what the modelled KVM keeps for a VM (struct kvm_sev_info) and its vCPUs.
//
// Owner:   SoftSevHost; a mirror keeps the VM alive whose context it shares.
// Threads: the host's mailbox mutex is held, save for the atomics and the bytes of a VMSA.
// Failure: none.
// Invariants
//   I1  `active` VMs have an ASID and a view. A mirror has those of its owner, and no regions.
//   I2  every VMSA is registered in the MemoryController.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "vmm_glue/abi/sev_abi.h"
#include "vmm_glue/model/sev/memory_controller.h"
#include "vmm_glue/model/sev/shim_ghcb.h"
#include "vmm_glue/model/sev/soft_sev_host.h"

namespace sealift::sev {

struct alignas(kPageBytes) VmsaPage {
  std::array<std::byte, kVmsaBytes> bytes{};
};

struct SoftVcpu {
  std::unique_ptr<VmsaPage> vmsa;  // SEV-ES only
  bool encrypted = false;          // the VMSA is (guest_state_protected)
  GhcbState ghcb;
};

struct SoftVm {
  explicit SoftVm(VmType its_type) : type(its_type) {}

  const VmType type;
  bool active = false;
  bool es = false;
  bool dead = false;        // moved away: EIO to everything
  bool terminated = false;  // by its guest
  std::uint32_t asid = 0;
  std::uint32_t handle = 0;
  // The number, looked up again for each command. 0, which is never /dev/sev, until a START or COPY
  // sets it; MOVE does not.
  std::uint32_t sev_fd = 0;
  GhcbVersions ghcb;
  std::uint64_t ap_jump_table = 0;
  std::vector<KvmEncRegion> regions;
  std::uint64_t pages_locked = 0;
  std::vector<SoftVcpu> vcpus;
  std::shared_ptr<SoftVm> owner;  // whose context this mirror shares
  std::vector<SoftVm*> mirrors;   // they keep this VM alive and take themselves out
  std::unique_ptr<GuestView> view;
  // Published after each ioctl for those who do not take the mailbox mutex.
  std::atomic<GuestState> state{GuestState::kUninit};
  std::atomic<bool> may_run{false};
};

}  // namespace sealift::sev
