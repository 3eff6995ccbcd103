// migrate-bench: measures Sealift against the goals it states. Exits 1 when one is missed.
#include <fmt/core.h>

#include <CLI/CLI.hpp>

#include "tools/migrate-bench/exports_bench.h"
#include "tools/migrate-bench/page_map_bench.h"
#include "tools/migrate-bench/policy_bench.h"

namespace {

constexpr int kExitOk = 0;
constexpr int kExitGoalMissed = 1;

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Measures Sealift against its goals. Exit status: 0 met, 1 a goal is missed.");
  app.require_subcommand(1);

  CLI::App* page_map = app.add_subcommand(
      "page-map", "The page map and the dirty set of a 1 TiB guest: speed and memory.");
  sealift::bench::PageMapOptions page_map_options;
  bool json = false;
  page_map->add_flag("--quick", page_map_options.quick, "what a test run has time for");
  page_map->add_flag("--json", json, "print one JSON object instead of the table");
  CLI::App* exports = app.add_subcommand(
      "exports",
      "Exports through a firmware of 400 pages/s: how many more than have to be, and downtime.");
  sealift::bench::ExportsOptions exports_options;
  exports->add_flag("--quick", exports_options.quick, "one seed");
  exports->add_flag("--json", json, "print one JSON object instead of the table");
  CLI::App* policy = app.add_subcommand(
      "policy", "The convergence policy over workloads and links, in simulated time.");
  policy->add_flag("--json", json, "print one JSON object instead of the table");

  CLI11_PARSE(app, argc, argv);
  const sealift::bench::Report report =
      exports->parsed()  ? sealift::bench::run_exports(exports_options)
      : policy->parsed() ? sealift::bench::run_policy()
                         : sealift::bench::run_page_map(page_map_options);
  fmt::print("{}", json ? report.json() : report.table());
  return report.passed() ? kExitOk : kExitGoalMissed;
}
