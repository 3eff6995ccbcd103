// HelperVcpu: the line between the in-guest exporter and importer above and what runs the helper
// program below: a vCPU of the guest's own VM (kvm_helper.h), or in tests the same program in their
// own process.
//
// Owner:   the VM, or the test; outlives exporter and importer.
// Threads: one at a time.
// Failure: kLocalFault when the program ended, or did not come back in time, with the exit in the
//          text.
#pragma once

#include "engine/result.h"
#include "engine/types.h"

namespace sealift::inguest {

class HelperVcpu {
 public:
  virtual ~HelperVcpu() = default;
  // The program from its beginning to its first bell. Nothing of an earlier session is left.
  virtual Result<void> restart() = 0;
  // One command: from the bell to the next bell.
  virtual Result<void> enter() = 0;
  // Mailbox page, then kEntriesMax pages of buffer; shared with the program and, while they run,
  // with the guest's vCPUs: hostile.
  virtual MutableBytes shared() = 0;
};

}  // namespace sealift::inguest
