#include "tools/migrate/commands.h"

#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "tools/migrate/client.h"
#include "tools/migrate/exit_codes.h"
#include "tools/migrate/follow.h"
#include "tools/migrate/view.h"
#include "transport/certs.h"

namespace sealift {

using nlohmann::json;

int report_error(const Error& error, bool as_json) {
  if (as_json) {
    fmt::print("{}\n",
               json{{"error", {{"class", name_of(error.cls)}, {"detail", error.detail}}}}.dump());
  }
  fmt::print(stderr, "migrate: {}\n", error.detail);
  return exit_code_of(error);
}

namespace {

int report_result(const json& report, const StartOptions& options, bool as_json) {
  if (as_json) {
    fmt::print("{}\n", report.dump());
  } else {
    fmt::print("{}", report_text(report, options.check_only));
  }
  const int code = exit_code_of_outcome(report.value("outcome", ""));
  if (code != kExitDone) {
    const json error = report.value("error", json::object());
    fmt::print(stderr, "migrate: {}: {}\n", report.value("outcome", ""),
               error.value("detail", "no reason given"));
  }
  return code;
}

// Prints the answer of a simple call.
int print_answer(const Result<json>& answer, const AgentOptions& common, const std::string& text) {
  if (!answer) return report_error(answer.error(), common.json);
  fmt::print("{}{}", common.json ? answer->dump() : text, common.json ? "\n" : "");
  return kExitDone;
}

}  // namespace

int run_start(const AgentOptions& common, const StartOptions& options) {
  auto client = AgentClient::make(common.agent, common.certs);
  if (!client) return report_error(client.error(), common.json);
  json request = {{"to", options.to},
                  {"check_only", options.check_only},
                  {"verify", !options.no_verify},
                  {"ignore_readiness", options.ignore_readiness},
                  {"downtime_ms", options.downtime_ms},
                  {"rounds_max", options.rounds_max},
                  {"on_stall", options.on_stall},
                  {"throttle_max_percent", options.throttle_max_percent},
                  {"timeout_ms", options.timeout_ms},
                  {"on_timeout", options.on_timeout},
                  {"bandwidth", options.bandwidth},
                  {"dscp", options.dscp}};
  request["streams"] = options.streams;
  // From here on Ctrl-C means "cancel", not "leave the migration to itself".
  const InterruptWatch interrupt;
  auto started = client->post("/v1/migrate", request);
  if (!started) return report_error(started.error(), common.json);
  if (options.detach) {
    fmt::print("{}",
               common.json ? started->dump() + "\n" : "migration started; see `migrate watch`\n");
    return kExitDone;
  }
  auto status = follow(*client, interrupt, FollowStyle{isatty(STDERR_FILENO) == 1, true, stderr});
  if (!status) return report_error(status.error(), common.json);
  const auto report = status->find("report");
  if (report == status->end()) {
    return report_error(Error{ErrorClass::kMalformed, "the agent has no report of this migration"},
                        common.json);
  }
  return report_result(*report, options, common.json);
}

int run_watch(const AgentOptions& common) {
  auto client = AgentClient::make(common.agent, common.certs);
  if (!client) return report_error(client.error(), common.json);
  const InterruptWatch interrupt;
  const bool terminal = isatty(STDOUT_FILENO) == 1 && !common.json;
  auto status = follow(*client, interrupt, FollowStyle{terminal, false, stdout});
  if (!status) return report_error(status.error(), common.json);
  if (status->contains("report")) {
    const json& report = (*status)["report"];
    fmt::print("{}", common.json ? report.dump() + "\n" : report_text(report, false));
    return exit_code_of_outcome(report.value("outcome", ""));
  } else if (!common.json) {
    fmt::print("{}", status_text(*status));
  }
  return kExitDone;
}

int run_status(const AgentOptions& common) {
  auto client = AgentClient::make(common.agent, common.certs);
  if (!client) return report_error(client.error(), common.json);
  const auto status = client->get("/v1/status");
  return print_answer(status, common, status ? status_text(*status) : "");
}

int run_set(const AgentOptions& common, const std::string& bandwidth) {
  auto client = AgentClient::make(common.agent, common.certs);
  if (!client) return report_error(client.error(), common.json);
  return print_answer(client->post("/v1/limits", {{"bandwidth", bandwidth}}), common,
                      "set: bandwidth " + bandwidth + "\n");
}

int run_cancel(const AgentOptions& common) {
  auto client = AgentClient::make(common.agent, common.certs);
  if (!client) return report_error(client.error(), common.json);
  return print_answer(client->post("/v1/cancel", json()), common, "cancel requested\n");
}

int run_digest(const AgentOptions& common, const std::string& at) {
  auto client = AgentClient::make(common.agent, common.certs);
  if (!client) return report_error(client.error(), common.json);
  const auto digest = client->get(at.empty() ? "/v1/digest" : "/v1/digest?at=" + at);
  if (!digest) return report_error(digest.error(), common.json);
  return print_answer(
      digest, common,
      fmt::format("at            {}\nmemory        {} ({})\npage map      {}\nshared "
                  "pages  {}\nprivate pages {}\n",
                  digest->value("at", ""), digest->value("memory_sha256", ""),
                  digest->value("covers", ""), digest->value("page_map_sha256", ""),
                  digest->value("shared_pages", std::uint64_t{0}),
                  digest->value("private_pages", std::uint64_t{0})));
}

int run_estimate(const AgentOptions& common, const EstimateRequest& request) {
  auto client = AgentClient::make(common.agent, common.certs);
  if (!client) return report_error(client.error(), common.json);
  const auto estimate =
      client->post("/v1/estimate", {{"observe_ms", request.observe_ms},
                                    {"link_mib_per_s", request.link_mib_per_s},
                                    {"firmware_pages_per_s", request.firmware_pages_per_s},
                                    {"round_trip_us", request.round_trip_us},
                                    {"downtime_ms", request.downtime_ms},
                                    {"throttle_max_percent", request.throttle_max_percent}});
  if (!estimate) return report_error(estimate.error(), common.json);
  print_answer(estimate, common, estimate_text(*estimate));
  return estimate->value("converges", false) ? kExitDone : kExitFailed;
}

int run_verify(const AgentOptions& common) {
  auto client = AgentClient::make(common.agent, common.certs);
  if (!client) return report_error(client.error(), common.json);
  const auto check = client->post("/v1/verify", json());
  if (!check) return report_error(check.error(), common.json);
  const auto errors = check->value("errors", std::uint64_t{0});
  print_answer(
      check, common,
      fmt::format("the guest checked {} pages and found {} errors; it has converted {} times\n",
                  check->value("pages_checked", std::uint64_t{0}), errors,
                  check->value("conversions", std::uint64_t{0})));
  return errors == 0 ? kExitDone : kExitGuestFaulty;
}

int run_certs(const CertsOptions& options) {
  const std::filesystem::path dir(options.dir);
  const std::string ca = (dir / "ca").string();
  json made = json::array();
  std::error_code trouble;
  std::filesystem::create_directories(dir, trouble);
  if (trouble) {
    return report_error(
        Error{ErrorClass::kUsage, fmt::format("making {}: {}", options.dir, trouble.message())},
        options.json);
  }
  if (!std::filesystem::exists(dir / "ca" / "ca.pem")) {
    if (auto ok = make_ca(ca); !ok) return report_error(ok.error(), options.json);
    made.push_back(ca);
  }
  for (const std::string& host : options.hosts) {
    const std::string out = (dir / host).string();
    if (auto ok = make_host_certificate(ca, out, options.names, options.days); !ok) {
      return report_error(ok.error(), options.json);
    }
    made.push_back(out);
  }
  if (options.json) {
    fmt::print("{}\n", json{{"made", made}}.dump());
  } else {
    for (const json& path : made) fmt::print("made {}\n", path.get<std::string>());
    fmt::print("give each host its own folder; {}/ca.key stays with whoever makes certificates\n",
               ca);
  }
  return kExitDone;
}

}  // namespace sealift
