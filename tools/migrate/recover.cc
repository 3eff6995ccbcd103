#include "tools/migrate/recover.h"

#include <fmt/format.h>

#include <array>
#include <cctype>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "journal/standing.h"
#include "tools/migrate/client.h"
#include "tools/migrate/exit_codes.h"

namespace sealift {

using nlohmann::json;

namespace {

constexpr std::array kKinds = {
    JournalKind::kBegun,      JournalKind::kOffered,   JournalKind::kReady,
    JournalKind::kCommitting, JournalKind::kTaken,     JournalKind::kReleased,
    JournalKind::kKept,       JournalKind::kDiscarded, JournalKind::kCeded};

// One agent, what it said, and what that means for the migration in question.
struct Side {
  std::optional<AgentClient> client;  // empty: cannot be asked
  json said = json::object();         // of GET /v1/right
  bool has_copy = false;
  bool settled = false;
  std::optional<JournalKind> record;  // of this migration

  std::string name() const { return said.value("agent", "an agent that cannot be asked"); }
  json last() const { return said.value("last", json::object()); }
};

// A guest's name in a query: everything but letters, digits, '-', '_' and '.' as %XX.
std::string in_query(const std::string& name) {
  std::string out;
  for (const char c : name) {
    const bool plain =
        std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '_' || c == '.';
    out += plain ? std::string(1, c) : fmt::format("%{:02x}", static_cast<unsigned char>(c));
  }
  return out;
}

// About the guest that is or was there last, or about `guest`.
Result<Side> ask(const std::string& address, const std::string& certs, const std::string& guest) {
  Side side;
  SEALIFT_TRY(side.client, AgentClient::make(address, certs));
  SEALIFT_TRY(side.said,
              side.client->get(guest.empty() ? "/v1/right" : "/v1/right?guest=" + in_query(guest)));
  return side;
}

// Both sides about one guest: the last of the first agent that has had one.
struct Asked {
  Side first;
  Side second;
  std::string not_asked;  // why one could not be; empty: both were, or there is one only
  std::optional<Error> nobody;
};
Asked ask_both(const AgentOptions& common, const std::string& peer) {
  Asked asked;
  const auto one = [&](Side& side, const std::string& address, const std::string& guest) {
    auto answer = ask(address, common.certs, guest);
    if (answer) {
      side = std::move(*answer);
    } else {
      asked.not_asked = answer.error().detail;
      if (!asked.nobody) asked.nobody = std::move(answer.error());
    }
  };
  one(asked.first, common.agent, "");
  const auto guest_of = [](const Side& side) { return side.last().value("guest", ""); };
  if (!peer.empty()) one(asked.second, peer, guest_of(asked.first));
  if (asked.first.client && guest_of(asked.first).empty() && !guest_of(asked.second).empty()) {
    one(asked.first, common.agent, guest_of(asked.second));
  }
  if (asked.first.client || asked.second.client) asked.nobody.reset();
  return asked;
}

std::optional<JournalKind> kind_named(const std::string& name) {
  for (const JournalKind kind : kKinds) {
    if (name == name_of(kind)) return kind;
  }
  return std::nullopt;
}

// What `side` knows of the migration; a sound journal may not know it.
void look_up(Side& side, const std::string& migration) {
  side.has_copy = side.said.value("has_copy", false);
  const json last = side.last();
  if (last.value("migration", "") != migration) return;
  side.record = kind_named(last.value("record", ""));
  side.settled = last.value("settled", false);
}

template <class Standing>
Standing standing_of(const Side& side, Standing unknown, Standing (*of)(const JournalEntry*)) {
  if (!side.client) return unknown;
  if (!side.record) return of(nullptr);
  JournalEntry entry;
  entry.last = *side.record;
  return of(&entry);
}

struct Case {
  std::string migration;
  json about;  // the journal's words: guest, generation, source, destination
  Side source;
  Side destination;
  SourceStanding source_standing = SourceStanding::kUnknown;
  DestinationStanding destination_standing = DestinationStanding::kUnknown;
  Settlement settlement;
};

// The migration is the last one of the first agent that has one.
Result<Case> open_case(Side first, Side second) {
  const Side& teller = first.last().empty() ? second : first;
  if (teller.last().empty()) {
    return fail(ErrorClass::kRefused, "no migration is in the journal of {}", teller.name());
  }
  Case found;
  found.about = teller.last();
  found.migration = found.about.value("migration", "");
  const bool teller_is_source = found.about.value("side", "") == name_of(JournalSide::kSource);
  const bool first_is_source = teller_is_source == (&teller == &first);
  found.source = first_is_source ? std::move(first) : std::move(second);
  found.destination = first_is_source ? std::move(second) : std::move(first);
  look_up(found.source, found.migration);
  look_up(found.destination, found.migration);
  found.source_standing =
      standing_of(found.source, SourceStanding::kUnknown, &sealift::source_standing);
  found.destination_standing =
      standing_of(found.destination, DestinationStanding::kUnknown, &sealift::destination_standing);
  found.settlement = settle(found.source_standing, found.source.has_copy,
                            found.destination_standing, found.destination.has_copy);
  return found;
}

Result<void> tell(const Side& side, const Case& about, const char* verdict) {
  if (!side.client || !side.record || side.settled) return {};
  SEALIFT_CHECK(
      side.client->post("/v1/settle", {{"migration", about.migration}, {"verdict", verdict}}));
  return {};
}

// The side that gives the right up writes it down first; then the one that takes it; then whoever
// only closes its copy.
Result<void> carry_out(const Case& found, const std::string& verdict) {
  if (verdict == "run destination") {
    const bool cedes = !found.source.has_copy;
    if (cedes) SEALIFT_CHECK(tell(found.source, found, "run destination"));
    SEALIFT_CHECK(tell(found.destination, found, "run destination"));
    return cedes ? Result<void>() : tell(found.source, found, "run destination");
  }
  SEALIFT_CHECK(tell(found.destination, found, "run source"));
  return tell(found.source, found, verdict.c_str());
}

std::string copy_text(const Side& side) {
  if (!side.client) return "";
  return side.has_copy ? ", has its copy" : ", has no copy";
}

std::string text_of(const Case& found, const std::string& verdict) {
  return fmt::format(
      "migration {} of {}, generation {}\n  source      {}: {}{}\n  destination {}: {}{}\n"
      "{}: {}\n",
      found.migration, found.about.value("guest", ""), found.about.value("generation", 0ULL),
      found.about.value("source", ""), name_of(found.source_standing), copy_text(found.source),
      found.about.value("destination", ""), name_of(found.destination_standing),
      copy_text(found.destination), verdict, found.settlement.reason);
}

json to_json(const Case& found, const std::string& verdict, bool applied) {
  json out = found.about;
  for (const char* key : {"side", "record", "settled"}) out.erase(key);
  out["source"] = {{"name", found.about.value("source", "")},
                   {"standing", name_of(found.source_standing)},
                   {"has_copy", found.source.has_copy}};
  out["destination"] = {{"name", found.about.value("destination", "")},
                        {"standing", name_of(found.destination_standing)},
                        {"has_copy", found.destination.has_copy}};
  out["verdict"] = verdict;
  out["reason"] = found.settlement.reason;
  out["applied"] = applied;
  return out;
}

}  // namespace

int run_recover(const AgentOptions& common, const RecoverOptions& options) {
  Asked asked = ask_both(common, options.peer);
  if (asked.nobody) return report_error(*asked.nobody, common.json);
  auto found = open_case(std::move(asked.first), std::move(asked.second));
  if (!found) return report_error(found.error(), common.json);

  const bool by_human = !options.decide.empty();
  const std::string verdict =
      by_human ? options.decide : std::string(name_of(found->settlement.verdict));
  const bool applies =
      by_human || (options.apply && found->settlement.verdict != Verdict::kNeedsHuman);
  if (applies) {
    if (auto done = carry_out(*found, verdict); !done) {
      return report_error(done.error(), common.json);
    }
  }
  if (common.json) {
    fmt::print("{}\n", to_json(*found, verdict, applies).dump());
  } else {
    fmt::print("{}{}", text_of(*found, verdict), applies ? "carried out\n" : "");
  }
  if (!asked.not_asked.empty()) fmt::print(stderr, "migrate: not asked: {}\n", asked.not_asked);
  return applies || found->settlement.verdict != Verdict::kNeedsHuman ? kExitDone : kExitInDoubt;
}

}  // namespace sealift
