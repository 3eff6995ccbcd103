#include "tools/migrate-sim/chooser.h"

#include "engine/assert.h"

namespace sealift::sim {
namespace {

constexpr std::uint32_t kMilestonesOfARun = 10;
constexpr std::uint32_t kPlacesOfARun = 500;
constexpr std::uint32_t kPlacesAfterMilestone = 24;

}  // namespace

SeededChooser::SeededChooser(std::uint64_t seed, std::uint32_t strikes_max) : random_(seed) {
  strikes_left_ = static_cast<std::uint32_t>(random_() % (strikes_max + 1));
  aim();
}

std::uint32_t SeededChooser::pick(std::uint32_t n) {
  SEALIFT_ASSERT(n > 0);
  return static_cast<std::uint32_t>(random_() % n);
}

void SeededChooser::aim() {
  waits_for_milestone_ = random_() % 3 != 0;
  milestones_to_go_ = static_cast<std::uint32_t>(random_() % kMilestonesOfARun);
  places_to_go_ = static_cast<std::uint32_t>(
      random_() % (waits_for_milestone_ ? kPlacesAfterMilestone : kPlacesOfARun));
}

void SeededChooser::milestone() {
  if (!waits_for_milestone_) return;
  if (milestones_to_go_ == 0) {
    waits_for_milestone_ = false;
  } else {
    --milestones_to_go_;
  }
}

bool SeededChooser::strikes() {
  if (healed() || strikes_left_ == 0 || waits_for_milestone_) return false;
  if (places_to_go_ > 0) {
    --places_to_go_;
    return false;
  }
  --strikes_left_;
  aim();
  return true;
}

std::uint32_t PathChooser::pick(std::uint32_t n) {
  SEALIFT_ASSERT(n > 0);
  if (n == 1) return 0;
  if (next_ == path_.size()) path_.push_back({0, n});
  const Answer& answer = path_[next_++];
  SEALIFT_ASSERT(answer.of == n && answer.chosen < n);
  return answer.chosen;
}

bool PathChooser::strikes() {
  if (healed() || strikes_left_ == 0) return false;
  if (pick(2) == 0) return false;
  --strikes_left_;
  return true;
}

}  // namespace sealift::sim
