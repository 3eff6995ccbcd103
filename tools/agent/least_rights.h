// Gives up, for good, what an agent does not need: the Linux capabilities that root has beyond an
// ordinary user, and to start programs.
//
// An agent needs read and write access to /dev/kvm (the group kvm on Debian), its certificates and
// its sockets, and nothing else. One that has hooks starts those.
//
// Spec:    capabilities(7), seccomp(2).
// Threads: before the process has a second one: capabilities and filters
//          belong to threads.
// Failure: kLocalFault.
#pragma once

#include "engine/result.h"

namespace sealift {

Result<void> drop_privileges();
// After drop_privileges(). execve() and its like are answered EPERM.
Result<void> forbid_programs();

}  // namespace sealift
