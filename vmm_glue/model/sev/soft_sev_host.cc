#include "vmm_glue/model/sev/soft_sev_host.h"

#include <cerrno>
#include <mutex>
#include <shared_mutex>
#include <utility>

#include "engine/assert.h"
#include "vmm_glue/model/sev/psp_device.h"
#include "vmm_glue/model/sev/shim.h"

namespace sealift::sev {
namespace {

constexpr int kFirstFd = 1 << 24;

}  // namespace

// Locks are taken in this order: mailbox, table, the memory controller's own.
struct SoftSevHost::Impl {
  explicit Impl(SoftSevConfig config)
      : random(config.random != nullptr ? *config.random : system_random),
        memory(random, config.firmware.asids),
        firmware(config.firmware, random, memory),
        psp(firmware, std::move(config.latency), std::move(config.fault)),
        shim(firmware, memory, psp, config.firmware.asids) {}

  // REQUIRES: the fd is a VM of this host.
  SoftVm& vm(int vm_fd) const {
    const std::shared_lock lock(table_mutex);
    const auto found = vms.find(vm_fd);
    SEALIFT_ASSERT(found != vms.end());
    return *found->second;
  }
  SoftVm* find_vm(int fd) const {
    const std::shared_lock lock(table_mutex);
    const auto found = vms.find(fd);
    return found == vms.end() ? nullptr : found->second.get();
  }

  SystemRandom system_random;
  RandomSource& random;
  MemoryController memory;

  mutable std::mutex mailbox;  // guards firmware, psp, shim and all of a SoftVm but its atomics
  Firmware firmware;
  PspDevice psp;
  KvmShim shim;
  int next_fd = kFirstFd;

  mutable std::shared_mutex table_mutex;  // guards the map, not what it points to
  std::map<int, std::unique_ptr<SoftVm>> vms;
};

SoftSevHost::SoftSevHost(SoftSevConfig config) : impl_(std::make_unique<Impl>(std::move(config))) {}
SoftSevHost::~SoftSevHost() = default;

int SoftSevHost::create_vm() {
  const std::lock_guard mailbox(impl_->mailbox);
  const std::unique_lock table(impl_->table_mutex);
  const int fd = impl_->next_fd++;
  impl_->vms.emplace(fd, std::make_unique<SoftVm>());
  return fd;
}

void SoftSevHost::destroy_vm(int vm_fd) {
  const std::lock_guard mailbox(impl_->mailbox);
  impl_->shim.destroy(impl_->vm(vm_fd));
  const std::unique_lock table(impl_->table_mutex);
  impl_->vms.erase(vm_fd);
}

int SoftSevHost::open_sev() {
  const std::lock_guard mailbox(impl_->mailbox);
  const int fd = impl_->next_fd++;
  impl_->psp.open(fd);
  return fd;
}

void SoftSevHost::close_sev(int sev_fd) {
  const std::lock_guard mailbox(impl_->mailbox);
  impl_->psp.close(sev_fd);
}

int SoftSevHost::ioctl(int fd, unsigned long request, void* arg) {
  const std::lock_guard mailbox(impl_->mailbox);
  if (impl_->psp.is_open(fd)) return impl_->psp.ioctl(request, arg);
  SoftVm* vm = impl_->find_vm(fd);
  return vm != nullptr ? impl_->shim.ioctl(*vm, request, arg) : -EBADF;
}

PrivateMemory& SoftSevHost::guest_view(int vm_fd) {
  const std::lock_guard mailbox(impl_->mailbox);
  SoftVm& vm = impl_->vm(vm_fd);
  SEALIFT_ASSERT(vm.view != nullptr);
  return *vm.view;
}

GuestState SoftSevHost::guest_state(int vm_fd) const { return impl_->vm(vm_fd).state; }

bool SoftSevHost::may_run(int vm_fd) const {
  const SoftVm& vm = impl_->vm(vm_fd);
  const GuestState state = vm.state;
  return vm.bound && (state == GuestState::kRunning || state == GuestState::kSendUpdate);
}

void SoftSevHost::set_fault(FaultHook hook) {
  const std::lock_guard mailbox(impl_->mailbox);
  impl_->psp.set_fault(std::move(hook));
}

std::uint64_t SoftSevHost::commands_issued(MailboxCommand id) const {
  const std::lock_guard mailbox(impl_->mailbox);
  return impl_->psp.issued(id);
}

}  // namespace sealift::sev
