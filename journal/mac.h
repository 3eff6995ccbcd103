// The MAC of a journal record, under a key that only the two agents of its session have.
//
// Spec:    docs/spec/journal.md, "MAC".
// Threads: plain functions. Failure: none; OpenSSL out of memory is an assertion.
#pragma once

#include <array>
#include <cstddef>

#include "journal/record.h"

namespace sealift {

using SessionKey = std::array<std::byte, 32>;

// Label of the TLS exporter that makes the key of a session's first connection.
inline constexpr const char* kSessionKeyLabel = "EXPORTER-sealift-right-to-run-v1";

Digest32 record_mac(const SessionKey& key, JournalKind kind, const RightToRun& right);
// Takes the same time whichever byte differs.
bool is_record_mac(const SessionKey& key, JournalKind kind, const RightToRun& right,
                   const Digest32& mac);

}  // namespace sealift
