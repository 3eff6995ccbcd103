// keep_vm PROGRAM [ARGUMENT]…: runs a program while one more VM exists.
//
// Linux rewrites its own code when the first VM or vCPU is made and when the last one goes: static
// keys in the scheduler and in KVM. An emulated CPU may translate such code between QEMU's
// discarding of the old translation and the write, and then runs the old bytes for ever: a CPU
// hangs, or a vCPU's state is not saved when its thread is scheduled out, and its guest ends in a
// triple fault. Tests make and drop VMs by the hundred; with this one alive the code stays as it
// is.
#include <fcntl.h>
#include <unistd.h>

#include <cstdio>

#include "vmm_glue/vmm/kvm_vcpu.h"

namespace sealift {
namespace {

// The VM belongs to a descriptor that the program inherits and never looks at.
Result<void> make_vm() {
  SEALIFT_TRY(const KvmSystem system, KvmSystem::open());
  SEALIFT_TRY(const int vm, SEALIFT_KVM(system.handle, KVM_CREATE_VM, 0UL));
  if (fcntl(vm, F_SETFD, 0) != 0) return fail(ErrorClass::kLocalFault, "fcntl failed");
  if (const int vcpu = ioctl(vm, KVM_CREATE_VCPU, 0UL); vcpu < 0) {
    return fail(ErrorClass::kLocalFault, "KVM_CREATE_VCPU failed: {}", strerrorname_np(errno));
  }
  return {};
}

}  // namespace
}  // namespace sealift

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  if (const auto made = sealift::make_vm(); !made) {
    std::fprintf(stderr, "keep_vm: %s\n", made.error().detail.c_str());
    return 1;
  }
  execvp(argv[1], argv + 1);
  std::perror(argv[1]);
  return 1;
}
