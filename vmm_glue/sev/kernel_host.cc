#include "vmm_glue/sev/kernel_host.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "engine/assert.h"
#include "vmm_glue/abi/sev_abi.h"

namespace sealift::sev {
namespace {

constexpr const char* kKvmPath = "/dev/kvm";
constexpr const char* kSevPath = "/dev/sev";

Failure failure(const char* what, int error_number) {
  return fail(ErrorClass::kLocalFault, "{}: {}.", what, errno_text(error_number));
}

}  // namespace

Result<KernelSevHost> KernelSevHost::open() {
  const int kvm = ::open(kKvmPath, O_RDWR | O_CLOEXEC);
  if (kvm < 0) return failure(kKvmPath, errno);
  KernelSevHost host(kvm);
  SEALIFT_TRY(const int sev, host.open_sev(false));
  host.close(sev);
  SEALIFT_TRY(const int vm, host.create_vm());
  const int enabled = host.ioctl(vm, kKvmMemoryEncryptOp, nullptr);
  host.close(vm);
  if (enabled < 0) return failure("KVM_MEMORY_ENCRYPT_OP (is SEV enabled?)", -enabled);
  return host;
}

KernelSevHost::KernelSevHost(KernelSevHost&& other) noexcept
    : kvm_fd_(std::exchange(other.kvm_fd_, -1)), fds_(std::exchange(other.fds_, {})) {}

KernelSevHost::~KernelSevHost() {
  for (const int fd : fds_) ::close(fd);
  if (kvm_fd_ >= 0) ::close(kvm_fd_);
}

int KernelSevHost::ioctl(int fd, unsigned long request, void* arg) {
  return kernel_.ioctl(fd, request, arg);
}

Result<int> KernelSevHost::keep(int fd, const char* what) {
  if (fd < 0) return failure(what, errno);
  fds_.push_back(fd);
  return fd;
}

Result<int> KernelSevHost::create_vm(unsigned long type) {
  return keep(::ioctl(kvm_fd_, KVM_CREATE_VM, type), "KVM_CREATE_VM");
}

Result<int> KernelSevHost::create_vcpu(int vm_fd, std::uint32_t index) {
  return keep(::ioctl(vm_fd, KVM_CREATE_VCPU, static_cast<unsigned long>(index)),
              "KVM_CREATE_VCPU");
}

Result<int> KernelSevHost::open_sev(bool writable) {
  return keep(::open(kSevPath, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC), kSevPath);
}

void KernelSevHost::close(int fd) {
  const auto found = std::find(fds_.begin(), fds_.end(), fd);
  SEALIFT_ASSERT(found != fds_.end());
  fds_.erase(found);
  ::close(fd);
}

}  // namespace sealift::sev
