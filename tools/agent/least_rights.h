// Gives up what root has beyond an ordinary user: Linux capabilities, for good.
//
// An agent needs read and write access to /dev/kvm (the group kvm on Debian), its certificates and
// its sockets, and nothing else.
//
// Spec:    capabilities(7).
// Threads: before the process has a second one: capabilities belong to threads.
// Failure: kLocalFault.
#pragma once

#include "engine/result.h"

namespace sealift {

Result<void> drop_privileges();

}  // namespace sealift
