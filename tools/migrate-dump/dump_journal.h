// A journal of the right to run in words: one line for each record, then what holds. Format:
// docs/spec/journal.md.
//
// Plain functions, any thread. The file may be of a crashed agent, torn or damaged, and may be
// written meanwhile: no lock is taken, nothing is written. Texts are shown without control
// characters.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "engine/result.h"
#include "engine/types.h"

namespace sealift {

bool looks_like_journal(ByteView file);

struct JournalDump {
  std::size_t records = 0;     // printed
  std::optional<Error> error;  // damage, or records that cannot follow each other
};

JournalDump dump_journal(ByteView file, const std::function<void(std::string_view)>& print);

}  // namespace sealift
