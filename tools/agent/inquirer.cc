#include "tools/agent/inquirer.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "tools/agent/clock.h"

namespace sealift {
namespace {

constexpr std::size_t kPendingMax = 16;

std::string kind_text(const RightWord& word) {
  return word.record == 0 ? "nothing" : name_of(static_cast<JournalKind>(word.record));
}

}  // namespace

Inquirer::Inquirer(InquirerHooks hooks)
    : hooks_(std::move(hooks)),
      random_(std::random_device{}()),
      thread_([this](const std::stop_token& stop) { run(stop); }) {}

Inquirer::~Inquirer() = default;

void Inquirer::add(const RightToRun& right, Address to) {
  const std::lock_guard lock(mutex_);
  const auto known = std::find_if(pending_.begin(), pending_.end(), [&](const Pending& pending) {
    return pending.right.migration == right.migration;
  });
  if (known != pending_.end()) return;
  if (pending_.size() == kPendingMax) {  // the oldest is one that nobody has answered for long
    hooks_.log(fmt::format("{} is not asked about {} any more: too many questions are open",
                           to_string(pending_.front().to), pending_.front().right.guest));
    pending_.erase(pending_.begin());
  }
  Pending pending{.right = right, .to = std::move(to)};
  pending.due_ns = steady_now_ns() + pending.pace.next_ns(random_());
  pending_.push_back(std::move(pending));
  changed_.notify_all();
}

std::vector<InquiryStatus> Inquirer::status() const {
  const std::lock_guard lock(mutex_);
  const std::uint64_t now = steady_now_ns();
  std::vector<InquiryStatus> all;
  for (const Pending& pending : pending_) {
    all.push_back(InquiryStatus{.guest = pending.right.guest,
                                .migration = pending.right.migration,
                                .to = to_string(pending.to),
                                .asked = pending.asked,
                                .next_in_ns = pending.due_ns > now ? pending.due_ns - now : 0,
                                .last = pending.last});
  }
  return all;
}

void Inquirer::run(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  while (!stop.stop_requested()) {
    if (!changed_.wait(lock, stop, [&] { return !pending_.empty(); })) return;
    const auto next =
        std::min_element(pending_.begin(), pending_.end(),
                         [](const Pending& a, const Pending& b) { return a.due_ns < b.due_ns; });
    const std::uint64_t now = steady_now_ns();
    if (next->due_ns > now) {
      const std::size_t seen = pending_.size();
      changed_.wait_for(lock, stop, std::chrono::nanoseconds(next->due_ns - now),
                        [&] { return pending_.size() != seen; });
      continue;
    }
    const Pending asking = *next;
    lock.unlock();
    Turn turn = ask_once(asking);
    lock.lock();
    finish_turn(asking.right.migration, std::move(turn));
  }
}

Inquirer::Turn Inquirer::ask_once(const Pending& pending) {
  const auto again = [](std::string text) { return Turn{InquiryStep::kAskAgain, std::move(text)}; };
  auto own = hooks_.own_word(pending.right);
  if (!own) return again(std::move(own.error().detail));
  if (own->record == 0) return {InquiryStep::kDone, "the journal has forgotten it"};
  auto answer = hooks_.ask(pending.to, Inquiry{*own});
  if (!answer) return again(std::move(answer.error().detail));
  auto believed = hooks_.believes(answer->word);
  if (!believed) return again(std::move(believed.error().detail));
  const Inquired inquired = after_answer(*own, answer->word, *believed);
  Turn turn{inquired.step,
            fmt::format("it says {}{}; {}: {}", kind_text(answer->word),
                        *believed ? "" : " without the session's key",
                        name_of(inquired.settlement.verdict), inquired.settlement.reason)};
  if (turn.step == InquiryStep::kAskAgain || turn.step == InquiryStep::kDone) return turn;
  if (auto done = hooks_.carry_out(*own, turn.step); !done) {
    return again(std::move(done.error().detail));
  }
  if (turn.step != InquiryStep::kCede) turn.step = InquiryStep::kDone;
  return turn;
}

void Inquirer::finish_turn(const MigrationId& migration, Turn turn) {
  const auto found = std::find_if(pending_.begin(), pending_.end(), [&](const Pending& pending) {
    return pending.right.migration == migration;
  });
  if (found == pending_.end()) return;
  if (turn.text != found->last || turn.step == InquiryStep::kDone) {
    hooks_.log(
        fmt::format("asked {} about {}: {}", to_string(found->to), found->right.guest, turn.text));
  }
  if (turn.step == InquiryStep::kDone) {
    pending_.erase(found);
    return;
  }
  ++found->asked;
  found->last = std::move(turn.text);
  found->due_ns = steady_now_ns();
  if (turn.step != InquiryStep::kCede) found->due_ns += found->pace.next_ns(random_());
}

}  // namespace sealift
