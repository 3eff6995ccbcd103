// Plants: bugs that somebody could have written, each found by the simulator or the simulator is
// broken. They are put on at the world's border, around shipped code; nothing shipped knows them.
//
// Threads: plain values.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

namespace sealift::sim {

enum class Plant : std::uint8_t {
  kNone,
  kResumeOnLostReply,
  kEofIsSuccess,
  kTakeByWaiting,
  kRunBeforeTaken,
  kHandoverBeforeCommitting,
  kReadyNotNoted,
  kTakenNotNoted,
  kSyncLies,
  kDirectorySyncLies,
  kNoteFailureIgnored,
  kCancelAfterHandover,
  kReleaseBeforeRunning,
  kDropWhenLinkIsLost,
  kHumanGuesses,
  kRelaunch,
  kBusyIsNotSaid,
  kLastHarvestLeftOut,
  kConversionNotDirty,
  kPauseReturnsEarly,
  kBatchLost,
  kGenerationTwice,
  kStateNotLoaded,
};
inline constexpr std::size_t kPlants = 23;

struct PlantText {
  Plant plant;
  std::string_view name;
  std::string_view what;
};
const std::array<PlantText, kPlants>& plants();
std::string_view name_of(Plant plant);
std::optional<Plant> plant_named(std::string_view name);

}  // namespace sealift::sim
