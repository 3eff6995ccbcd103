// Commands: the helper program's operations as calls. Moves what belongs to them through mailbox
// and buffer, enters, and turns the answer into values and errors.
//
// Spec:    mailbox.h. Owner: exporter or importer; the HelperVcpu outlives it.
// Threads: one at a time.
// Failure: kMalformed for what only a peer can have caused (key, proof, tag, order, seal),
// kLocalFault
//          for the rest. After any failure of a command on keys or pages the program has erased its
//          keys.
#pragma once

#include <array>
#include <span>

#include "engine/memory_layout.h"
#include "engine/result.h"
#include "engine/types.h"
#include "vmm_glue/inguest/blobs.h"
#include "vmm_glue/inguest/helper_vcpu.h"
#include "vmm_glue/inguest/mailbox.h"

namespace sealift::inguest {

class Commands {
 public:
  Commands(HelperVcpu& helper, const MemoryLayout& ram) : helper_(helper), ram_(ram) {}

  Result<void> restart();
  Result<IdentityBlob> identify();
  Result<StartBlob> offer(const IdentityBlob& peer);
  Result<void> accept(const StartBlob& start);
  // REQUIRES: at most kEntriesMax gfns, and kPageAuthBytes and kPageBytes for each.
  Result<void> export_pages(std::uint32_t epoch, std::span<const Gfn> gfns, MutableBytes auth,
                            MutableBytes body);
  Result<void> import_pages(std::uint32_t epoch, std::span<const Gfn> gfns, ByteView auth,
                            ByteView body);
  Result<SealTag> seal();
  Result<void> check_seal(const SealTag& tag);
  Result<void> wipe();

 private:
  Result<void> run(Operation operation, const char* name, Mailbox& mailbox);
  std::byte* buffer() { return helper_.shared().data() + kPageBytes; }

  HelperVcpu& helper_;
  const MemoryLayout ram_;
};

}  // namespace sealift::inguest
