// Copies between host buffers and memory that a running guest may write at the same time.
//
// A page read while the guest writes it may be torn: dirty tracking sends it again. Words are
// copied with relaxed atomics so that the race is defined and ThreadSanitizer stays useful for
// everything else. Threads: any. Failure: none. REQUIRES: guest addresses and sizes are multiples
// of 8.
#pragma once

#include <cstddef>
#include <span>

#include "engine/types.h"

namespace sealift {

void copy_from_guest(const std::byte* guest, MutableBytes out);
void copy_to_guest(std::byte* guest, ByteView in);

}  // namespace sealift
