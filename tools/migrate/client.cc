#include "tools/migrate/client.h"

#include <array>
#include <utility>

#include "engine/stats.h"
#include "tools/migrate/exit_codes.h"

namespace sealift {

using nlohmann::json;

namespace {

constexpr Millis kConnectMax{5'000};
constexpr Millis kAnswerMax{180'000};  // a digest or a check of a large guest takes its time

ErrorClass class_named(const std::string& name) {
  for (const ErrorClass cls : {ErrorClass::kPeerFault, ErrorClass::kMalformed, ErrorClass::kRefused,
                               ErrorClass::kDisconnected, ErrorClass::kCancelled,
                               ErrorClass::kTimedOut, ErrorClass::kPolicy, ErrorClass::kUsage}) {
    if (name == name_of(cls)) return cls;
  }
  return ErrorClass::kLocalFault;
}

}  // namespace

Result<AgentClient> AgentClient::make(const std::string& address, const std::string& certs_dir) {
  SEALIFT_TRY(Address parsed, parse_address(address));
  std::optional<TlsContext> tls;
  if (!certs_dir.empty() && parsed.kind == Address::Kind::kTcp) {
    SEALIFT_TRY(tls, TlsContext::load(certs_dir, TlsRole::kClient));
  }
  return AgentClient(std::move(parsed), std::move(tls));
}

Result<json> AgentClient::post(const std::string& target, const json& body) const {
  return call("POST", target, body.is_null() ? std::string() : body.dump());
}

Result<json> AgentClient::call(const std::string& method, const std::string& target,
                               const std::string& body) const {
  HttpCallOptions options;
  options.tls = tls_ ? &*tls_ : nullptr;
  options.connect_timeout = kConnectMax;
  options.idle_timeout = kAnswerMax;
  SEALIFT_TRY(const HttpResponse response,
              http_call(address_, options, method, target, body, CancelToken()));
  json answer = json::parse(response.body, nullptr, false);
  if (!answer.is_object()) {
    return fail(ErrorClass::kMalformed, "{} answered {} {} with status {} and no JSON object",
                to_string(address_), method, target, response.status);
  }
  if (const auto error = answer.find("error"); error != answer.end() && response.status >= 400) {
    return fail(class_named(error->value("class", "")), "{}",
                error->value("detail", "no reason given"));
  }
  if (response.status >= 400) {
    return fail(ErrorClass::kMalformed, "{} answered {} {} with status {}", to_string(address_),
                method, target, response.status);
  }
  return answer;
}

int exit_code_of(const Error& error) {
  switch (error.cls) {
    case ErrorClass::kUsage:
      return kExitUsage;
    case ErrorClass::kRefused:
      return kExitRefused;
    case ErrorClass::kPolicy:
      return kExitPolicy;
    case ErrorClass::kTimedOut:
      return kExitTimedOut;
    case ErrorClass::kCancelled:
      return kExitCancelled;
    case ErrorClass::kDisconnected:
    case ErrorClass::kMalformed:
      return kExitUnreachable;
    default:
      return kExitFailed;
  }
}

int exit_code_of_outcome(const std::string& outcome) {
  constexpr std::array<std::pair<Outcome, int>, 9> kCodes = {
      {{Outcome::kDone, kExitDone},
       {Outcome::kSourceRuns, kExitFailed},
       {Outcome::kCancelled, kExitCancelled},
       {Outcome::kRefused, kExitRefused},
       {Outcome::kPolicy, kExitPolicy},
       {Outcome::kTimedOut, kExitTimedOut},
       {Outcome::kInDoubt, kExitInDoubt},
       {Outcome::kGuestLost, kExitGuestLost},
       {Outcome::kGuestEnded, kExitGuestEnded}}};
  for (const auto& [known, code] : kCodes) {
    if (outcome == name_of(known)) return code;
  }
  return kExitUnreachable;
}

}  // namespace sealift
