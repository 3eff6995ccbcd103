// settle(): one table, read from the top; the first row that fits says it.
#include <algorithm>
#include <array>
#include <optional>

#include "engine/assert.h"
#include "journal/standing.h"

namespace sealift {
namespace {

using S = SourceStanding;
using D = DestinationStanding;

enum class Copy : std::uint8_t { kAny, kHeld, kLost };

// A set of standings, as a mask.
template <class Standing>
struct Set {
  unsigned mask = 0;
  constexpr bool has(Standing s) const { return (mask >> static_cast<unsigned>(s) & 1) != 0; }
};
template <class... Standing>
constexpr Set<S> sources(Standing... s) {
  return {((1U << static_cast<unsigned>(s)) | ...)};
}
template <class... Standing>
constexpr Set<D> destinations(Standing... d) {
  return {((1U << static_cast<unsigned>(d)) | ...)};
}
constexpr Set<S> kAnySource{(1U << kSourceStandings) - 1};
constexpr Set<D> kAnyDestination{(1U << kDestinationStandings) - 1};

struct Row {
  Set<S> source;
  Copy source_copy;
  Set<D> destination;
  Copy destination_copy;
  Verdict verdict;
  const char* reason;
};

constexpr Row kRows[] = {
    // Two that claim the right. The destination takes it only after Committing or Ceded, which are
    // durable before anything leaves: one of the journals is not the one that was written then.
    {sources(S::kOwns, S::kKept), Copy::kAny, destinations(D::kHasRight), Copy::kAny,
     Verdict::kNeedsHuman,
     "both journals claim the right to run, so one of them is not this guest's last: run neither "
     "before you know which"},
    // The destination's word counts most: it ran the guest, or may have from here on.
    {kAnySource, Copy::kAny, destinations(D::kHasRight), Copy::kHeld, Verdict::kRunDestination,
     "the destination has taken the right and has the guest"},
    // What the source may still have is older than what ran.
    {kAnySource, Copy::kAny, destinations(D::kHasRight), Copy::kLost, Verdict::kNeedsHuman,
     "the destination has taken the right and lost the guest; a copy at the source is from before "
     "that"},

    // The source has given the right away for good: only the destination can run it. Its journal
    // may have forgotten the migration after many others, or be out of reach.
    {sources(S::kReleased, S::kCeded), Copy::kAny, destinations(D::kUnknown, D::kNone), Copy::kAny,
     Verdict::kRunDestination, "the source has given the right to the destination"},
    {sources(S::kReleased, S::kCeded), Copy::kAny, destinations(D::kComplete), Copy::kHeld,
     Verdict::kRunDestination,
     "the source has given the right to the destination, which has a complete copy"},
    {sources(S::kReleased, S::kCeded), Copy::kAny, kAnyDestination, Copy::kAny,
     Verdict::kNeedsHuman,
     "the source has given the right away, and the destination has no copy that can run: the guest "
     "is lost"},

    // The right never left the source, whatever the destination has received or says.
    {sources(S::kOwns, S::kKept), Copy::kHeld, kAnyDestination, Copy::kAny, Verdict::kRunSource,
     "the right has stayed at the source, which has the guest"},
    // The right is at the source, the only copy is not. The source can only cede; Kept cannot be
    // taken back, and there a person decides.
    {sources(S::kOwns, S::kInDoubt), Copy::kLost, destinations(D::kComplete), Copy::kHeld,
     Verdict::kRunDestination,
     "the source has lost its copy and can only cede the right to the destination, which has a "
     "complete copy"},

    // In doubt with both copies: the source wanted to hand over and waits, paused, for an answer.
    // Taking and discarding would both be right; to take fits a hand-over that still arrives.
    {sources(S::kInDoubt), Copy::kHeld, destinations(D::kComplete), Copy::kHeld,
     Verdict::kRunDestination,
     "the source has committed itself to the hand-over, and the destination has a complete copy"},
    // The destination can never run it any more, and did not.
    {sources(S::kInDoubt), Copy::kHeld, destinations(D::kComplete), Copy::kLost,
     Verdict::kRunSource,
     "the destination lost its copy before it took the right, and the source has the guest"},
    {sources(S::kInDoubt), Copy::kHeld, destinations(D::kDiscarded), Copy::kAny,
     Verdict::kRunSource,
     "the destination has never run the guest and never will, and the source has it"},
    // The source commits itself only after Ready, which is durable before it is said. A journal
    // without it was lost, replaced or restored: it does not say that the guest did not run.
    {sources(S::kInDoubt), Copy::kAny, destinations(D::kNone, D::kIncomplete), Copy::kAny,
     Verdict::kNeedsHuman,
     "the source is in doubt, and the destination's journal lacks the Ready that came before: it "
     "cannot be trusted to say that the guest did not run"},
    {sources(S::kInDoubt), Copy::kAny, destinations(D::kUnknown), Copy::kAny, Verdict::kNeedsHuman,
     "the source is in doubt, and the destination cannot be asked"},

    // The right is at the source, its copy is gone, and what the destination has cannot run or
    // cannot be asked for.
    {sources(S::kOwns), Copy::kLost, destinations(D::kUnknown), Copy::kAny, Verdict::kNeedsHuman,
     "the source has lost its copy, and whether the destination has a complete one cannot be "
     "asked"},
    {sources(S::kKept), Copy::kLost, destinations(D::kComplete), Copy::kHeld, Verdict::kNeedsHuman,
     "the source has kept the right and lost the guest; the destination still has a copy, from "
     "before"},
    {sources(S::kOwns, S::kInDoubt, S::kKept), Copy::kLost, kAnyDestination, Copy::kAny,
     Verdict::kNeedsHuman,
     "the source has lost its copy, and the destination has none that can run: the guest is lost"},

    // The source cannot be asked. What can never run at the destination leaves it to the source.
    {sources(S::kUnknown), Copy::kAny, destinations(D::kDiscarded), Copy::kAny, Verdict::kRunSource,
     "the destination has never run the guest and never will"},
    {sources(S::kUnknown), Copy::kAny, destinations(D::kIncomplete), Copy::kAny,
     Verdict::kRunSource, "what the destination has received can never run"},
    {sources(S::kUnknown), Copy::kAny, destinations(D::kComplete), Copy::kLost, Verdict::kRunSource,
     "the destination lost its copy before it took the right"},
    {sources(S::kUnknown), Copy::kAny, destinations(D::kComplete), Copy::kHeld,
     Verdict::kNeedsHuman,
     "the destination has a complete copy without the right, and the source cannot be asked"},
    {sources(S::kUnknown), Copy::kAny, destinations(D::kUnknown, D::kNone), Copy::kAny,
     Verdict::kNeedsHuman, "neither side can say anything about the migration"},

    // The source's journal does not know it: it began elsewhere, or is settled and forgotten.
    {sources(S::kNone), Copy::kAny, kAnyDestination, Copy::kAny, Verdict::kNeedsHuman,
     "the source's journal does not know the migration, and the destination has not taken the "
     "right"},
};

bool fits(Copy wanted, bool has_copy) {
  return wanted == Copy::kAny || (wanted == Copy::kHeld) == has_copy;
}

}  // namespace

bool digests_agree(const RightToRun& source, const RightToRun& destination) {
  const auto agree = [](const Digest32& a, const Digest32& b) {
    return a == b || a == Digest32{} || b == Digest32{};
  };
  return agree(source.page_map_sha256, destination.page_map_sha256) &&
         agree(source.memory_sha256, destination.memory_sha256);
}

Settlement settle(SourceStanding source, bool source_has_copy, DestinationStanding destination,
                  bool destination_has_copy, bool same_guest) {
  const auto* row = std::find_if(std::begin(kRows), std::end(kRows), [&](const Row& r) {
    return r.source.has(source) && fits(r.source_copy, source_has_copy) &&
           r.destination.has(destination) && fits(r.destination_copy, destination_has_copy);
  });
  SEALIFT_ASSERT(row != std::end(kRows));
  // Of a copy that has not run yet: it is not the one that the source sealed.
  if (!same_guest && row->verdict == Verdict::kRunDestination && destination == D::kComplete) {
    return Settlement{
        Verdict::kNeedsHuman,
        "the complete copy at the destination has another page map or memory than the "
        "one that the source sealed"};
  }
  return Settlement{row->verdict, row->reason};
}

}  // namespace sealift
