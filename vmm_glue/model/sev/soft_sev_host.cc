#include "vmm_glue/model/sev/soft_sev_host.h"

#include <cerrno>
#include <map>
#include <mutex>
#include <shared_mutex>
#include <span>
#include <utility>

#include "engine/assert.h"
#include "vmm_glue/model/sev/psp_device.h"
#include "vmm_glue/model/sev/shim.h"

namespace sealift::sev {
namespace {

constexpr int kFirstFd = 1 << 24;

// KVM has SEV-ES where the platform has it and ASIDs are set aside for it.
bool has_es(const FirmwareConfig& firmware) {
  return firmware.es_capable && firmware.sev_asid_min > 1;
}

KvmShimConfig shim_config(const SoftSevConfig& config) {
  return {.kernel = config.kernel,
          .moves_vmsa = config.kernel_moves_vmsa,
          .sev_enabled = config.sev_enabled,
          .es_enabled = has_es(config.firmware),
          .asids = config.firmware.asids,
          .sev_asid_min = config.firmware.sev_asid_min,
          .memlock_limit_bytes = config.memlock_limit_bytes};
}

}  // namespace

// Locks are taken in this order: mailbox, table, the memory controller's own.
struct SoftSevHost::Impl {
  explicit Impl(SoftSevConfig config)
      : knows_types(config.kernel != KernelProfile::kLinux6_1 && config.sev_enabled),
        knows_es_type(knows_types && has_es(config.firmware)),
        random(config.random != nullptr ? *config.random : system_random),
        memory(random, config.firmware.asids),
        firmware(config.firmware, random, memory),
        psp(firmware, user, std::move(config.latency), std::move(config.fault),
            has_es(config.firmware)),
        shim(shim_config(config), {firmware, memory, psp, user},
             [this](int fd) { return find_vm(fd); }) {}

  // REQUIRES: the fd is a VM of this host.
  SoftVm& vm(int vm_fd) const {
    const std::shared_lock lock(table_mutex);
    const auto found = vms.find(vm_fd);
    SEALIFT_ASSERT(found != vms.end());
    return *found->second;
  }
  std::shared_ptr<SoftVm> find_vm(int fd) const {
    const std::shared_lock lock(table_mutex);
    const auto found = vms.find(fd);
    return found == vms.end() ? nullptr : found->second;
  }
  SoftVm& es_vm(int vm_fd) const {
    SoftVm& found = vm(vm_fd);
    SEALIFT_ASSERT(found.es);
    return found;
  }

  // As PLATFORM_STATUS has it, without the mailbox: nobody issued that command.
  std::uint64_t guest_count() {
    MailboxPlatformStatus status;
    firmware.command(MailboxCommand::kPlatformStatus,
                     std::as_writable_bytes(std::span(&status, 1)));
    return status.guest_count;
  }

  const bool knows_types;  // of VMs: SEV, and SEV-ES
  const bool knows_es_type;
  SystemRandom system_random;
  RandomSource& random;
  MemoryController memory;

  mutable std::mutex mailbox;  // guards firmware, psp, shim and all of a SoftVm but its atomics
  UserMemory user;
  Firmware firmware;
  PspDevice psp;
  KvmShim shim;
  int next_fd = kFirstFd;

  mutable std::shared_mutex table_mutex;  // guards the map, not what it points to
  std::map<int, std::shared_ptr<SoftVm>> vms;
};

SoftSevHost::SoftSevHost(SoftSevConfig config) : impl_(std::make_unique<Impl>(std::move(config))) {}
SoftSevHost::~SoftSevHost() = default;

int SoftSevHost::create_vm(VmType type) {
  if (type == VmType::kSev && !impl_->knows_types) return -EINVAL;
  if (type == VmType::kSevEs && !impl_->knows_es_type) return -EINVAL;
  const std::lock_guard mailbox(impl_->mailbox);
  const std::unique_lock table(impl_->table_mutex);
  const int fd = impl_->next_fd++;
  impl_->vms.emplace(fd, std::make_shared<SoftVm>(type));
  return fd;
}

void SoftSevHost::destroy_vm(int vm_fd) {
  const std::lock_guard mailbox(impl_->mailbox);
  std::shared_ptr<SoftVm> vm = impl_->find_vm(vm_fd);
  SEALIFT_ASSERT(vm != nullptr);
  {
    const std::unique_lock table(impl_->table_mutex);
    impl_->vms.erase(vm_fd);
  }
  impl_->shim.release(std::move(vm));
}

int SoftSevHost::open_sev(bool writable) {
  const std::lock_guard mailbox(impl_->mailbox);
  const int fd = impl_->next_fd++;
  impl_->psp.open(fd, writable);
  return fd;
}

void SoftSevHost::close_sev(int sev_fd) {
  const std::lock_guard mailbox(impl_->mailbox);
  impl_->psp.close(sev_fd);
}

int SoftSevHost::ioctl(int fd, unsigned long request, void* arg) {
  const std::lock_guard mailbox(impl_->mailbox);
  if (impl_->psp.is_open(fd)) return impl_->psp.ioctl(fd, request, arg);
  const std::shared_ptr<SoftVm> vm = impl_->find_vm(fd);
  return vm != nullptr ? impl_->shim.ioctl(vm, request, arg) : -EBADF;
}

std::uint32_t SoftSevHost::create_vcpu(int vm_fd) {
  const std::lock_guard mailbox(impl_->mailbox);
  return impl_->shim.create_vcpu(impl_->vm(vm_fd));
}

MutableBytes SoftSevHost::vmsa(int vm_fd, std::uint32_t vcpu) {
  const std::lock_guard mailbox(impl_->mailbox);
  return impl_->es_vm(vm_fd).vcpus.at(vcpu).vmsa->bytes;
}

GhcbReply SoftSevHost::ghcb_msr(int vm_fd, std::uint32_t vcpu, std::uint64_t value) {
  const std::lock_guard mailbox(impl_->mailbox);
  return impl_->shim.ghcb_msr(impl_->es_vm(vm_fd), vcpu, value);
}

void SoftSevHost::set_ap_jump_table(int vm_fd, std::uint64_t gpa) {
  const std::lock_guard mailbox(impl_->mailbox);
  impl_->es_vm(vm_fd).ap_jump_table = gpa;
}

std::uint64_t SoftSevHost::ap_jump_table(int vm_fd) const {
  const std::lock_guard mailbox(impl_->mailbox);
  return impl_->es_vm(vm_fd).ap_jump_table;
}

PrivateMemory& SoftSevHost::guest_view(int vm_fd) {
  const std::lock_guard mailbox(impl_->mailbox);
  SoftVm& vm = impl_->vm(vm_fd);
  SEALIFT_ASSERT(vm.view != nullptr);
  return *vm.view;
}

GuestState SoftSevHost::guest_state(int vm_fd) const { return impl_->vm(vm_fd).state; }

bool SoftSevHost::may_run(int vm_fd) const { return impl_->vm(vm_fd).may_run; }

void SoftSevHost::set_fault(FaultHook hook) {
  const std::lock_guard mailbox(impl_->mailbox);
  impl_->psp.set_fault(std::move(hook));
}

void SoftSevHost::remove_psp() {
  const std::lock_guard mailbox(impl_->mailbox);
  impl_->psp.remove();
}

std::uint64_t SoftSevHost::commands_issued(MailboxCommand id) const {
  const std::lock_guard mailbox(impl_->mailbox);
  return impl_->psp.issued(id);
}

EcNumber SoftSevHost::pdh_private_key() const {
  const std::lock_guard mailbox(impl_->mailbox);
  return impl_->firmware.pdh_private_key_for_tests().scalar_for_tests();
}

Leaks SoftSevHost::leaks() const {
  const std::lock_guard mailbox(impl_->mailbox);
  Leaks out{.handles = impl_->guest_count(), .asids = impl_->shim.asids_in_use()};
  const std::shared_lock table(impl_->table_mutex);
  for (const auto& [fd, vm] : impl_->vms) {
    out.regions += vm->regions.size();
    out.locked_pages += vm->pages_locked;
  }
  return out;
}

}  // namespace sealift::sev
