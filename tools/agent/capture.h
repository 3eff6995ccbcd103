// Captures: the exact bytes one side sends, in a file that `migrate-dump` reads.
//
// A capture holds the guest's shared pages as they are; private pages are ciphertext. The file is
// its owner's alone. Owner: the tap owns the file. Threads: as FrameWriter calls it, one at a time.
// Failure: open_capture() is kUsage with errno; a write that fails ends the capture, never the
// migration, and leaves a file that ends inside a frame.
#pragma once

#include <string>

#include "engine/result.h"
#include "transport/frame.h"

namespace sealift {

// Replaces an existing file.
// A regular file that nobody but its owner can read from now on, whatever its mode was. Shared with
// secrets_file.h. `what` names it in the error.
Result<int> open_private_file(const std::string& path, const char* what);
Result<FrameTap> open_capture(const std::string& path);

}  // namespace sealift
