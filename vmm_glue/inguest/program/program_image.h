// The bytes of the helper program, embedded in this library: loaded behind kProgramVa, entered at
// the first byte. A constant: no ownership, any thread, no failure.
#pragma once

#include "engine/types.h"

namespace sealift::inguest {

ByteView program_image();

}  // namespace sealift::inguest
