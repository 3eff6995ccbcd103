// Records for the tests of journal/. Plain functions, one test.
#pragma once

#include <cstdint>
#include <vector>

#include "journal/record.h"

namespace sealift::test {

// Migration `number` of guest "web-1" from generation `generation`, host "alder" to host "birch".
RightToRun right_of(std::uint8_t number, std::uint64_t generation);
JournalRecord record_of(JournalKind kind, std::uint8_t number, std::uint64_t generation);

// A life of a guest: moved away, come back, kept, asked about, refused, away again. Every record
// may follow the one before it.
std::vector<JournalRecord> life_of_a_guest();
// `count` migrations that were begun and kept: two records each.
std::vector<JournalRecord> kept_migrations(std::uint8_t count);

}  // namespace sealift::test
