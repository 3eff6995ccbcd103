// Gives up what root has beyond an ordinary user: Linux capabilities, for good.
//
// An agent needs read and write access to /dev/kvm (the group kvm on Debian), its certificates and
// its sockets, and nothing else. The one exception is userfaultfd's tracking of writes by KVM,
// which the kernel allows without CAP_SYS_PTRACE only where vm.unprivileged_userfaultfd is set.
//
// Spec:    capabilities(7), userfaultfd(2).
// Threads: before the process has a second one: capabilities belong to threads.
// Failure: kLocalFault.
#pragma once

#include "engine/result.h"

namespace sealift {

Result<void> drop_privileges(bool keep_userfaultfd);

}  // namespace sealift
