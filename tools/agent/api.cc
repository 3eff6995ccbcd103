#include "tools/agent/api.h"

#include <charconv>
#include <nlohmann/json.hpp>
#include <utility>

#include "engine/limits.h"
#include "tools/agent/report_json.h"
#include "vmm_glue/vmm/run_control.h"

namespace sealift {

using nlohmann::json;

namespace {

constexpr std::uint64_t kTimeMax_ms = 30ULL * 24 * 3600 * 1000;

unsigned status_of(ErrorClass cls) {
  switch (cls) {
    case ErrorClass::kUsage:
    case ErrorClass::kMalformed:
      return 400;
    case ErrorClass::kRefused:
      return 409;
    case ErrorClass::kPolicy:
      return 403;
    case ErrorClass::kTimedOut:
      return 504;
    default:
      return 500;
  }
}

HttpResponse answer(const json& body, unsigned status = 200) {
  HttpResponse response;
  response.status = status;
  response.body = body.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
  return response;
}

HttpResponse answer(const Error& error) {
  return answer(json{{"error", to_json(error)}}, status_of(error.cls));
}

template <class T>
HttpResponse answer(const Result<T>& result) {
  if (!result) return answer(result.error());
  if constexpr (std::is_void_v<T>) {
    return answer(json{{"ok", true}});
  } else {
    return answer(to_json(*result));
  }
}

// Takes `key` out of `body`; leaves `field` when it is not there.
Result<void> take_number(json& body, const char* key, std::uint64_t max, std::uint64_t& field) {
  const auto found = body.find(key);
  if (found == body.end()) return {};
  if (!found->is_number_unsigned() || found->get<std::uint64_t>() > max) {
    return fail(ErrorClass::kUsage, "{} is {}, not a whole number up to {}", key, found->dump(),
                max);
  }
  field = found->get<std::uint64_t>();
  body.erase(found);
  return {};
}

Result<void> take_bool(json& body, const char* key, bool& field) {
  const auto found = body.find(key);
  if (found == body.end()) return {};
  if (!found->is_boolean())
    return fail(ErrorClass::kUsage, "{} is {}, not true or false", key, found->dump());
  field = found->get<bool>();
  body.erase(found);
  return {};
}

Result<std::string> take_text(json& body, const char* key) {
  const auto found = body.find(key);
  if (found == body.end()) return std::string();
  if (!found->is_string())
    return fail(ErrorClass::kUsage, "{} is {}, not a text", key, found->dump());
  std::string text = found->get<std::string>();
  body.erase(found);
  return text;
}

// `bandwidth` as an operator types it.
Result<void> take_bandwidth(json& body, std::uint64_t& field) {
  SEALIFT_TRY(const std::string text, take_text(body, "bandwidth"));
  if (text.empty()) return {};
  SEALIFT_TRY(field, parse_rate(text));
  return {};
}

Result<MigrationId> parse_migration_id(const std::string& text) {
  if (const auto id = migration_id_of(text)) return *id;
  return fail(ErrorClass::kUsage, "migration '{}' is not {} hexadecimal digits", text,
              2 * sizeof(MigrationId));
}

// What a migration is to reach, as start and estimate take it.
Result<void> take_goals(json& body, Goals& goals) {
  std::uint64_t downtime_ms = goals.downtime_max_ns / 1'000'000;
  std::uint64_t rounds_max = goals.rounds_max;
  std::uint64_t throttle_max = goals.throttle_max_percent;
  SEALIFT_CHECK(take_number(body, "downtime_ms", kTimeMax_ms, downtime_ms));
  SEALIFT_CHECK(take_number(body, "rounds_max", limits::kRoundsMax, rounds_max));
  SEALIFT_CHECK(
      take_number(body, "throttle_max_percent", RunControl::kThrottlePercentMax, throttle_max));
  if (rounds_max == 0)
    return fail(ErrorClass::kUsage, "rounds_max is 0; at least one round is needed");
  SEALIFT_TRY(const std::string on_stall, take_text(body, "on_stall"));
  if (on_stall == "cancel") {
    goals.on_stall = OnStall::kCancel;
  } else if (!on_stall.empty() && on_stall != "switchover") {
    return fail(ErrorClass::kUsage, "on_stall is '{}'; use switchover or cancel", on_stall);
  }
  goals.downtime_max_ns = downtime_ms * 1'000'000;
  goals.rounds_max = static_cast<std::uint32_t>(rounds_max);
  goals.throttle_max_percent = static_cast<std::uint32_t>(throttle_max);
  return {};
}

Result<MigrateOptions> parse_migrate(const std::string& text) {
  json body = json::parse(text, nullptr, false);
  if (!body.is_object()) return fail(ErrorClass::kUsage, "the request's body is not a JSON object");
  MigrateOptions options;
  SEALIFT_TRY(const std::string to, take_text(body, "to"));
  if (to.empty()) return fail(ErrorClass::kUsage, "\"to\", the destination's address, is missing");
  SEALIFT_TRY(options.to, parse_address(to));
  SEALIFT_CHECK(take_bool(body, "check_only", options.check_only));
  SEALIFT_CHECK(take_bool(body, "verify", options.verify));
  SEALIFT_CHECK(take_bool(body, "ignore_readiness", options.ignore_readiness));
  SEALIFT_CHECK(take_goals(body, options.goals));
  std::uint64_t timeout_ms = 0;
  std::uint64_t streams = 0;
  SEALIFT_CHECK(take_number(body, "timeout_ms", kTimeMax_ms, timeout_ms));
  SEALIFT_CHECK(take_number(body, "streams", limits::kDataStreamsMax, streams));
  SEALIFT_TRY(const std::string on_timeout, take_text(body, "on_timeout"));
  if (on_timeout == "force") {
    options.goals.on_timeout = OnTimeout::kForce;
  } else if (!on_timeout.empty() && on_timeout != "cancel") {
    return fail(ErrorClass::kUsage, "on_timeout is '{}'; use cancel or force", on_timeout);
  }
  SEALIFT_CHECK(take_bandwidth(body, options.bandwidth_bytes_per_s));
  std::uint64_t dscp = 0;
  SEALIFT_CHECK(take_number(body, "dscp", 63, dscp));
  options.dscp = static_cast<std::uint8_t>(dscp);
  if (!body.empty())
    return fail(ErrorClass::kUsage, "\"{}\" is not an option of a migration", body.begin().key());
  options.streams = static_cast<std::uint8_t>(streams);
  options.timeout_ns = timeout_ms * 1'000'000;
  return options;
}

Result<EstimateOptions> parse_estimate(const std::string& text) {
  constexpr std::uint64_t kPagesPerMiB = (1ULL << 20) / kPageBytes;
  constexpr std::uint64_t kRateMax = 1ULL << 40;
  json body = json::parse(text, nullptr, false);
  if (!body.is_object()) return fail(ErrorClass::kUsage, "the request's body is not a JSON object");
  EstimateOptions options;
  std::uint64_t observe_ms = options.observe_ns / 1'000'000, link_mib_per_s = 0, firmware = 0;
  std::uint64_t round_trip_us = options.round_trip_ns / 1'000;
  SEALIFT_CHECK(take_number(body, "observe_ms", kObserveMax_ns / 1'000'000, observe_ms));
  SEALIFT_CHECK(take_number(body, "link_mib_per_s", kRateMax / kPagesPerMiB, link_mib_per_s));
  SEALIFT_CHECK(take_number(body, "firmware_pages_per_s", kRateMax, firmware));
  SEALIFT_CHECK(take_number(body, "round_trip_us", 60'000'000, round_trip_us));
  SEALIFT_CHECK(take_goals(body, options.goals));
  if (!body.empty())
    return fail(ErrorClass::kUsage, "\"{}\" is not an option of an estimate", body.begin().key());
  options.observe_ns = observe_ms * 1'000'000;
  options.plain_pages_per_s = static_cast<double>(link_mib_per_s * kPagesPerMiB);
  options.firmware_pages_per_s = static_cast<double>(firmware);
  options.round_trip_ns = round_trip_us * 1'000;
  return options;
}

HttpResponse estimate(Agent& agent, const std::string& body) {
  auto options = parse_estimate(body);
  return options ? answer(agent.estimate(*options)) : answer(options.error());
}

HttpResponse start_migration(Agent& agent, const std::string& body) {
  auto options = parse_migrate(body);
  if (!options) return answer(options.error());
  if (auto started = agent.start_migration(*options); !started) return answer(started.error());
  return answer(json{{"ok", true}}, 202);
}

// What may change while a migration is under way.
Result<void> set_limits(Agent& agent, const std::string& text) {
  json body = json::parse(text, nullptr, false);
  const bool one = body.is_object() && body.size() == 1 && body.contains("bandwidth");
  if (!one) return fail(ErrorClass::kUsage, "the request's body is not {{\"bandwidth\": …}}");
  std::uint64_t bytes_per_s = kUnlimited;
  SEALIFT_CHECK(take_bandwidth(body, bytes_per_s));
  return agent.set_bandwidth(bytes_per_s);
}

Result<void> settle(Agent& agent, const std::string& text) {
  json body = json::parse(text, nullptr, false);
  if (!body.is_object()) return fail(ErrorClass::kUsage, "the request's body is not a JSON object");
  SEALIFT_TRY(const std::string id, take_text(body, "migration"));
  SEALIFT_TRY(const std::string verdict, take_text(body, "verdict"));
  SEALIFT_TRY(const std::string record, take_text(body, "record"));
  if (!body.empty()) {
    return fail(ErrorClass::kUsage, "\"{}\" is not known; use migration, verdict and record",
                body.begin().key());
  }
  SEALIFT_TRY(const MigrationId migration, parse_migration_id(id));
  const std::optional<JournalKind> said = kind_named(record);
  if (!record.empty() && !said) {
    return fail(ErrorClass::kUsage, "record '{}' is not one of a journal", record);
  }
  for (const Settle wish : {Settle::kRunSource, Settle::kRunDestination, Settle::kForget}) {
    if (verdict == name_of(wish)) return agent.settle_right(migration, wish, said);
  }
  return fail(ErrorClass::kUsage, "verdict '{}' is none of run source, run destination and forget",
              verdict);
}

// The text of a query's value: %XX is a byte. kUsage for a '%' without two digits.
Result<std::string> from_query(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    unsigned number = 0;
    const std::string_view digits = text.substr(i + 1, 2);
    const auto [end, status] =
        std::from_chars(digits.data(), digits.data() + digits.size(), number, 16);
    if (digits.size() != 2 || status != std::errc() || end != digits.data() + 2) {
      return fail(ErrorClass::kUsage, "'{}' has a % without two hexadecimal digits", text);
    }
    out += static_cast<char>(number);
    i += 2;
  }
  return out;
}

Result<RightAnswer> right(Agent& agent, std::string_view query) {
  constexpr std::string_view kGuest = "guest=";
  constexpr std::string_view kMigration = "migration=";
  std::string guest;
  std::optional<MigrationId> migration;
  while (!query.empty()) {
    const std::size_t end = std::min(query.find('&'), query.size());
    const std::string_view part = query.substr(0, end);
    query.remove_prefix(std::min(end + 1, query.size()));
    if (part.starts_with(kGuest)) {
      SEALIFT_TRY(guest, from_query(part.substr(kGuest.size())));
    } else if (part.starts_with(kMigration)) {
      SEALIFT_TRY(migration, parse_migration_id(std::string(part.substr(kMigration.size()))));
    } else {
      return fail(ErrorClass::kUsage, "'{}' is not known; use guest=NAME and migration=ID", part);
    }
  }
  return agent.right(guest, migration);
}

HttpResponse digest(Agent& agent, const std::string& query) {
  if (query.empty()) return answer(agent.digest(DigestAt::kAuto));
  if (query == "at=now") return answer(agent.digest(DigestAt::kNow));
  if (query == "at=handover") return answer(agent.digest(DigestAt::kHandover));
  return answer(Error{ErrorClass::kUsage,
                      fmt::format("'{}' is not known; use at=now or at=handover", query)});
}

}  // namespace

HttpResponse handle_request(Agent& agent, const HttpRequest& request) {
  const std::size_t mark = request.target.find('?');
  const std::string path = request.target.substr(0, mark);
  const std::string query = mark == std::string::npos ? "" : request.target.substr(mark + 1);
  const std::string call = request.method + " " + path;
  if (call == "GET /v1/status") return answer(to_json(agent.status()));
  if (call == "POST /v1/migrate") return start_migration(agent, request.body);
  if (call == "POST /v1/estimate") return estimate(agent, request.body);
  if (call == "POST /v1/cancel") return answer(agent.cancel());
  if (call == "POST /v1/limits") return answer(set_limits(agent, request.body));
  if (call == "GET /v1/right") return answer(right(agent, query));
  if (call == "POST /v1/settle") return answer(settle(agent, request.body));
  if (call == "GET /v1/digest") return digest(agent, query);
  if (call == "POST /v1/verify") return answer(agent.self_check());
  return answer(
      json{{"error", {{"class", "usage"}, {"detail", fmt::format("no such call: {}", call)}}}},
      404);
}

}  // namespace sealift
