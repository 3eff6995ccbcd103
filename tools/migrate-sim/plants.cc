#include "tools/migrate-sim/plants.h"

#include <algorithm>

namespace sealift::sim {

const std::array<PlantText, kPlants>& plants() {
  static constexpr std::array<PlantText, kPlants> kAll{{
      {Plant::kNone, "none", "what is shipped"},
      {Plant::kResumeOnLostReply, "resume-on-lost-reply",
       "the source runs on when no reply to Handover comes"},
      {Plant::kEofIsSuccess, "eof-is-success",
       "the source takes a closed link after Handover for Running, and closes its copy"},
      {Plant::kTakeByWaiting, "take-by-waiting",
       "the destination takes the right when the link is lost while it waits for Handover"},
      {Plant::kRunBeforeTaken, "run-before-taken",
       "the destination runs the guest, and writes Taken afterwards"},
      {Plant::kHandoverBeforeCommitting, "handover-before-committing",
       "the source sends Handover, and writes Committing afterwards"},
      {Plant::kReadyNotNoted, "ready-not-noted", "the destination says Ready without writing it"},
      {Plant::kTakenNotNoted, "taken-not-noted", "the destination runs without writing Taken"},
      {Plant::kSyncLies, "sync-lies", "records are acted on before they are synced"},
      {Plant::kDirectorySyncLies, "directory-sync-lies",
       "a new journal is used before its name is synced"},
      {Plant::kNoteFailureIgnored, "note-failure-ignored",
       "a session goes on when the journal did not take a record"},
      {Plant::kCancelAfterHandover, "cancel-after-handover",
       "the source obeys a cancel after Handover"},
      {Plant::kReleaseBeforeRunning, "release-before-running",
       "the source closes its platform's side with Handover, not after Running"},
      {Plant::kDropWhenLinkIsLost, "drop-when-link-is-lost",
       "the destination discards a complete copy when the link is lost, and a source that has "
       "lost its own finds none"},
      {Plant::kHumanGuesses, "human-guesses",
       "recover takes an agent that does not answer for dead"},
      {Plant::kRelaunch, "relaunch",
       "a restarted agent launches its guest, whatever its journal says"},
      {Plant::kBusyIsNotSaid, "busy-is-not-said",
       "an agent does not say that a session is still at work"},
      {Plant::kLastHarvestLeftOut, "last-harvest-left-out",
       "the dirty log is not fetched after the pause"},
      {Plant::kConversionNotDirty, "conversion-not-dirty",
       "a conversion does not mark its page dirty"},
      {Plant::kPauseReturnsEarly, "pause-returns-early",
       "vCPUs still run while the last round is sent"},
      {Plant::kBatchLost, "batch-lost", "pages of a later epoch are acknowledged and not applied"},
      {Plant::kGenerationTwice, "generation-twice",
       "a source claims a generation that is not the guest's"},
      {Plant::kStateNotLoaded, "state-not-loaded", "the destination does not load vCPU state"},
  }};
  return kAll;
}

std::string_view name_of(Plant plant) { return plants()[static_cast<std::size_t>(plant)].name; }

std::optional<Plant> plant_named(std::string_view name) {
  const auto found = std::find_if(plants().begin(), plants().end(),
                                  [&](const PlantText& text) { return text.name == name; });
  if (found == plants().end()) return std::nullopt;
  return found->plant;
}

}  // namespace sealift::sim
