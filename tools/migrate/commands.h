// The commands of `migrate`. Each returns its exit code and has written what it has to say.
// Threads: one.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/result.h"

namespace sealift {

struct AgentOptions {
  std::string agent;
  std::string certs;
  bool json = false;
};

struct StartOptions {
  std::string to;
  bool check_only = false;
  bool wait = false;  // the default; the flag is for scripts that say what they mean
  bool detach = false;
  bool no_verify = false;
  std::uint64_t downtime_ms = 300;
  std::uint64_t rounds_max = 30;
  std::string on_stall = "switchover";
  std::uint32_t throttle_max_percent = 0;
  bool ignore_readiness = false;
  std::uint64_t streams = 0;
  std::uint64_t timeout_ms = 0;
  std::string on_timeout = "cancel";
  std::string bandwidth = "off";
  unsigned dscp = 0;
};

struct EstimateRequest {
  std::uint64_t observe_ms = 3000;
  std::uint64_t link_mib_per_s = 0;        // 0: not given
  std::uint64_t firmware_pages_per_s = 0;  // 0: not given
  std::uint64_t round_trip_us = 1000;
  std::uint64_t downtime_ms = 300;
  std::uint32_t throttle_max_percent = 0;
};

struct CertsOptions {
  std::string dir;
  std::vector<std::string> hosts;  // folder names to make under dir
  std::vector<std::string> names;  // DNS names and IP addresses the certificates are good for
  int days = 365;
  bool json = false;
};

int run_start(const AgentOptions& common, const StartOptions& options);  // also check
int run_estimate(const AgentOptions& common, const EstimateRequest& request);
int run_watch(const AgentOptions& common);
int run_status(const AgentOptions& common);
int run_cancel(const AgentOptions& common);
int run_set(const AgentOptions& common, const std::string& bandwidth);
int run_digest(const AgentOptions& common, const std::string& at);
int run_verify(const AgentOptions& common);
int run_certs(const CertsOptions& options);

// To stderr, and to stdout as an object with --json. Returns the exit code of the error's class.
int report_error(const Error& error, bool as_json);

}  // namespace sealift
