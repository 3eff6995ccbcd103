// The system calls a vCPU thread may make, enforced by seccomp: a guest that breaks out of its
// device emulation finds no file, socket or process to reach.
//
// Spec:    seccomp(2). The list is in vcpu_sandbox.cc, each entry with what needs it.
// Threads: holds for the calling thread, for ever.
// Failure: kLocalFault when the kernel has no seccomp. A forbidden call ends the process (SIGSYS):
//          the state of a VMM that was broken into must not be migrated. Only opening a file is
//          refused (EPERM) instead, because malloc tries it.
#pragma once

#include "engine/result.h"

namespace sealift {

Result<void> enter_vcpu_sandbox();

}  // namespace sealift
