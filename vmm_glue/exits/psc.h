// The SNP page-state-change buffer: up to 253 entries in, as few conversions as they allow out.
//
// Spec:    AMD 56421 and Linux 7.3 KVM (snp_begin_psc) for the order of checks, the result codes
//          and what is written back. KVM parses the buffer itself since 6.11; a VMM does so on the
//          kernels of exits/vmgexit.h.
// Threads: any vCPU thread; Converter orders concurrent conversions.
// Failure: none: whatever the buffer holds, there is an answer. Reserved bits that are set make the
//          header or the entry invalid.
// Invariants:
//   I1  The buffer is decided on by one copy of it: end_entry and every entry are latched.
//   I2  A run of contiguous entries is one convert(). It is then marked complete in guest memory
//       (cur_page of each entry, cur_entry), before the next run begins. A run that was not
//       converted is left unmarked, and cur_entry names its first entry.
//   I3  Nothing else of the buffer is written: not end_entry, not `reserved`, no entry of another
//       run.
//   I4  At most kPscEntriesMax convert() calls, of at most 512 pages for each entry.
#pragma once

#include <cstdint>
#include <string>

#include "engine/memory_layout.h"
#include "engine/types.h"
#include "vmm_glue/abi/ghcb.h"
#include "vmm_glue/exits/converter.h"
#include "vmm_glue/exits/guest_bytes.h"

namespace sealift {

enum class PscRefusal : std::uint8_t {
  kNone = 0,
  kLater,         // the converter's: the rest is left for the guest to ask again
  kBadHeader,     // end_entry past the buffer, or reserved bits
  kBadEntry,      // cur_page above the size, gfn not aligned to it, or reserved bits
  kNotRam,        // the run is not wholly RAM
  kFailed,        // the converter's
  kUnwritable,    // converted, but the buffer stopped being shared RAM: progress is not recorded
  kOtherRequest,  // not a page-state change
  kBadOperation,  // MSR form: neither private nor shared
  kReservedBits,  // MSR form
  kNoGhcb,        // the GHCB is not wholly shared RAM
  kBadUsage,
  kMissingField,  // the valid bitmap lacks a field that the event needs
  kBadScratch,    // the buffer is not inside the GHCB's shared buffer
};

struct PscOutcome {
  PscRefusal refusal = PscRefusal::kNone;
  std::uint64_t answer = 0;           // SW_EXITINFO2, or the MSR's response
  std::uint64_t converted_pages = 0;  // also before a refusal
  std::uint32_t conversions = 0;
};
std::string describe(const PscOutcome& outcome);  // one line for a log

// `copy` is the buffer as read from `buffer`, header first; its size is the room there is.
// REQUIRES: copy.size() >= sizeof(PscHeader).
PscOutcome change_page_states(ByteView copy, Gpa buffer, const MemoryLayout& layout,
                              Converter& converter, GuestBytes& guest);

// Operation to class; false for the operations that ask nothing of a host (PSMASH, UNSMASH, …).
bool class_wanted(PscOperation operation, PageClass& cls);
PscRefusal refusal_of(Converted answer);

}  // namespace sealift
