// Inquirer: asks destinations what became of migrations that are not settled here, again and again
// with growing pauses, until both sides know or the agent ends.
//
// Spec:    docs/spec/handover.md, "Inquiry"; what to do with an answer is journal/inquiry.h's.
// Owner:   the agent. Threads: one of its own, which calls the hooks; add() and status() from any.
// Failure: none as calls. A question that got no answer, or whose answer settles nothing, is asked
//          again; status() and the log say why.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "journal/inquiry.h"
#include "transport/address.h"

namespace sealift {

struct InquirerHooks {
  // What the journal here says of the migration now.
  std::function<Result<RightWord>(const RightToRun&)> own_word;
  // One question and its answer.
  std::function<Result<Answer>(const Address&, const Inquiry&)> ask;
  std::function<Result<bool>(const RightWord& answer)> believes;
  // kCede, kKeep or kRelease, durably, if `own` is still what this side says.
  std::function<Result<void>(const RightWord& own, InquiryStep)> carry_out;
  std::function<void(const std::string&)> log;
};

struct InquiryStatus {
  std::string guest;
  MigrationId migration{};
  std::string to;
  std::uint64_t asked = 0;
  std::uint64_t next_in_ns = 0;
  std::string last;  // what came of the last question, for people
};

class Inquirer {
 public:
  explicit Inquirer(InquirerHooks hooks);
  // Whoever makes hooks.ask() return early does so before this.
  ~Inquirer();

  // About a migration of which this side is the source. Twice the same is once.
  void add(const RightToRun& right, Address to);
  std::vector<InquiryStatus> status() const;

 private:
  struct Pending {
    RightToRun right;
    Address to;
    InquiryPace pace = {};
    std::uint64_t due_ns = 0;  // steady clock
    std::uint64_t asked = 0;
    std::string last = {};
  };
  struct Turn {
    InquiryStep step = InquiryStep::kAskAgain;
    std::string text;
  };

  void run(const std::stop_token& stop);
  Turn ask_once(const Pending& pending);
  void finish_turn(const MigrationId& migration, Turn turn);

  InquirerHooks const hooks_;
  mutable std::mutex mutex_;  // guards all down to the blank line; never held while asking
  std::condition_variable_any changed_;
  std::vector<Pending> pending_;
  std::mt19937_64 random_;

  std::jthread thread_;  // last: uses the rest
};

}  // namespace sealift
