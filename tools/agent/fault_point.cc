#include "tools/agent/fault_point.h"

#include <signal.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <charconv>
#include <string_view>

#include "engine/assert.h"

namespace sealift {
namespace {

// What a point's middle part can be: of a step that a runner performs, there is a point before and
// one after it.
constexpr std::array kSourceSteps = {"send.Hello",
                                     "send.Claim",
                                     "send.SessionStart",
                                     "send.StreamJoin",
                                     "send.PlatformStart",
                                     "send.VcpuState",
                                     "send.Finish",
                                     "send.Handover",
                                     "send.Abort",
                                     "CheckPlatform",
                                     "StartPlatform",
                                     "RunRound",
                                     "StopRound",
                                     "Survey",
                                     "Pause",
                                     "SaveState",
                                     "Seal",
                                     "Release",
                                     "Recover",
                                     "End",
                                     "Throttle",
                                     "send.DeviceState",
                                     "send.PlatformState"};
constexpr std::array kDestinationSteps = {"send.Hello",
                                          "send.PlatformCard",
                                          "send.SessionAccept",
                                          "send.SessionReady",
                                          "send.EpochAck",
                                          "send.Ready",
                                          "send.Running",
                                          "send.Abort",
                                          "AwaitStreams",
                                          "GetIdentity",
                                          "BeginPlatform",
                                          "OpenEpoch",
                                          "ApplyShared",
                                          "ApplyPrivate",
                                          "ApplyConversions",
                                          "EndEpoch",
                                          "CheckAndLoad",
                                          "Run",
                                          "Discard",
                                          "End"};
constexpr std::array kJournalSteps = {"open",  "Begun",    "Offered", "Ready",     "Committing",
                                      "Taken", "Released", "Kept",    "Discarded", "Ceded"};
constexpr std::array kPlaces = {"source.round.live", "source.round.paused"};

// The one point this process stops at. A global, which nothing else here has: points are passed in
// every layer of the agent, and handing an object down to all of them would leave it in the
// programs that have no points.
struct Wanted {
  std::string name;
  std::atomic<std::uint64_t> passings_left{0};
};
Wanted& wanted() {
  static Wanted one;
  return one;
}

template <class Steps>
void add_steps(std::string_view side, const Steps& steps, std::vector<std::string>& points) {
  for (const char* step : steps) {
    for (const char* when : {"before", "after"}) {
      points.push_back(fmt::format("{}.{}.{}", side, step, when));
    }
  }
}

struct SourceNames {
  std::string operator()(const source::Send& a) const {
    return std::string("send.") + name_of(a.record);
  }
  std::string operator()(const source::Note&) const { return "Note"; }
  std::string operator()(const source::CheckPlatform&) const { return "CheckPlatform"; }
  std::string operator()(const source::StartPlatform&) const { return "StartPlatform"; }
  std::string operator()(const source::RunRound&) const { return "RunRound"; }
  std::string operator()(const source::StopRound&) const { return "StopRound"; }
  std::string operator()(const source::Throttle&) const { return "Throttle"; }
  std::string operator()(const source::Survey&) const { return "Survey"; }
  std::string operator()(const source::Pause&) const { return "Pause"; }
  std::string operator()(const source::SaveState&) const { return "SaveState"; }
  std::string operator()(const source::Seal&) const { return "Seal"; }
  std::string operator()(const source::Release&) const { return "Release"; }
  std::string operator()(const source::Recover&) const { return "Recover"; }
  std::string operator()(const source::End&) const { return "End"; }
};

struct DestinationNames {
  std::string operator()(const destination::Send& a) const {
    return std::string("send.") + name_of(a.record);
  }
  std::string operator()(const destination::Note&) const { return "Note"; }
  std::string operator()(const destination::AwaitStreams&) const { return "AwaitStreams"; }
  std::string operator()(const destination::GetIdentity&) const { return "GetIdentity"; }
  std::string operator()(const destination::BeginPlatform&) const { return "BeginPlatform"; }
  std::string operator()(const destination::OpenEpoch&) const { return "OpenEpoch"; }
  std::string operator()(const destination::ApplyShared&) const { return "ApplyShared"; }
  std::string operator()(const destination::ApplyPrivate&) const { return "ApplyPrivate"; }
  std::string operator()(const destination::ApplyConversions&) const { return "ApplyConversions"; }
  std::string operator()(const destination::EndEpoch&) const { return "EndEpoch"; }
  std::string operator()(const destination::CheckAndLoad&) const { return "CheckAndLoad"; }
  std::string operator()(const destination::Run&) const { return "Run"; }
  std::string operator()(const destination::Discard&) const { return "Discard"; }
  std::string operator()(const destination::AnswerInquiry&) const { return "AnswerInquiry"; }
  std::string operator()(const destination::End&) const { return "End"; }
};

}  // namespace

std::vector<std::string> fault_points() {
  std::vector<std::string> points(kPlaces.begin(), kPlaces.end());
  add_steps("source", kSourceSteps, points);
  add_steps("destination", kDestinationSteps, points);
  add_steps("journal", kJournalSteps, points);
  return points;
}

Result<void> stop_at_fault_point(const std::string& spec) {
  const std::size_t colon = spec.find(':');
  const std::string name = spec.substr(0, colon);
  const std::vector<std::string> points = fault_points();
  if (std::find(points.begin(), points.end(), name) == points.end()) {
    return fail(ErrorClass::kUsage, "'{}' is no fault point; --fault-points lists them", name);
  }
  std::uint64_t passing = 1;
  if (colon != std::string::npos) {
    const char* end = spec.data() + spec.size();
    const auto [read, status] = std::from_chars(spec.data() + colon + 1, end, passing);
    if (status != std::errc() || read != end || passing == 0) {
      return fail(ErrorClass::kUsage, "'{}' is not POINT or POINT:N with N from 1", spec);
    }
  }
  wanted().name = name;
  wanted().passings_left.store(passing);
  return {};
}

std::string fault_name(const source::Action& action) { return std::visit(SourceNames{}, action); }
std::string fault_name(const destination::Action& action) {
  return std::visit(DestinationNames{}, action);
}

void pass_fault_point(const std::string& name) {
  static const std::vector<std::string> points = fault_points();
  const bool known = std::find(points.begin(), points.end(), name) != points.end();
  if (!known) fmt::print(stderr, "{} is not in fault_points()\n", name);
  SEALIFT_ASSERT(known);
  if (name != wanted().name || wanted().passings_left.fetch_sub(1) != 1) return;
  // To this thread, which thus does nothing more before the whole process stands still.
  SEALIFT_ASSERT(raise(SIGSTOP) == 0);
}

}  // namespace sealift
