// A captured stream in words: one line for each frame. Format: docs/spec/wire.md.
//
// Plain functions, any thread. The capture may be hostile: it is checked as a receiver would check
// it, and text of a peer holds no control characters once it is decoded. Nothing of the guest's
// memory is printed, only which pages travel.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "engine/records.h"
#include "engine/result.h"
#include "engine/types.h"

namespace sealift {

// The key fields of a record: "epoch 3, 2 pages (1 zero): gfn 0x10-0x11".
std::string describe(const Record& record);

struct DumpResult {
  std::uint64_t frames = 0;    // printed
  std::optional<Error> error;  // why the dump stopped before the end, with the offset in the text
};

// Calls `print` with one line, without a line break, for each good frame up to the first bad one.
DumpResult dump_stream(ByteView bytes, const std::function<void(std::string_view)>& print);

}  // namespace sealift
