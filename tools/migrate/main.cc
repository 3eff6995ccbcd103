// migrate: what an operator types. Parses, calls one command, exits with its code.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <string>

#include "engine/limits.h"
#include "tools/migrate/commands.h"
#include "tools/migrate/exit_codes.h"
#include "tools/migrate/recover.h"
#include "tools/migrate/sev_cert.h"
#include "transport/certs.h"

namespace {

using namespace sealift;  // NOLINT(google-build-using-namespace): main() of the tool

void add_common(CLI::App& command, AgentOptions& common) {
  command
      .add_option("--agent", common.agent,
                  "the agent's control address: tcp:HOST:PORT or unix:PATH")
      ->required()
      ->envname("SEALIFT_AGENT");
  command
      .add_option("--certs", common.certs,
                  "folder with ca.pem, host.pem and host.key, for tcp agents")
      ->envname("SEALIFT_CERTS");
  command.add_flag("--json", common.json, "print the answer as one JSON object");
}

void add_start(CLI::App& app, AgentOptions& common, StartOptions& options) {
  CLI::App* start = app.add_subcommand("start",
                                       "Migrate the agent's guest. Progress goes to stderr: a line "
                                       "that is redrawn on a terminal, otherwise "
                                       "one JSON object a line. Ctrl-C cancels.");
  add_common(*start, common);
  start
      ->add_option("--to", options.to,
                   "where the destination listens: the listen= of its ready line")
      ->required();
  auto* wait = start->add_flag("--wait", options.wait, "wait for the end (default)");
  start->add_flag("--detach", options.detach, "return once it has begun")->excludes(wait);
  start
      ->add_option("--downtime-ms", options.downtime_ms,
                   "pause the guest when the rest takes no longer than this")
      ->capture_default_str();
  start
      ->add_option("--rounds-max", options.rounds_max,
                   "how often all that is dirty, or all private memory, is sent before --on-stall "
                   "decides")
      ->capture_default_str()
      ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{limits::kRoundsMax}));
  start
      ->add_option("--on-stall", options.on_stall,
                   "when the goal cannot be met: switchover pauses all the same")
      ->capture_default_str()
      ->check(CLI::IsMember({"switchover", "cancel"}));
  start
      ->add_option("--throttle-max", options.throttle_max_percent,
                   "percent of the time the guest's vCPUs may be held back when it dirties memory "
                   "faster than it is sent, 0 for never")
      ->capture_default_str()
      ->check(CLI::Range(0, 99));
  start->add_option("--timeout-ms", options.timeout_ms, "give up after this time, 0 for never")
      ->capture_default_str();
  start
      ->add_option("--on-timeout", options.on_timeout,
                   "when --timeout-ms passes: cancel, or force: pause after the round under way, "
                   "whatever the downtime will be")
      ->capture_default_str()
      ->check(CLI::IsMember({"cancel", "force"}));
  start
      ->add_option("--bandwidth", options.bandwidth,
                   "the most that leaves in any second, pause included: 1Gbit/s, 200MiB/s, off; "
                   "`migrate set` changes it")
      ->capture_default_str();
  start->add_option("--dscp", options.dscp, "mark the connection for routers, 0 for not")
      ->capture_default_str()
      ->check(CLI::Range(0, 63));
  start
      ->add_option("--streams", options.streams,
                   "connections for shared pages beside the first one, each with a thread on both "
                   "sides")
      ->capture_default_str()
      ->check(CLI::Range(std::uint64_t{0}, std::uint64_t{limits::kDataStreamsMax}));
  start->add_flag("--no-verify", options.no_verify,
                  "do not take a digest of memory at the hand-over");
  const char* const ignore_help =
      "migrate although the guest says that it is not ready (MSR_KVM_MIGRATION_CONTROL)";
  start->add_flag("--ignore-readiness", options.ignore_readiness, ignore_help);
  CLI::App* check =
      app.add_subcommand("check", "Ask whether a migration would be accepted; moves nothing.");
  add_common(*check, common);
  check->add_option("--to", options.to, "where the destination listens")->required();
  check->add_flag("--ignore-readiness", options.ignore_readiness, ignore_help);
}

void add_estimate(CLI::App& app, AgentOptions& common, EstimateRequest& options) {
  CLI::App* estimate = app.add_subcommand(
      "estimate",
      "Watch the running guest's writes for a few seconds and say what a migration would take. "
      "Nothing moves. Exit status 1: it cannot converge.");
  add_common(*estimate, common);
  estimate->add_option("--observe-ms", options.observe_ms, "how long to watch it, up to 25000")
      ->capture_default_str()
      ->check(CLI::Range(100, 25'000));
  estimate->add_option("--link-mib-s", options.link_mib_per_s,
                       "what the link carries; without it as the agent's last migration had it");
  estimate->add_option("--firmware-pages-s", options.firmware_pages_per_s,
                       "private pages that the firmware exports; without it as the last migration "
                       "had it, or what is known of the platform");
  estimate->add_option("--round-trip-us", options.round_trip_us, "between the two hosts")
      ->capture_default_str();
  estimate->add_option("--downtime-ms", options.downtime_ms, "as for start")->capture_default_str();
  estimate->add_option("--throttle-max", options.throttle_max_percent, "as for start")
      ->capture_default_str()
      ->check(CLI::Range(0, 99));
}

// `migrate sev cert show|verify`: files, not agents.
void add_sev(CLI::App& app, SevCertOptions& options) {
  CLI::App* sev = app.add_subcommand("sev", "AMD SEV.");
  sev->require_subcommand(1);
  CLI::App* cert = sev->add_subcommand("cert", "Certificates of SEV platforms and of AMD.");
  cert->require_subcommand(1);
  const auto add_files = [&options](CLI::App& command) {
    command
        .add_option("FILE", options.files,
                    "one certificate, or several one after the other (a platform's chain, ASK and "
                    "ARK); any order of files")
        ->required();
    command.add_flag("--json", options.json, "print the answer as one JSON object");
  };
  add_files(*cert->add_subcommand("show", "What is in each certificate."));
  CLI::App* verify = cert->add_subcommand(
      "verify", "Whether each certificate follows from the ones above it, up to AMD's root.");
  add_files(*verify);
  verify->add_flag("--partial", options.partial,
                   "a parent that is not there, or a CEK without AMD's signature, is no failure");
}

void add_recover(CLI::App& app, AgentOptions& common, RecoverOptions& options) {
  CLI::App* recover = app.add_subcommand(
      "recover",
      "Who may run the guest of a migration that did not end, from the journals of both agents "
      "(`migrate-agent --journal`): run source, run destination, or needs a human. Changes nothing "
      "without --apply or --decide.");
  add_common(*recover, common);
  recover->add_option("--peer", options.peer, "control address of the other agent");
  recover->add_flag("--apply", options.apply, "carry the verdict out, at both agents");
  recover
      ->add_option("--decide", options.decide,
                   "a human's own verdict, where the other host is known to be dead: 'run source', "
                   "'run destination', or 'forget' for a guest that is lost")
      ->check(CLI::IsMember({"run source", "run destination", "forget"}))
      ->excludes("--apply");
}

int run_sev_cert(CLI::App& app, const SevCertOptions& options) {
  const CLI::App* cert = app.get_subcommand("sev")->get_subcommand("cert");
  return cert->got_subcommand("show") ? run_sev_cert_show(options) : run_sev_cert_verify(options);
}

int run_command(CLI::App& app, const AgentOptions& common, StartOptions options,
                const CertsOptions& certs, const std::string& at) {
  if (app.got_subcommand("start")) return run_start(common, options);
  if (app.got_subcommand("check")) {
    options.check_only = true;
    return run_start(common, options);
  }
  if (app.got_subcommand("status")) return run_status(common);
  if (app.got_subcommand("watch")) return run_watch(common);
  if (app.got_subcommand("cancel")) return run_cancel(common);
  if (app.got_subcommand("set")) return run_set(common, options.bandwidth);
  if (app.got_subcommand("digest")) return run_digest(common, at);
  if (app.got_subcommand("verify")) return run_verify(common);
  return run_certs(certs);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Live migration of confidential guests between two migrate-agents."};
  app.require_subcommand(1);
  app.footer(kExitCodesHelp);
  AgentOptions common;
  StartOptions options;
  CertsOptions certs;
  SevCertOptions sev_cert;
  std::string at;
  add_start(app, common, options);
  EstimateRequest estimate;
  add_estimate(app, common, estimate);
  add_common(*app.add_subcommand("status", "What the agent and its guest are doing."), common);
  add_common(*app.add_subcommand("watch", "Follow a migration until it ends."), common);
  add_common(
      *app.add_subcommand("cancel", "Cancel the migration; the guest runs on at the source."),
      common);
  CLI::App* set = app.add_subcommand("set", "Change the migration under way.");
  add_common(*set, common);
  set->add_option("--bandwidth", options.bandwidth, "1Gbit/s, 200MiB/s, off")->required();
  CLI::App* digest =
      app.add_subcommand("digest",
                         "Digests of the guest's memory, as the guest sees it, and of its page "
                         "map. After a migration both "
                         "agents answer for the moment of the hand-over, unless --at now.");
  add_common(*digest, common);
  digest->add_option("--at", at, "now or handover")->check(CLI::IsMember({"now", "handover"}));
  add_common(*app.add_subcommand("verify", "Ask the running guest to check all its memory."),
             common);
  CLI::App* make =
      app.add_subcommand("certs", "Make a certificate authority and certificates for hosts.");
  make->add_option("--dir", certs.dir, "folder to make: DIR/ca and DIR/HOST for each host")
      ->required();
  make->add_option("--host", certs.hosts, "name of a host's folder; may be repeated")->required();
  make->add_option("--name", certs.names,
                   "DNS name or IP address the certificates are good for; may be repeated")
      ->required();
  make->add_option("--days", certs.days, "how long they are valid")
      ->capture_default_str()
      ->check(CLI::Range(1, kHostDaysMax));
  make->add_flag("--json", certs.json, "print what was made as JSON");
  RecoverOptions recover;
  add_recover(app, common, recover);
  add_sev(app, sev_cert);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& done) {
    return app.exit(done);
  } catch (const CLI::ParseError& error) {
    fmt::print(stderr, "migrate: {}\n", error.what());
    return kExitUsage;
  }
  if (app.got_subcommand("sev")) return run_sev_cert(app, sev_cert);
  if (app.got_subcommand("estimate")) return run_estimate(common, estimate);
  if (app.got_subcommand("recover")) return run_recover(common, recover);
  return run_command(app, common, options, certs, at);
}
