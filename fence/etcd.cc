#include "fence/etcd.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "fence/base64.h"

namespace sealift {

using nlohmann::json;

namespace {

constexpr std::uint64_t kSecond_ns = 1'000'000'000;
constexpr std::uint64_t kTtlMax_s = 9'000'000'000;  // etcd's own limit
constexpr std::size_t kQuotedBytesMax = 200;
constexpr std::size_t kTextBytesMax = 1024;  // of a name in a record
constexpr unsigned kNotFound = 5;            // gRPC's code for a lease that is not there

std::string beginning_of(std::string text) {
  if (text.size() > kQuotedBytesMax) text = text.substr(0, kQuotedBytesMax) + "…";
  std::replace_if(
      text.begin(), text.end(), [](unsigned char c) { return c < ' ' || c == 0x7f; }, ' ');
  return text;
}

Failure not_expected(const char* what, const json& answer) {
  return fail(ErrorClass::kMalformed, "etcd's answer to {} is not as expected: {}", what,
              beginning_of(answer.dump(-1, ' ', true, json::error_handler_t::replace)));
}

// A field of an object; null: it is not there, or `object` is no object.
const json& field(const json& object, const char* key) {
  static const json kNull;
  if (!object.is_object()) return kNull;
  const auto found = object.find(key);
  return found == object.end() ? kNull : *found;
}

// 64-bit numbers come as text; one that is 0 does not come.
std::optional<std::uint64_t> number(const json& object, const char* key) {
  const json& value = field(object, key);
  if (value.is_null()) return 0;
  if (value.is_number_unsigned()) return value.get<std::uint64_t>();
  if (!value.is_string()) return std::nullopt;
  const auto& text = value.get_ref<const std::string&>();
  std::uint64_t out = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), out);
  if (status != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return out;
}

std::optional<std::string> name(const json& object, const char* key) {
  const json& value = field(object, key);
  if (value.is_null()) return std::string();
  if (!value.is_string() || value.get_ref<const std::string&>().size() > kTextBytesMax)
    return std::nullopt;
  return value.get<std::string>();
}

std::string text_of_json(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string record_of(const GuestRight& right) {
  json record{{"generation", right.generation}, {"owner", right.owner}};
  if (!right.offered_to.empty()) record["offered_to"] = right.offered_to;
  if (!right.migration.empty()) record["migration"] = right.migration;
  return text_of_json(record);
}

std::optional<GuestRight> right_of(const std::string& text) {
  const json record = json::parse(text, nullptr, false);
  if (!record.is_object() || field(record, "generation").is_null()) return std::nullopt;
  const auto generation = number(record, "generation");
  const auto owner = name(record, "owner");
  const auto offered_to = name(record, "offered_to");
  const auto migration = name(record, "migration");
  if (!generation || !owner || !offered_to || !migration) return std::nullopt;
  return GuestRight{*generation, *owner, *offered_to, *migration};
}

struct Answer {
  json body;
  bool not_found = false;
};

Result<Answer> post(const EtcdCall& call, const char* path, const json& body) {
  SEALIFT_TRY(const EtcdReply reply, call(path, text_of_json(body)));
  Answer answer;
  answer.body = json::parse(reply.body, nullptr, false);
  if (reply.status == 200 && answer.body.is_object()) return answer;
  answer.not_found = number(answer.body, "code") == kNotFound;
  if (answer.not_found) return answer;
  const json& said = field(answer.body, "error");
  return fail(ErrorClass::kDisconnected, "etcd refused {} with status {}: {}", path, reply.status,
              beginning_of(said.is_string() ? said.get<std::string>() : reply.body));
}

// The one pair of a range in a transaction's answer; null: there is none.
Result<json> pair_of(const json& answer, std::size_t index) {
  const json& responses = field(answer, "responses");
  if (!responses.is_array() || responses.size() != 2) return not_expected("a read", answer);
  const json& range = field(responses[index], "response_range");
  const json& pairs = field(range, "kvs");
  if (!range.is_object() || (!pairs.is_null() && !pairs.is_array()))
    return not_expected("a read", answer);
  if (pairs.is_null() || pairs.empty()) return json();
  if (pairs.size() != 1) return not_expected("a read", answer);
  return pairs[0];
}

json mod_compare(const std::string& key, std::uint64_t version) {
  return {{"key", base64(key)},
          {"target", "MOD"},
          {"result", "EQUAL"},
          {"mod_revision", std::to_string(version)}};
}

}  // namespace

EtcdLocks::EtcdLocks(EtcdCall call, std::string name, std::string prefix)
    : call_(std::move(call)), name_(std::move(name)), prefix_(std::move(prefix)) {}

std::string EtcdLocks::right_key(const std::string& guest) const {
  return prefix_ + "/guests/" + guest + "/right";
}
std::string EtcdLocks::holder_key(const std::string& guest) const {
  return prefix_ + "/guests/" + guest + "/holder";
}

Result<LockState> EtcdLocks::read(const std::string& guest) {
  const auto range = [](const std::string& key) {
    return json{{"request_range", {{"key", base64(key)}}}};
  };
  const json body{{"success", {range(right_key(guest)), range(holder_key(guest))}}};
  SEALIFT_TRY(const Answer answer, post(call_, "/v3/kv/txn", body));
  SEALIFT_TRY(const json right, pair_of(answer.body, 0));
  SEALIFT_TRY(const json holder, pair_of(answer.body, 1));
  LockState state;
  if (!right.is_null()) {
    const json& value = field(right, "value");
    const auto version = number(right, "mod_revision");
    const auto text = value.is_string() ? from_base64(value.get_ref<const std::string&>())
                                        : std::optional<std::string>();
    if (text) state.right = right_of(*text);
    if (!state.right || !version || *version == 0) return not_expected("a read", right);
    state.right_version = *version;
  }
  if (!holder.is_null()) {
    const auto version = number(holder, "mod_revision");
    const auto lease = number(holder, "lease");
    if (!version || *version == 0 || !lease) return not_expected("a read", holder);
    state.holder_version = *version;
    state.holder = std::to_string(*lease);
  }
  return state;
}

Result<Written> EtcdLocks::write(const std::string& guest, const LockState& seen,
                                 const GuestRight& next, const LeaseId& holder) {
  const std::string holder_at = holder_key(guest);
  json puts = json::array(
      {{{"request_put", {{"key", base64(right_key(guest))}, {"value", base64(record_of(next))}}}}});
  if (holder.empty()) {
    puts.push_back({{"request_delete_range", {{"key", base64(holder_at)}}}});
  } else {
    puts.push_back(
        {{"request_put",
          {{"key", base64(holder_at)}, {"value", base64(next.owner)}, {"lease", holder}}}});
  }
  const json body{{"compare",
                   {mod_compare(right_key(guest), seen.right_version),
                    mod_compare(holder_at, seen.holder_version)}},
                  {"success", std::move(puts)}};
  SEALIFT_TRY(const Answer answer, post(call_, "/v3/kv/txn", body));
  if (answer.not_found) return Written::kLeaseEnded;
  const json& succeeded = field(answer.body, "succeeded");
  if (!succeeded.is_null() && !succeeded.is_boolean()) return not_expected("a write", answer.body);
  return succeeded.is_boolean() && succeeded.get<bool>() ? Written::kDone : Written::kChanged;
}

Result<Lease> EtcdLocks::grant(std::uint64_t ttl_ns) {
  const std::uint64_t ttl_s = (ttl_ns + kSecond_ns - 1) / kSecond_ns;
  SEALIFT_TRY(const Answer answer,
              post(call_, "/v3/lease/grant", json{{"TTL", std::to_string(ttl_s)}}));
  const auto id = number(answer.body, "ID");
  const auto granted_s = number(answer.body, "TTL");
  if (!id || *id == 0 || !granted_s || *granted_s == 0 || *granted_s > kTtlMax_s)
    return not_expected("a grant", answer.body);
  return Lease{std::to_string(*id), *granted_s * kSecond_ns};
}

Result<std::optional<std::uint64_t>> EtcdLocks::renew(const LeaseId& lease) {
  SEALIFT_TRY(const Answer answer, post(call_, "/v3/lease/keepalive", json{{"ID", lease}}));
  const json& result = field(answer.body, "result");
  const auto granted_s = number(result, "TTL");
  if (!result.is_object() || !granted_s || *granted_s > kTtlMax_s)
    return not_expected("a keep-alive", answer.body);
  if (*granted_s == 0) return std::optional<std::uint64_t>();  // it is not there
  return std::optional(*granted_s * kSecond_ns);
}

Result<void> EtcdLocks::revoke(const LeaseId& lease) {
  SEALIFT_CHECK(post(call_, "/v3/lease/revoke", json{{"ID", lease}}));
  return {};
}

}  // namespace sealift
