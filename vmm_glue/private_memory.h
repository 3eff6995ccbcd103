// PrivateMemory: what a modelled vCPU asks of its platform: guest memory as the guest's key sees
// it, where hardware keeps its registers, and whether it may run at all. The software SEV platform
// implements it with a real cipher. The host's own view of the same bytes is ciphertext.
//
// Owner: the software platform; lives as long as its VM. Threads: any; accesses to one 16-byte
// block are not atomic against each other, as on a memory bus. Failure: none; addresses outside the
// registered memory assert.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "engine/types.h"

namespace sealift {

class PrivateMemory {
 public:
  virtual ~PrivateMemory() = default;
  // `host` points into registered guest memory; any 8-byte aligned address, sizes multiples of 8.
  virtual void load(const std::byte* host, MutableBytes out) const = 0;
  virtual void store(std::byte* host, ByteView in) = 0;

  // Why the platform lets no vCPU of this guest enter it (SEV: it was sent away); empty: it may.
  virtual std::string why_not_run() const { return {}; }
  // The page, read and written through load() and store(), where a vCPU's registers are kept while
  // it does not run, because the host must not see them (SEV-ES: the VMSA). Null: the host keeps
  // them.
  virtual std::byte* register_page(std::uint32_t vcpu) const {
    (void)vcpu;
    return nullptr;
  }
};

}  // namespace sealift
