#include "tools/migrate/recover.h"

#include <fmt/format.h>

#include <cctype>
#include <charconv>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "journal/recovery.h"
#include "tools/migrate/client.h"
#include "tools/migrate/exit_codes.h"

namespace sealift {

using nlohmann::json;

namespace {

// One agent, and what it said.
struct Side {
  std::optional<AgentClient> client;  // empty: cannot be asked
  json said = json::object();         // of GET /v1/right

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

// `bytes` from hexadecimal digits, two for each.
template <std::size_t kBytes>
bool from_hex(const std::string& text, std::array<std::byte, kBytes>& bytes) {
  if (text.size() != 2 * kBytes) return false;
  for (std::size_t i = 0; i < kBytes; ++i) {
    unsigned number = 0;
    const char* first = text.data() + 2 * i;
    const auto [end, status] = std::from_chars(first, first + 2, number, 16);
    if (status != std::errc() || end != first + 2) return false;
    bytes[i] = static_cast<std::byte>(number);
  }
  return true;
}

// Not there: not known.
Result<void> read_digest(const json& last, const char* key, Digest32& digest) {
  const std::string text = last.value(key, "");
  if (text.empty() || from_hex(text, digest)) return {};
  return fail(ErrorClass::kMalformed, "an agent's answer has {} '{}'", key, text);
}

// Empty: it could not be asked.
Result<std::optional<SideAnswer>> answer_of(const Side& side) {
  if (!side.client) return std::optional<SideAnswer>();
  SideAnswer answer;
  answer.has_copy = side.said.value("has_copy", false);
  answer.is_busy = side.said.value("busy", false);
  const json last = side.last();
  if (last.empty()) return std::optional(answer);
  const std::string record = last.value("record", "");
  const std::optional<JournalKind> kind = kind_named(record);
  if (!kind) {
    return fail(ErrorClass::kMalformed, "an agent's answer names the record '{}'", record);
  }
  JournalEntry entry;
  entry.last = *kind;
  const std::string migration = last.value("migration", "");
  const auto id = migration_id_of(migration);
  if (!id) {
    return fail(ErrorClass::kMalformed, "an agent's answer names the migration '{}'", migration);
  }
  entry.right.migration = *id;
  entry.right.generation = last.value("generation", std::uint64_t{0});
  entry.right.guest = last.value("guest", "");
  entry.right.source = last.value("source", "");
  entry.right.destination = last.value("destination", "");
  SEALIFT_CHECK(read_digest(last, "page_map_sha256", entry.right.page_map_sha256));
  SEALIFT_CHECK(read_digest(last, "memory_sha256", entry.right.memory_sha256));
  answer.last = std::move(entry);
  answer.is_latest = last.value("latest", true);
  return std::optional(answer);
}

struct Case {
  Side source;
  Side destination;
  Recovery recovery;
};

// Asks again about the migration in question where another was spoken of.
Result<std::optional<SideAnswer>> answer_about(Side& side, const std::optional<SideAnswer>& said,
                                               const RightToRun& right) {
  if (!said || (said->last && said->last->right.migration == right.migration)) return said;
  SEALIFT_TRY(side.said,
              side.client->get(fmt::format("/v1/right?guest={}&migration={}", in_query(right.guest),
                                           hex_text(right.migration))));
  return answer_of(side);
}

Result<Case> open_case(Side first, Side second) {
  SEALIFT_TRY(auto first_answer, answer_of(first));
  SEALIFT_TRY(auto second_answer, answer_of(second));
  Case found;
  SEALIFT_TRY(found.recovery, recovery_of(first_answer, second_answer));
  SEALIFT_TRY(first_answer, answer_about(first, first_answer, found.recovery.right));
  SEALIFT_TRY(second_answer, answer_about(second, second_answer, found.recovery.right));
  SEALIFT_TRY(found.recovery, recovery_of(first_answer, second_answer));
  const bool in_order = found.recovery.first_is_source;
  found.source = std::move(in_order ? first : second);
  found.destination = std::move(in_order ? second : first);
  return found;
}

Result<void> carry_out(const Case& found, Settle wish) {
  for (const Telling& telling : tellings(found.recovery, wish)) {
    const Side& side = telling.side == JournalSide::kSource ? found.source : found.destination;
    SEALIFT_CHECK(
        side.client->post("/v1/settle", {{"migration", hex_text(found.recovery.right.migration)},
                                         {"verdict", name_of(telling.wish)},
                                         {"record", name_of(telling.said)}}));
  }
  return {};
}

std::string copy_text(const std::optional<SideAnswer>& side) {
  if (!side) return "";
  return side->has_copy ? ", has its copy" : ", has no copy";
}

std::string text_of(const Recovery& found, const std::string& verdict) {
  const RightToRun& right = found.right;
  return fmt::format(
      "migration {} of {}, generation {}\n  source      {}: {}{}\n  destination {}: {}{}\n"
      "{}: {}\n",
      hex_text(right.migration), right.guest, right.generation, right.source,
      name_of(found.source_standing), copy_text(found.source), right.destination,
      name_of(found.destination_standing), copy_text(found.destination), verdict,
      found.settlement.reason);
}

json to_json(const Recovery& found, const std::string& verdict, bool applied) {
  const RightToRun& right = found.right;
  return json{{"migration", hex_text(right.migration)},
              {"generation", right.generation},
              {"guest", right.guest},
              {"source",
               {{"name", right.source},
                {"standing", name_of(found.source_standing)},
                {"has_copy", found.source && found.source->has_copy}}},
              {"destination",
               {{"name", right.destination},
                {"standing", name_of(found.destination_standing)},
                {"has_copy", found.destination && found.destination->has_copy}}},
              {"verdict", verdict},
              {"reason", found.settlement.reason},
              {"applied", applied}};
}

// What the verdict asks for; empty: nothing can be done.
std::optional<Settle> wish_of(const std::string& verdict) {
  for (const Settle wish : {Settle::kRunSource, Settle::kRunDestination, Settle::kForget}) {
    if (verdict == name_of(wish)) return wish;
  }
  return std::nullopt;
}

}  // namespace

int run_recover(const AgentOptions& common, const RecoverOptions& options) {
  Asked asked = ask_both(common, options.peer);
  if (asked.nobody) return report_error(*asked.nobody, common.json);
  auto found = open_case(std::move(asked.first), std::move(asked.second));
  if (!found) return report_error(found.error(), common.json);

  const bool by_human = !options.decide.empty();
  const Settlement& settlement = found->recovery.settlement;
  const std::string verdict = by_human ? options.decide : std::string(name_of(settlement.verdict));
  const std::optional<Settle> wish = by_human || options.apply ? wish_of(verdict) : std::nullopt;
  if (wish) {
    if (auto done = carry_out(*found, *wish); !done) {
      return report_error(done.error(), common.json);
    }
  }
  const bool applied = wish.has_value();
  if (common.json) {
    fmt::print("{}\n", to_json(found->recovery, verdict, applied).dump());
  } else {
    fmt::print("{}{}", text_of(found->recovery, verdict), applied ? "carried out\n" : "");
  }
  if (!asked.not_asked.empty()) fmt::print(stderr, "migrate: not asked: {}\n", asked.not_asked);
  return applied || settlement.verdict != Verdict::kNeedsHuman ? kExitDone : kExitInDoubt;
}

}  // namespace sealift
