// The bytes of the KVM guest's program, embedded in this library: loaded at kCodeGfn, entered at
// the first byte. A constant: no ownership, any thread, no failure.
#pragma once

#include "engine/types.h"

namespace sealift {

ByteView payload_image();

}  // namespace sealift
