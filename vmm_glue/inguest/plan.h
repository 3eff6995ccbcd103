// HelperPlan: where the helper's memory lies in guest physical memory, and the page tables that put
// it behind the program's addresses (mailbox.h).
//
// Everything is in the first GiB boundary beyond RAM and the 32-bit hole: the guest's RAM layout
// does not change, and a host that can address the RAM can address the helper. The two sides of a
// migration need not agree on it. A VMM that gives devices addresses beyond RAM keeps them out of
// this GiB.
//   plain   mailbox, buffer, code, tables; the host reads and writes it, and so can KVM's emulator
//   secret  stack and data of the program; guest_memfd where the VM has private memory
//   bell    no memory: reading it is the program's exit
// Plain values. Failure: kUsage for a guest too large for the window.
#pragma once

#include "engine/memory_layout.h"
#include "engine/result.h"
#include "engine/types.h"
#include "vmm_glue/inguest/mailbox.h"

namespace sealift::inguest {

inline constexpr std::uint64_t kSharedPages = 1 + kEntriesMax;  // mailbox and buffer

struct HelperPlan {
  GfnRange plain;
  GfnRange secret;
  Gpa bell{};
  std::uint64_t tables_page = 0;  // within plain: the top-level table
};

Result<HelperPlan> plan_helper(const MemoryLayout& ram);

// Fills code and tables. REQUIRES: `plain` is the plain memory of plan_helper(ram), zeroed.
void write_program(const HelperPlan& plan, const MemoryLayout& ram, MutableBytes plain);

}  // namespace sealift::inguest
