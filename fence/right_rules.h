// What a host may write about a guest's right, given what it has read. Pure.
//
// Spec:       docs/spec/handover.md, "Lock manager".
// Threads:    plain functions.
// Failure:    a verdict with one sentence for people.
// Invariants:
//   R1  Generations never fall, and grow whenever the owner, or the copy that may run, changes.
//   R2  A right passes to another host only if its owner offered it to that host under that
//       migration, or its owner's lease has ended and a person, or a record that binds the owner,
//       says that its copy is gone.
//   R3  An owner that offered its right runs the guest again only in a later generation, so that
//       the offer is void for ever.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "engine/result.h"
#include "fence/lock_manager.h"

namespace sealift {

enum class RightVerdict : std::uint8_t {
  kWrite,    // `next`, under one's own lease if `holds`
  kAlready,  // it is so: an earlier write of one's own has happened
  kWait,     // not now: a lease that is in the way may end
  kNever,    // another has it
};

struct RightMove {
  RightVerdict verdict = RightVerdict::kNever;
  GuestRight next;
  bool holds = true;
  std::string why;  // of kWait and kNever
};

// This host, and the lease it holds now.
struct LockSelf {
  std::string host;
  LeaseId lease;
};

// To boot the guest here, afresh. `take_over`: a person says that whatever another host had of it
// is gone; its lease must have ended all the same.
RightMove to_launch(const LockState& seen, const LockSelf& self, std::uint64_t generation_min,
                    bool take_over);
// The same right under a new lease, after the old one ended.
RightMove to_retake(const LockState& seen, const LockSelf& self, std::uint64_t generation);
// Source: before Handover leaves.
RightMove to_offer(const LockState& seen, const LockSelf& self, std::uint64_t generation,
                   const std::string& destination, const std::string& migration);
// Source: takes an offer back, into a generation of its own.
RightMove to_keep(const LockState& seen, const LockSelf& self, std::uint64_t generation,
                  const std::string& migration);
// Destination: takes what was offered to it, or, with `ceded`, what a source without a copy has
// left.
RightMove to_accept(const LockState& seen, const LockSelf& self, std::uint64_t generation,
                    const std::string& source, const std::string& migration, bool ceded);
// Destination: what it took and has not run goes back to the source, which may take it again.
RightMove to_return(const LockState& seen, const LockSelf& self, std::uint64_t generation,
                    const std::string& source, const std::string& migration);
// The guest has ended here: whoever wants may launch it.
RightMove to_give_up(const LockState& seen, const LockSelf& self, std::uint64_t generation);

using RightRule = std::function<RightMove(const LockState&, const LockSelf&)>;

struct RightTaken {
  RightVerdict verdict = RightVerdict::kNever;  // kAlready: it is so; otherwise why it is not
  GuestRight right;                             // as it is now; of kAlready
  std::string why;
};
inline constexpr unsigned kWritesMax = 5;
// Reads, judges and writes until the rule says that it is so, or that it cannot be. An error: the
// lock manager did not answer, and whether something was written is not known.
Result<RightTaken> carry_out(LockManager& locks, const std::string& guest, const LockSelf& self,
                             const RightRule& rule);

}  // namespace sealift
