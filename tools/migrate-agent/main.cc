// migrate-agent: one host's end of migrations. Wires Agent and its control API; ends on SIGINT or
// SIGTERM.
#include <fmt/core.h>
#include <signal.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "tools/agent/agent.h"
#include "tools/agent/api.h"
#include "tools/agent/fault_point.h"
#include "tools/agent/least_rights.h"
#include "transport/http.h"

namespace {

using namespace sealift;  // NOLINT(google-build-using-namespace): main() of the tool

struct Options {
  std::string name = "agent";
  std::string role;
  std::string control;
  std::string listen;
  std::string certs;
  std::string guest_file;
  std::string capture;
  std::string secrets;
  std::string journal;
  std::vector<std::string> hooks;
  std::uint32_t hook_time_max_ms = 10'000;
  std::string lock;
  LockConfig locks;
  unsigned lock_ttl_s = 10;
  std::vector<std::uint16_t> versions;
  std::vector<std::string> guest_words;
  bool plain_tcp = false;
  bool no_inquiry = false;
};

int usage_error(const std::string& text) {
  fmt::print(stderr, "migrate-agent: {}\n", text);
  return 2;
}

int failed(const Error& error) {
  fmt::print(stderr, "migrate-agent: {}\n", error.detail);
  return error.cls == ErrorClass::kUsage ? 2 : 1;
}

Result<AgentConfig> make_config(const Options& options) {
  AgentConfig config;
  config.name = options.name;
  config.guest.name = options.name + "-guest";
  if (!options.guest_file.empty())
    SEALIFT_CHECK(apply_guest_file(config.guest, options.guest_file));
  SEALIFT_CHECK(apply_guest_words(config.guest, options.guest_words));
  config.has_guest = options.role == "source";
  config.certs_dir = options.certs;
  config.capture_path = options.capture;
  config.secrets_path = options.secrets;
  config.journal_dir = options.journal;
  config.lock = options.locks;
  if (!options.lock.empty()) {
    constexpr std::string_view kEtcd = "etcd=";
    if (!options.lock.starts_with(kEtcd)) {
      return fail(ErrorClass::kUsage, "--lock '{}' is not etcd=https://HOST:PORT", options.lock);
    }
    config.lock.etcd = options.lock.substr(kEtcd.size());
    set_ttl(config.lock.terms, options.lock_ttl_s * 1'000'000'000ULL);
  }
  config.inquiry = !options.no_inquiry;
  if (options.versions.size() == 2) {
    config.version_min = options.versions[0];
    config.version_max = options.versions[1];
  }
  config.allow_plain_tcp = options.plain_tcp;
  if (!options.listen.empty()) {
    SEALIFT_TRY(Address listen, parse_address(options.listen));
    config.listen = std::move(listen);
  }
  return config;
}

// What of the guest and its host moves with the right to run; null: nothing.
Result<std::unique_ptr<RightResources>> make_resources(const Options& options,
                                                       const AgentConfig& config,
                                                       std::vector<AnnouncePort> ports,
                                                       Hooks::Log log) {
  ResourcesConfig resources;
  resources.disks = config.guest.disks;
  for (const std::string& text : options.hooks) {
    SEALIFT_TRY(Hook hook, parse_hook(text));
    resources.hooks.push_back(std::move(hook));
  }
  resources.hook_time_max = Millis(options.hook_time_max_ms);
  resources.announce = std::move(ports);
  if (resources.empty()) return nullptr;
  return std::make_unique<RightResources>(
      std::move(resources), config.has_guest ? config.guest.name : std::string(), std::move(log));
}

Result<void> check_tls(const Options& options, const std::optional<Address>& address) {
  if (!address || address->kind != Address::Kind::kTcp) return {};
  if (!options.certs.empty() || options.plain_tcp) return {};
  return fail(ErrorClass::kUsage,
              "{} needs --certs DIR (made by `migrate certs`); --insecure-plain-tcp does without, "
              "for tests",
              to_string(*address));
}

int run(const Options& options) {
  // Blocked before any thread is made, so that only the wait below sees them.
  sigset_t ends;
  sigemptyset(&ends);
  sigaddset(&ends, SIGINT);
  sigaddset(&ends, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &ends, nullptr);

  auto config = make_config(options);
  if (!config) return failed(config.error());
  std::mutex log_mutex;
  const auto log = [&](const std::string& text) {
    const std::string line = fmt::format("{}: {}\n", options.name, text);
    const std::lock_guard lock(log_mutex);
    // Not fmt::print(), which throws when the disk under the log is full: a guest must not end for
    // it.
    static_cast<void>(std::fwrite(line.data(), 1, line.size(), stderr));
  };
  auto ports = open_announce_ports(config->guest.announce);  // needs what is dropped next
  if (!ports) return failed(ports.error());
  if (auto dropped = drop_privileges(); !dropped) return failed(dropped.error());
  if (options.hooks.empty()) {
    if (auto forbidden = forbid_programs(); !forbidden) return failed(forbidden.error());
  }
  auto resources = make_resources(options, *config, std::move(*ports), log);
  if (!resources) return failed(resources.error());
  config->resources = std::move(*resources);
  auto control = parse_address(options.control);
  if (!control) return failed(control.error());
  for (const auto& address : {std::optional<Address>(*control), config->listen}) {
    if (auto ok = check_tls(options, address); !ok) return failed(ok.error());
  }
  auto listener = Listener::bind(*control);
  if (!listener) return failed(listener.error());
  auto agent = Agent::start(std::move(*config), log);
  if (!agent) return failed(agent.error());

  std::optional<TlsContext> tls;
  if (control->kind == Address::Kind::kTcp && !options.certs.empty()) {
    auto loaded = TlsContext::load(options.certs, TlsRole::kServer);
    if (!loaded) return failed(loaded.error());
    tls = *loaded;
  }
  HttpServerOptions serving;
  serving.tls = tls ? &*tls : nullptr;
  HttpServer server(
      std::move(*listener),
      [&](const HttpRequest& request) { return handle_request(**agent, request); }, serving);

  std::string ready = fmt::format("ready name={} role={} control={}", options.name, options.role,
                                  to_string(server.bound_address()));
  if (const auto listen = (*agent)->listen_address()) ready += " listen=" + to_string(*listen);
  ready += fmt::format(" backend={}", name_of((*agent)->backend().backend));
  fmt::print("{}\n", ready);
  std::fflush(stdout);
  log((*agent)->backend().why);

  int signal = 0;
  sigwait(&ends, &signal);
  server.stop();
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app{
      "One host's end of live migrations: holds a guest, sends it away, or takes one.\n"
      "Prints one line 'ready name=… role=… control=ADDR listen=ADDR backend=…' once it serves.\n"
      "Addresses: tcp:HOST:PORT (port 0 takes a free one) or unix:PATH. tcp uses mutual TLS 1.3."};
  app.add_option("--name", options.name, "name in messages")->capture_default_str();
  app.add_option("--role", options.role, "source launches the guest, destination waits for one")
      ->required()
      ->check(CLI::IsMember({"source", "destination"}));
  app.add_option("--control", options.control, "address of the control API, for `migrate --agent`")
      ->required();
  app.add_option("--listen", options.listen,
                 "address where guests may arrive; a destination needs it");
  app.add_option("--certs", options.certs,
                 "folder with ca.pem, host.pem and host.key (see `migrate certs`)");
  app.add_flag("--insecure-plain-tcp", options.plain_tcp,
               "allow tcp without TLS; for tests on a trusted link");
  app.add_option("--capture", options.capture,
                 "write the frames of outgoing migrations to this file, for `migrate-dump`; it "
                 "holds the guest's "
                 "shared pages as they are");
  app.add_option("--journal", options.journal,
                 "folder of this agent's own where it writes down who may run its guests, so that "
                 "a migration in doubt can be settled (`migrate recover`)");
  app.add_option("--hook", options.hooks,
                 "EVENT=PATH: a program to run when the guest moved; EVENT is one of "
                 "guest-runs-here, guest-left, guest-kept, in-doubt, discarded, lost")
      ->allow_extra_args(false);
  app.add_option("--hook-timeout-ms", options.hook_time_max_ms, "a hook is killed after this time")
      ->capture_default_str()
      ->check(CLI::Range(1, 600'000));
  app.add_option("--lock", options.lock,
                 "etcd=https://HOST:PORT[,…]: run guests under leases of this lock manager, which "
                 "says who may run one when a host cannot be asked; needs --journal");
  app.add_option("--lock-certs", options.locks.certs_dir,
                 "folder with ca.pem, host.pem and host.key for it");
  app.add_option("--lock-prefix", options.locks.prefix, "of its keys (default /sealift)");
  app.add_option("--lock-ttl-s", options.lock_ttl_s,
                 "a host that cannot renew its lease for so long has lost it; its guest stands "
                 "before that")
      ->capture_default_str()
      ->check(CLI::Range(3, 3600));
  app.add_flag("--lock-take-over", options.locks.take_over,
               "launch a guest that another host had last, once that host's lease has ended: "
               "whatever it still has of the guest will never run again");
  app.add_flag(
      "--no-inquiry", options.no_inquiry,
      "with --journal: neither ask other agents about migrations in doubt nor answer them; "
      "an operator settles them (`migrate recover`)");
  app.add_option("--reveal-secrets-for-tests", options.secrets,
                 "write the keys that open a captured stream to this file; gives the guest away");
  app.add_option("--protocol-versions", options.versions,
                 "offer only protocol versions MIN to MAX; for tests of upgrades")
      ->expected(2)
      ->check(CLI::Range(1, 65535));
  app.add_option("--guest-file", options.guest_file,
                 "TOML file with guest options, at top level or in [guest]");
  app.add_option("guest", options.guest_words,
                 "guest options as key=value; they override the file");
  app.footer(
      std::string(
          "Guest options (both sides must agree on platform, backend, memory and vcpus):\n") +
      kGuestSpecHelp);
#ifdef SEALIFT_FAULT_POINTS
  std::string stop_at;
  app.add_option("--stop-at", stop_at, "POINT[:N]: stop there, at the N-th passing");
  app.add_flag_callback(
      "--fault-points",
      [] {
        for (const std::string& point : fault_points()) fmt::print("{}\n", point);
        throw CLI::Success();
      },
      "list the points");
#endif
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& done) {
    return app.exit(done);
  } catch (const CLI::ParseError& error) {
    return usage_error(error.what());
  }
#ifdef SEALIFT_FAULT_POINTS
  if (!stop_at.empty()) {
    if (auto armed = stop_at_fault_point(stop_at); !armed) return failed(armed.error());
  }
#endif
  if (options.role == "destination" && options.listen.empty()) {
    return usage_error("--role destination needs --listen ADDR, where guests arrive");
  }
  return run(options);
}
