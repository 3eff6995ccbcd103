// The records of protocol version 1 as engine types. Bytes and rules: docs/spec/wire.md; codec:
// schemas/. Plain values. "source" sends the guest, "destination" receives it. The codec bounds
// every length before it allocates; meaning (order, epochs, totals) is checked by SourceSession and
// DestinationSession.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "engine/batch.h"
#include "engine/guest_port.h"
#include "engine/memory_layout.h"
#include "engine/result.h"
#include "engine/types.h"

namespace sealift {

inline constexpr std::uint16_t kProtocolVersionMin = 1;
inline constexpr std::uint16_t kProtocolVersionMax = 1;

using Digest = std::array<std::byte, 32>;

// First record in each direction.
struct Hello {
  std::uint16_t version_min = kProtocolVersionMin;
  std::uint16_t version_max = kProtocolVersionMax;
  std::string agent_name;  // for messages
  std::string build;       // software and version, for messages
  Platform platform = Platform::kNone;
  std::string backend;  // "kvm" or "model": state of one does not load into the other
  std::uint32_t page_bytes = kPageBytes;
  std::vector<GfnRange> memory;  // guest memory layout, checked with MemoryLayout::make
  std::uint32_t vcpus = 1;
  std::uint64_t features = 0;         // kFeature…; what both offer is used
  std::uint32_t batch_pages_max = 0;  // the most this side accepts in a batch
  std::uint8_t streams_max = 1;
  bool check_only = false;  // the source only asks whether a migration would be accepted
  friend bool operator==(const Hello&, const Hello&) = default;
};

// destination → source, right after its Hello when both offer kFeaturePlatformCard: what its
// platform says of itself before anything moves (SEV: certificates, versions, C-bit; vmm_glue's
// driver reads it).
struct PlatformCard {
  Bytes card;
  friend bool operator==(const PlatformCard&, const PlatformCard&) = default;
};

// source → destination, before SessionStart when both offer kFeatureJournal: which attempt this is,
// for the journals of both sides.
struct Claim {
  std::array<std::byte, 16> migration{};  // drawn at random
  std::uint64_t generation = 0;           // of the guest before the hand-over
  friend bool operator==(const Claim&, const Claim&) = default;
};

// source → destination, with kFeatureStreams: on stream 0 before SessionStart the secret of the
// session, and then the first frame of each further connection, with the same.
using StreamSecret = std::array<std::byte, 16>;
struct StreamJoin {
  std::uint8_t stream = 0;
  StreamSecret secret{};  // drawn at random for this session
  friend bool operator==(const StreamJoin&, const StreamJoin&) = default;
};

// source → destination, in a session of several streams: the epoch's Conversions have come, and its
// pages may be applied on every stream.
struct EpochBegin {
  std::uint32_t epoch = 0;
  friend bool operator==(const EpochBegin&, const EpochBegin&) = default;
};

// source → destination: a migration begins. The page map follows as Conversions of epoch 0.
struct SessionStart {
  std::string guest_name;
  std::uint8_t streams = 1;
  bool verify = false;  // record a digest of memory at the hand-over
  friend bool operator==(const SessionStart&, const SessionStart&) = default;
};

// destination → source: the platform identity that the source's firmware encrypts for.
struct SessionAccept {
  Bytes identity;
  friend bool operator==(const SessionAccept&, const SessionAccept&) = default;
};

// source → destination: what the destination's firmware needs to receive (SEV: policy, PDH, session
// data).
struct PlatformStart {
  Bytes start;
  friend bool operator==(const PlatformStart&, const PlatformStart&) = default;
};

// destination → source: the firmware is ready; pages may come.
struct SessionReady {
  friend bool operator==(const SessionReady&, const SessionReady&) = default;
};

// source → destination, before the first page of the epoch: the class by which its pages travel.
struct Conversions {
  std::uint32_t epoch = 0;
  std::vector<GfnRange> to_shared;
  std::vector<GfnRange> to_private;
  friend bool operator==(const Conversions&, const Conversions&) = default;
};

// source → destination, on every stream: nothing more of this epoch comes on this stream. Totals
// are the stream's.
struct EpochEnd {
  std::uint32_t epoch = 0;
  std::uint8_t stream = 0;
  std::uint64_t shared_pages = 0;  // zero pages included
  std::uint64_t private_pages = 0;
  Bytes token;  // platform's epoch token, stream 0 only
  friend bool operator==(const EpochEnd&, const EpochEnd&) = default;
};

// destination → source: every page of the epoch has been applied.
struct EpochAck {
  std::uint32_t epoch = 0;
  friend bool operator==(const EpochAck&, const EpochAck&) = default;
};

// source → destination: everything has been sent; totals over all epochs.
struct Finish {
  std::uint32_t epochs = 0;
  std::uint64_t shared_pages = 0;
  std::uint64_t private_pages = 0;
  std::uint32_t state_items = 0;
  Digest page_map_digest{};
  Bytes token;  // PrivateExporter::seal()
  friend bool operator==(const Finish&, const Finish&) = default;
};

// destination → source: all checked and loaded; the guest could run here.
struct Ready {
  std::uint64_t load_state_ns = 0;
  std::uint64_t seal_ns = 0;
  friend bool operator==(const Ready&, const Ready&) = default;
};

// source → destination: the only record that moves the right to run. Once sent, the source never
// resumes by itself.
struct Handover {
  friend bool operator==(const Handover&, const Handover&) = default;
};

// destination → source: the guest runs here.
struct Running {
  std::uint64_t resume_ns = 0;
  friend bool operator==(const Running&, const Running&) = default;
};

// One side's last journal record of a migration (docs/spec/journal.md), as it tells the other.
struct RightWord {
  Claim claim;
  std::string guest;
  std::string source;  // identities of the hosts, as its record has them
  std::string destination;
  Digest page_map_sha256{};  // zeros: not known
  Digest memory_sha256{};
  std::uint8_t record = 0;  // kind of the journal record; 0: not in its journal
  bool has_guest = false;   // in its memory; or, at a destination, gone on from there
  std::uint8_t proven = 0;  // kind of its last record that has a MAC; 0: none has
  Digest mac{};             // that record's
  friend bool operator==(const RightWord&, const RightWord&) = default;
};

// source → destination, after the Hellos on a connection of its own, with kFeatureInquiry: what
// became of this migration?
struct Inquiry {
  RightWord word;
  friend bool operator==(const Inquiry&, const Inquiry&) = default;
};

// destination → source: what its journal says, after what the question made it write.
struct Answer {
  RightWord word;
  friend bool operator==(const Answer&, const Answer&) = default;
};

// Either side: the session is over; the reason, in the sender's words.
struct Abort {
  ErrorClass cls = ErrorClass::kLocalFault;
  std::string detail;
  Bytes abort_token;  // destination only: PrivateImporter::abort()
  friend bool operator==(const Abort&, const Abort&) = default;
};

// Either side, optional record: I am alive.
struct KeepAlive {
  friend bool operator==(const KeepAlive&, const KeepAlive&) = default;
};

using Record =
    std::variant<Hello, SessionStart, SessionAccept, PlatformStart, SessionReady, SharedBatch,
                 PrivateBatch, Conversions, EpochEnd, EpochAck, StateBlob, Finish, Ready, Handover,
                 Running, Abort, KeepAlive, PlatformCard, Claim, Inquiry, Answer, StreamJoin,
                 EpochBegin, LivePages>;
const char* name_of(const Record& record);

// Feature bits of Hello.
inline constexpr std::uint64_t kFeatureVerifyDigest = 1ULL << 0;
// The destination has a platform whose card the source can judge. A source always offers it.
inline constexpr std::uint64_t kFeaturePlatformCard = 1ULL << 1;
// The sender keeps a journal of the right to run.
inline constexpr std::uint64_t kFeatureJournal = 1ULL << 2;
// The sender asks and answers about migrations that were not settled (Inquiry).
inline constexpr std::uint64_t kFeatureInquiry = 1ULL << 3;
// The sender runs its guests under leases of a lock manager. Both do, or none.
inline constexpr std::uint64_t kFeatureLockManager = 1ULL << 8;

// More streams than one: StreamJoin, EpochBegin, LivePages.
inline constexpr std::uint64_t kFeatureStreams = 1ULL << 4;

// Bounded byte stream of records in both directions; schemas/ and transport/ joined. Implemented in
// tools/agent. Threads: send() from any thread, records stay whole; receive() from one thread. Both
// wake with kCancelled on cancel.
class RecordChannel {
 public:
  virtual ~RecordChannel() = default;
  virtual Result<void> send(Record record) = 0;
  virtual Result<Record> receive() = 0;
  // Drops what still comes until the peer closes or shutdown(); for a link that is being ended.
  // From the thread of receive(), also after that failed.
  virtual void drain() = 0;
  // From any thread: both directions fail from now on, blocked calls included.
  virtual void shutdown() = 0;
};

}  // namespace sealift
