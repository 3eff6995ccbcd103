#include "tools/agent/right_resources.h"

#include <utility>

namespace sealift {
namespace {

HookFacts facts_of(const RightToRun& right, JournalSide side, std::string reason = {}) {
  HookFacts facts;
  facts.guest = right.guest;
  facts.migration = hex_text(right.migration);
  facts.generation = right.generation;
  facts.peer = side == JournalSide::kSource ? name_in(right.destination) : right.source;
  facts.reason = std::move(reason);
  return facts;
}

// What the operator's programs were told, or were to be told, when this was a migration's last
// record and the process ended.
std::optional<HookEvent> event_left_by(JournalKind last) {
  switch (last) {
    case JournalKind::kReleased:
    case JournalKind::kCeded:
      return HookEvent::kGuestLeft;
    case JournalKind::kDiscarded:
      return HookEvent::kDiscarded;
    case JournalKind::kCommitting:
      return HookEvent::kInDoubt;
    default:  // the guest ended with the process, or the migration is open and its end is to come
      return std::nullopt;
  }
}

}  // namespace

Result<std::vector<AnnouncePort>> open_announce_ports(const std::vector<AnnounceTarget>& targets) {
  std::vector<AnnouncePort> ports;
  for (const AnnounceTarget& target : targets) {
    SEALIFT_TRY(AnnouncePort port, AnnouncePort::open(target));
    ports.push_back(std::move(port));
  }
  return ports;
}

RightResources::RightResources(ResourcesConfig config, std::string launches, Hooks::Log log)
    : launches_(std::move(launches)),
      hooks_(std::move(config.hooks), config.hook_time_max, std::move(log)),
      announcer_(std::move(config.announce)),
      locks_(std::move(config.disks)) {}

Result<void> RightResources::lock_to_run() {
  const std::lock_guard lock(mutex_);
  return locks_.acquire();
}

Result<void> RightResources::check_for_arrival() const {
  const std::lock_guard lock(mutex_);
  return locks_.check();
}

void RightResources::found(const JournalEntry& last) {
  const auto event = event_left_by(last.last);
  const bool launched_anew = last.right.guest == launches_ && is_settled(last.last);
  if (!event || launched_anew) return;
  HookFacts facts = facts_of(last.right, side_of(last.last), "the agent was restarted");
  facts.again = true;
  hooks_.fire(*event, facts);
}

Result<void> RightResources::before(JournalKind kind, const RightToRun& right) {
  const std::lock_guard lock(mutex_);
  const bool takes_back = kind == JournalKind::kKept && gave_locks_up_ && is_ours(right);
  if (kind != JournalKind::kTaken && !takes_back) return {};
  auto locked = locks_.acquire();
  if (!locked) return fail(ErrorClass::kRefused, "{}", locked.error().detail);
  return {};
}

Result<void> RightResources::after(const JournalRecord& record) {
  const std::lock_guard lock(mutex_);
  const JournalKind kind = record.kind;
  const RightToRun& right = record.right;
  const auto fire = [&](HookEvent event) {
    hooks_.fire(event, facts_of(right, side_of(kind), record.reason));
  };
  if (kind == JournalKind::kBegun || kind == JournalKind::kOffered) {
    current_ = right;
    gave_locks_up_ = false;
  }
  const bool ours = is_ours(right);
  if (ours) last_ = kind;
  switch (kind) {
    case JournalKind::kCommitting:
      announcer_.stop();
      locks_.release();
      gave_locks_up_ = true;
      break;
    case JournalKind::kReleased:
    case JournalKind::kCeded:
      fire(HookEvent::kGuestLeft);
      break;
    case JournalKind::kKept:  // of an earlier process: its copy went with it
      fire(ours ? HookEvent::kGuestKept : HookEvent::kLost);
      gave_locks_up_ = false;
      break;
    case JournalKind::kDiscarded:
      // Another migration than ours may be answered for while a guest runs here.
      if (ours) locks_.release();
      fire(HookEvent::kDiscarded);
      break;
    default:
      break;
  }
  return {};
}

void RightResources::guest_runs() {
  announcer_.start();
  fire_current(HookEvent::kGuestRunsHere, {});
}

void RightResources::guest_in_doubt(std::string reason) {
  fire_current(HookEvent::kInDoubt, std::move(reason));
}

void RightResources::guest_lost(std::string reason) {
  fire_current(HookEvent::kLost, std::move(reason));
}

void RightResources::arrival_dropped(std::string reason) {
  {
    const std::lock_guard lock(mutex_);
    locks_.release();
    if (!current_ || last_ != JournalKind::kTaken) return;  // Discarded said it
  }
  fire_current(HookEvent::kLost, std::move(reason));
  const std::lock_guard lock(mutex_);
  current_.reset();
}

void RightResources::fire_current(HookEvent event, std::string reason) {
  const std::lock_guard lock(mutex_);
  if (current_) hooks_.fire(event, facts_of(*current_, side_of(last_), std::move(reason)));
}

ResourcesStatus RightResources::status() const {
  const std::lock_guard lock(mutex_);
  ResourcesStatus status;
  status.disks = locks_.paths();
  status.disks_locked = locks_.held();
  for (const AnnouncePort& port : announcer_.ports()) {
    status.announce.push_back(to_string(port.target()));
  }
  status.announced = announcer_.status();
  status.hooks = hooks_.hooks().size();
  status.hook_runs = hooks_.status();
  return status;
}

}  // namespace sealift
