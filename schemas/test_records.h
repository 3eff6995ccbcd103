// Records for the tests of the codec: one of each type, small and at its limits. Plain functions,
// test code only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "engine/limits.h"
#include "engine/records.h"

namespace sealift::test_records {

// `size` bytes that are not all alike.
Bytes pattern(std::size_t size, unsigned int seed = 1);

SharedBatch shared_batch(std::size_t pages);  // every second page raw
LivePages live_pages();
PrivateBatch private_batch(std::size_t entries);  // 52 bytes of page auth; ops 1 to 5 in turn

// Small, every field set to something that is not its default.
std::vector<Record> typical();
// Every list, text and number of each type as large as the limits let it be.
std::vector<Record> largest();
// Every list and text empty, every number as small as the specification lets it be.
std::vector<Record> smallest();

}  // namespace sealift::test_records
