// How an agent asks a destination what became of a migration, and how it answers.
#include <utility>

#include "engine/assert.h"
#include "tools/agent/agent.h"
#include "tools/agent/wire_channel.h"

namespace sealift {
namespace {

constexpr Millis kConnectMax{5'000};
constexpr Millis kPeerSilentMax{5'000};
constexpr const char* kByInquiry = "settled by asking the destination";

// The next record that says something.
Result<Record> next_record(RecordChannel& channel) {
  for (;;) {
    SEALIFT_TRY(Record record, channel.receive());
    if (std::holds_alternative<KeepAlive>(record)) continue;
    if (const auto* abort = std::get_if<Abort>(&record)) {
      return fail(abort->cls, "it answered: {}", abort->detail);
    }
    return record;
  }
}

Result<Answer> ask_on(RecordChannel& channel, Hello hello, const Inquiry& inquiry) {
  SEALIFT_CHECK(channel.send(std::move(hello)));
  SEALIFT_TRY(const Record first, next_record(channel));
  const auto* peer = std::get_if<Hello>(&first);
  if (peer == nullptr) {
    return fail(ErrorClass::kMalformed, "it began with {} instead of Hello", name_of(first));
  }
  if ((peer->features & kFeatureInquiry) == 0) {
    return fail(ErrorClass::kRefused, "{} answers no inquiries", peer->agent_name);
  }
  SEALIFT_CHECK(channel.send(inquiry));
  SEALIFT_TRY(Record second, next_record(channel));
  auto* answer = std::get_if<Answer>(&second);
  if (answer == nullptr) {
    return fail(ErrorClass::kMalformed, "it answered with {}", name_of(second));
  }
  if (answer->word.claim != inquiry.word.claim || answer->word.guest != inquiry.word.guest) {
    return fail(ErrorClass::kMalformed, "{} answered about another migration", peer->agent_name);
  }
  return std::move(*answer);
}

}  // namespace

void Agent::start_inquirer() {
  InquirerHooks hooks;
  hooks.own_word = [this](const RightToRun& right) { return right_word(right); };
  hooks.ask = [this](const Address& to, const Inquiry& inquiry) { return ask(to, inquiry); };
  hooks.believes = [this](const RightWord& answer) { return believes(answer); };
  hooks.carry_out = [this](const RightWord& own, InquiryStep step) -> Result<void> {
    const std::lock_guard work(guest_work_);
    const bool runs_here = step == InquiryStep::kKeep;
    return settle_locked(own.claim.migration,
                         runs_here ? Settle::kRunSource : Settle::kRunDestination,
                         static_cast<JournalKind>(own.record), kByInquiry);
  };
  hooks.log = log_;
  inquirer_ = std::make_unique<Inquirer>(std::move(hooks));
}

// About the guest's last migration, which this side began.
void Agent::inquire(const std::string& guest) {
  if (!inquirer_) return;
  auto last = keeper_->last(guest);
  if (!last || !*last || side_of((*last)->last) != JournalSide::kSource) return;
  const RightToRun& right = (*last)->right;
  if (auto to = address_in(right.destination)) return inquirer_->add(right, std::move(*to));
  log_(fmt::format("\"{}\" is not asked about {}: the journal has no address of it",
                   right.destination, guest));
}

Result<Answer> Agent::ask(const Address& to, const Inquiry& inquiry) {
  ConnectOptions connecting;
  connecting.connect_timeout = kConnectMax;
  connecting.idle_timeout = kPeerSilentMax;
  if (to.kind == Address::Kind::kTcp) {
    if (tls_client_) {
      connecting.tls = &*tls_client_;
    } else if (!config_.allow_plain_tcp) {
      return fail(ErrorClass::kPolicy, "{} was started without certificates; asking {} needs them",
                  config_.name, to_string(to));
    }
  }
  SEALIFT_TRY(auto stream, connect(to, connecting, stopping_));
  WireChannel channel(std::move(stream), new_session_id());
  auto answer = ask_on(channel, hello(), inquiry);
  channel.shutdown();
  return answer;
}

// What this side's journal says of a migration, and whether the guest is here by it.
Result<RightWord> Agent::right_word(const RightToRun& right) {
  SEALIFT_TRY(const RightKeeper::Known known, keeper_->known(right.guest, right.migration));
  if (!known.entry) return word_of(right, nullptr, false);
  if (known.entry->right.generation != right.generation) {
    return fail(ErrorClass::kRefused, "the migration {} of {} is of generation {} here, not {}",
                hex_text(right.migration), right.guest, known.entry->right.generation,
                right.generation);
  }
  const bool at_source = side_of(known.entry->last) == JournalSide::kSource;
  const std::lock_guard lock(mutex_);
  const bool here = machine_ != nullptr && state_ != AgentState::kHandedOver &&
                    state_ != AgentState::kLost && guest_name_ == right.guest &&
                    (at_source || arrived_by_ == right.migration);
  return word_of(right, &*known.entry, here || known.went_on);
}

// Where the session had a key and this process still has it, the other side has to prove itself.
Result<bool> Agent::believes(const RightWord& word) {
  SEALIFT_TRY(const RightKeeper::Known known, keeper_->known(word.guest, word.claim.migration));
  return !known.key || is_proven(*known.key, word);
}

Result<Answer> Agent::answer_inquiry(const Inquiry& inquiry) {
  const RightToRun asked = right_of(inquiry.word);
  SEALIFT_CHECK(check_right(asked));
  {
    // Whoever asks has given the session up, also where this side has not noticed yet.
    const std::lock_guard lock(mutex_);
    if (arriving_by_ == asked.migration) {
      destination_runner_->drop_link();
      return fail(ErrorClass::kRefused, "the session of {} is still ending here: ask again",
                  asked.guest);
    }
  }
  const std::lock_guard work(guest_work_);
  SEALIFT_TRY(RightWord own, right_word(asked));
  SEALIFT_TRY(const bool believed, believes(inquiry.word));
  Answering answering = before_answer(inquiry.word, believed, own);
  if (!believed) {
    log_(fmt::format("who asks about {} does not have its session's key", asked.guest));
  }
  const bool waits = holds(asked.migration);
  if (waits && own.record == static_cast<std::uint8_t>(JournalKind::kTaken) &&
      answering.settlement.verdict == Verdict::kRunDestination) {
    answering.step = AnswerStep::kTake;  // it could not be started when that was written
  }
  if (answering.step != AnswerStep::kNone) {
    SEALIFT_CHECK(carry_out(own, answering.step, waits,
                            fmt::format("asked: {}", answering.settlement.reason)));
    SEALIFT_TRY(own, right_word(asked));
    log_(fmt::format("asked about {}: {}: {}", asked.guest, name_of(answering.settlement.verdict),
                     answering.settlement.reason));
  }
  return Answer{std::move(own)};
}

// A complete copy waits here, by this migration.
bool Agent::holds(const MigrationId& migration) const {
  const std::lock_guard lock(mutex_);
  return state_ == AgentState::kHolding && arrived_by_ == migration;
}

Result<void> Agent::carry_out(const RightWord& own, AnswerStep step, bool waits,
                              const std::string& why) {
  const bool takes = step == AnswerStep::kTake;
  if (!takes && !waits) {
    return keeper_->note_settled(right_of(own), JournalKind::kDiscarded, why);
  }
  return settle_locked(own.claim.migration, takes ? Settle::kRunDestination : Settle::kRunSource,
                       static_cast<JournalKind>(own.record), why);
}

}  // namespace sealift
