// GuestBytes: guest memory as an exit decoder reads and writes it: shared pages, by guest physical
// address.
//
// Owner:   the VMM; outlives the vCPUs.
// Threads: any vCPU thread. The guest's other vCPUs may write the same bytes at any time: a decoder
//          copies once and checks the copy.
// Failure: false when the range is not wholly shared RAM; nothing was copied then.
#pragma once

#include "engine/types.h"

namespace sealift {

class GuestBytes {
 public:
  virtual ~GuestBytes() = default;
  virtual bool read(Gpa gpa, MutableBytes out) const = 0;
  // Marks the pages dirty after the write: the platform's log does not see the VMM's own writes.
  virtual bool write(Gpa gpa, ByteView in) = 0;
};

}  // namespace sealift
