// WrittenPages: which pages of mappings of this process were written, by userfaultfd's asynchronous
// write protection: the kernel itself lifts the protection of a page at its first write, nobody
// waits, and PAGEMAP_SCAN finds such pages and protects them again in one step for each page.
//
// Spec:    Linux Documentation/admin-guide/mm/userfaultfd.rst and pagemap.rst;
//          PAGEMAP_SCAN(2const). Linux 6.7. No privilege is needed: the descriptor is opened
//          UFFD_USER_MODE_ONLY, which unprivileged processes may, and which forbids only faults
//          that somebody must handle; KVM's faults and system calls' are resolved like all others.
// Owner:   UffdTracker. Watching ends with the object.
// Threads: one at a time, beside threads that write.
// Failure: kLocalFault saying what the kernel lacks or refuses, or with errno and the range.
// Invariants:
//   I1  Protected from watch() on, pages not there yet included (WP_ASYNC implies WP_UNPOPULATED):
//       the first scan gives what was written since, no more.
//   I2  A written page that the kernel has swapped out, dropped from the page table or replaced
//       counts as written.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "engine/result.h"
#include "vmm_glue/abi/page_scan.h"
#include "vmm_glue/vmm/kvm_handle.h"

namespace sealift {

// Half-open run of pages of a mapping, counted from the mapping's first.
struct PageRun {
  std::uint64_t first = 0;
  std::uint64_t pages = 0;
};

class WrittenPages {
 public:
  // Tries it with one page.
  static Result<void> probe();
  static Result<WrittenPages> open();

  // REQUIRES: page-aligned; of huge pages: aligned to these.
  Result<void> watch(std::span<std::byte> memory);
  // Calls `sink(PageRun)` for every run of written pages of `memory`, which watch() had, and
  // watches them again before the call. On failure the rest of the memory is given to the sink as
  // written.
  template <class Sink>
  Result<void> take(std::span<std::byte> memory, Sink sink) {
    for (std::uint64_t at = 0; at < memory.size();) {
      Result<std::uint64_t> next = scan(memory, at);
      for (const PageRun& run : runs_) sink(run);
      if (!next) return fail(std::move(next.error()));
      at = *next;
    }
    return {};
  }

 private:
  WrittenPages(KvmHandle uffd, KvmHandle pagemap)
      : uffd_(std::move(uffd)), pagemap_(std::move(pagemap)) {}
  // Fills runs_, from byte `from` on; where the scan ended.
  Result<std::uint64_t> scan(std::span<std::byte> memory, std::uint64_t from);

  KvmHandle uffd_;
  KvmHandle pagemap_;
  std::vector<PageRegion> regions_;
  std::vector<PageRun> runs_;
};

}  // namespace sealift
