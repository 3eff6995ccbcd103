// PrivateMemory: guest memory as the guest's key sees it. The software SEV platform implements it
// with a real cipher; the modelled vCPU reads and writes private pages through it. The host's own
// view of the same bytes is ciphertext.
//
// Owner: the software platform; lives as long as its VM. Threads: any; accesses to one 16-byte
// block are not atomic against each other, as on a memory bus. Failure: none; addresses outside the
// registered memory assert.
#pragma once

#include <cstddef>

#include "engine/types.h"

namespace sealift {

class PrivateMemory {
 public:
  virtual ~PrivateMemory() = default;
  // `host` points into registered guest memory; any 8-byte aligned address, sizes multiples of 8.
  virtual void load(const std::byte* host, MutableBytes out) const = 0;
  virtual void store(std::byte* host, ByteView in) = 0;
};

}  // namespace sealift
