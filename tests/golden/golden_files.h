// What tests/golden/ holds, made afresh from the code: the test compares these to the committed
// files.
//
// Plain functions, test code only. A golden file is never rewritten to make a test pass: bytes that
// differ from those of a released version are a change of the protocol, and docs/spec/wire.md
// changes with them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/records.h"
#include "engine/result.h"
#include "engine/types.h"
#include "schemas/codec.h"

namespace sealift::golden {

inline constexpr std::uint64_t kSession = 0x1122334455667788;

struct GoldenFile {
  std::string name;  // below tests/golden/
  Bytes bytes;       // whole frames, one after the other
  std::vector<Record> records;
};

// A stream that must be refused with a message that begins so.
struct BrokenFile {
  std::string name;
  Bytes bytes;
  std::string message;
};

std::vector<GoldenFile> golden_files();
std::vector<BrokenFile> broken_files();

// The frame of the worked example in docs/spec/wire.md.
Bytes example_frame();

Bytes frame_of(const EncodedRecord& record, std::uint64_t sequence);
// Numbers the frames of each stream from 0.
Bytes stream_of(const std::vector<EncodedRecord>& records);

// Reads a stream to its end. `whole`: it must end with a record that ends a session's direction, as
// a receiver would demand of a connection that closes.
Result<std::vector<Record>> read_stream(ByteView bytes, bool whole);

}  // namespace sealift::golden
