// One SEV command through KVM or /dev/sev, and the words for its failure.
//
// Spec:    Linux 6.1 arch/x86/kvm/svm/sev.c (sev_mem_enc_ioctl) and drivers/crypto/ccp/sev-dev.c:
//          EIO means that the firmware answered with the status in `.error`; any other errno means
//          that the kernel refused first and left `.error` as the caller set it. We set it to
//          0xffffffff.
// Owner:   SevVm is a value; its HostIoctl outlives it. sev_fd stays open as long as the VM lives:
//          KVM keeps the number, not the file, and looks it up again for each command.
// Threads: any; the kernel serialises all commands of a host.
// Failure: check() says which command failed, the errno and the firmware's status in hex and in
//          words; a time-out says what it means for the host.
#pragma once

#include <cstdint>
#include <string_view>

#include "engine/result.h"
#include "vmm_glue/abi/sev_abi.h"
#include "vmm_glue/host_ioctl.h"

namespace sealift::sev {

// The handles of one SEV guest.
struct SevVm {
  HostIoctl& host;
  int vm_fd = -1;
  int sev_fd = -1;  // /dev/sev
};

struct CommandResult {
  int result = 0;  // of the ioctl: >= 0, or -errno
  std::uint32_t firmware = kNoFirmwareCall;

  bool ok() const { return result >= 0; }
  // A length query succeeds by failing: EIO with INVALID_LENGTH, and the length written back.
  bool answers_length_query() const;
};

const char* name_of(KvmCommand command);
const char* name_of(SevDeviceCommand command);

// `data` points to the command's own struct of abi/sev_abi.h, or is null where it has none.
CommandResult issue(const SevVm& vm, KvmCommand command, void* data);
CommandResult issue(const SevVm& vm, SevDeviceCommand command, void* data);

// "SEND_UPDATE_DATA of gfn 0x12 failed: EIO (Input/output error), firmware status 0x000b …".
// `subject` is empty or starts with a space: " of gfn 0x12".
Result<void> check(const CommandResult& outcome, const char* command,
                   std::string_view subject = {});

Result<KvmSevGuestStatus> guest_status(const SevVm& vm);

}  // namespace sealift::sev
