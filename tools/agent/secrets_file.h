// Secrets that a test needs to open a captured stream with a program of its own
// (tests/stream_checker). Never written unless the operator of a test asks for it by name.
//
// One line for each: name, a space, hex. The file is its owner's alone. Threads: as RevealSecret is
// called, one at a time. Failure: kUsage with errno; a line that cannot be written is left out.
#pragma once

#include <string>

#include "engine/result.h"
#include "tools/agent/machine.h"

namespace sealift {

// Replaces an existing file.
Result<RevealSecret> open_secrets_file(const std::string& path);

}  // namespace sealift
