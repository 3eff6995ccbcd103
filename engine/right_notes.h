// RightNotes: where a side writes down what it does with the right to run, before it does it.
//
// Spec:    docs/spec/handover.md, "What is durable before what".
// Owner:   the agent, with a journal behind it (journal/journal.h); outlives the runner.
// Threads: the session's control thread.
// Failure: kRefused: nothing was written, and what the step needs is not there. Any other: the note
//          is not durable, or nobody knows. The session then acts as if this side had died before
//          the step.
#pragma once

#include <cstdint>
#include <string>

#include "engine/records.h"
#include "engine/result.h"

namespace sealift {

enum class RightStep : std::uint8_t {
  kBegun,       // source, before SessionStart
  kOffered,     // destination, before SessionAccept
  kReady,       // destination, before Ready
  kCommitting,  // source, before Handover
  kTaken,       // destination, before the guest runs
  kReleased,    // source, before its copy is closed
  kKept,        // source, when the migration is over and the right stayed
  kDiscarded,   // destination, before it says so
};
const char* name_of(RightStep step);

struct RightFacts {
  Claim claim;
  std::string guest;  // the source's name for it
  std::string peer;   // what the other side calls itself
  std::string reason;
  Digest page_map_digest{};  // of the final page map; zeros: not known yet
};

class RightNotes {
 public:
  virtual ~RightNotes() = default;
  // Returns once it is durable.
  virtual Result<void> note(RightStep step, const RightFacts& facts) = 0;
};

}  // namespace sealift
