// One record of the journal: what a side did with the right to run a guest.
//
// Spec:    docs/spec/journal.md, "Records".
// Threads: plain values and functions.
// Failure: check_right() says what a record cannot hold.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "engine/result.h"
#include "engine/types.h"

namespace sealift {

// Values on disk: append only, never renumber.
enum class JournalKind : std::uint8_t {
  kBegun = 1,       // source: a migration begins; the right is here
  kOffered = 2,     // destination: prepares to receive
  kReady = 3,       // destination: everything has arrived and was checked
  kCommitting = 4,  // source: the hand-over may have left from here on
  kTaken = 5,       // destination: has the right and will run the guest
  kReleased = 6,    // source: the destination runs it, the copy here is closed
  kKept = 7,        // source: the migration is over, the right stayed here
  kDiscarded = 8,   // destination: never ran under this migration, and never will
  kCeded = 9,       // source: has lost its copy and gives the right to the destination
};
const char* name_of(JournalKind kind);  // "Begun"
std::optional<JournalKind> kind_named(std::string_view name);

enum class JournalSide : std::uint8_t { kSource, kDestination };
const char* name_of(JournalSide side);
JournalSide side_of(JournalKind kind);

using MigrationId = std::array<std::byte, 16>;  // drawn at random by the source
using Digest32 = std::array<std::byte, 32>;

// What a migration moves: the right to run one guest, from generation g to g + 1.
struct RightToRun {
  MigrationId migration{};
  std::uint64_t generation = 0;  // fencing number g of the guest before the hand-over
  std::string guest;
  std::string source;          // identities of the two hosts
  std::string destination;     // what else they are is the agents' business
  Digest32 page_map_sha256{};  // zeros: not known (yet)
  Digest32 memory_sha256{};    // zeros: not known (yet)
  friend bool operator==(const RightToRun&, const RightToRun&) = default;
};

struct JournalRecord {
  JournalKind kind = JournalKind::kBegun;
  RightToRun right;
  Digest32 mac{};                     // HMAC-SHA-256 of mac_input(), zeros without a session key
  std::uint64_t written_unix_ns = 0;  // for people; nothing is decided by it
  std::string reason;                 // for people
  friend bool operator==(const JournalRecord&, const JournalRecord&) = default;
};

inline constexpr std::size_t kGuestNameBytesMax =
    80;  // three times this and a suffix is a file name
inline constexpr std::size_t kHostIdentityBytesMax = 512;
inline constexpr std::size_t kReasonBytesMax = 1024;

// kUsage when a name is too long or empty, or the generation has no successor.
Result<void> check_right(const RightToRun& right);

// The bytes that a MAC of `kind` and `right` covers.
Bytes mac_input(JournalKind kind, const RightToRun& right);

// The name of the guest's file in the journal directory, one for each name: "web-1.journal".
std::string journal_file_name(std::string_view guest);
inline constexpr std::string_view kJournalSuffix = ".journal";

std::string hex_text(ByteView bytes);  // lower case, two digits for each byte
// The reverse of hex_text().
std::optional<MigrationId> migration_id_of(std::string_view hex);

}  // namespace sealift
