// migrate-sim: runs the migration's shipped decisions in a simulated world, by seed or
// exhaustively.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>

#include "tools/migrate-sim/explore.h"
#include "tools/migrate-sim/run.h"

namespace sealift::sim {
namespace {

using nlohmann::json;

constexpr int kExitViolation = 1;
constexpr int kExitUsage = 2;

struct Options {
  std::string seed;
  std::string seeds = "1..100";
  std::string mode = "liveness";
  std::string plant = "none";
  std::string platform = "all";
  bool exhaustive = false;
  bool trace = false;
  bool as_json = false;
  bool list_plants = false;
};

std::optional<Platform> platform_named(const std::string& name) {
  if (name == "none") return Platform::kNone;
  if (name == "sev") return Platform::kSev;
  if (name == "tdx") return Platform::kTdx;
  return std::nullopt;
}

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

json to_json(const Counts& counts) {
  return json{{"steps", counts.steps},
              {"migrations", counts.migrations},
              {"killed", counts.kills},
              {"power_failures", counts.power_failures},
              {"disk_errors", counts.disk_errors},
              {"firmware_errors", counts.firmware_errors},
              {"links_cut", counts.cuts},
              {"directions_dead", counts.dead_directions},
              {"partitions", counts.partitions},
              {"in_doubt", counts.in_doubt},
              {"holding", counts.holding},
              {"settled_by_recover", counts.settled_by_recover},
              {"by_human", counts.by_human}};
}

json to_json(const std::array<std::uint64_t, kEnds>& ends) {
  json out = json::object();
  for (std::size_t i = 0; i < kEnds; ++i) {
    if (ends[i] != 0) out[name_of(static_cast<End>(i))] = ends[i];
  }
  return out;
}

void print(const json& report, bool as_json) {
  if (as_json) return fmt::print("{}\n", report.dump());
  for (const auto& [key, value] : report.items()) {
    fmt::print("{:<16} {}\n", key, value.is_string() ? value.get<std::string>() : value.dump());
  }
}

void print_trace(const std::vector<std::string>& trace) {
  for (const std::string& line : trace) fmt::print("{}\n", line);
}

int run_exhaustive(const Options& options) {
  int exit = 0;
  for (const char* name : {"none", "sev", "tdx"}) {
    if (options.platform != "all" && options.platform != name) continue;
    const auto begin = std::chrono::steady_clock::now();
    ExploreOptions what;
    what.platform = *platform_named(name);
    what.plant = *plant_named(options.plant);
    const ExploreResult result = explore(what);
    print(json{{"model", name},
               {"runs", result.runs},
               {"states", result.states},
               {"steps", result.steps},
               {"complete", result.complete},
               {"ends", to_json(result.ends)},
               {"counts", to_json(result.counts)},
               {"violations", result.violations},
               {"seconds", seconds_since(begin)}},
          options.as_json);
    if (result.violations == 0 && result.complete) continue;
    exit = kExitViolation;
    if (result.violations == 0) continue;
    fmt::print(stderr, "migrate-sim: {}: {}\n", name, result.first_violation);
    if (options.trace) print_trace(result.first_trace);
  }
  return exit;
}

int run_seeds(const Options& options, std::uint64_t first, std::uint64_t last) {
  const auto begin = std::chrono::steady_clock::now();
  Counts counts;
  std::array<std::uint64_t, kEnds> ends{};
  std::uint64_t hash = 0;
  RunOptions what;
  what.mode = options.mode == "safety" ? Mode::kSafety : Mode::kLiveness;
  what.platform = platform_named(options.platform);
  what.plant = *plant_named(options.plant);
  what.keep_trace = options.trace;
  std::uint64_t violations = 0;
  for (std::uint64_t seed = first; seed <= last; ++seed) {
    what.seed = seed;
    const RunResult result = run_seed(what);
    counts.add(result.counts);
    ++ends[static_cast<std::size_t>(result.end)];
    hash = (hash ^ result.trace_hash) * 0x100000001b3ULL;
    if (options.trace) print_trace(result.trace);
    if (result.violation.empty()) continue;
    if (++violations <= 5) {
      fmt::print(stderr, "migrate-sim: seed {}: {}\n", seed, result.violation);
      fmt::print(stderr, "  migrate-sim --seed {} --mode {} --platform {} --plant {} --trace\n",
                 seed, options.mode, options.platform, options.plant);
    }
  }
  print(json{{"seeds", fmt::format("{}..{}", first, last)},
             {"mode", options.mode},
             {"plant", options.plant},
             {"violations", violations},
             {"ends", to_json(ends)},
             {"counts", to_json(counts)},
             {"trace", fmt::format("{:016x}", hash)},
             {"seconds", seconds_since(begin)}},
        options.as_json);
  return violations == 0 ? 0 : kExitViolation;
}

// "7" or "1..2000".
std::optional<std::pair<std::uint64_t, std::uint64_t>> parse_seeds(const std::string& text) {
  const auto number = [](std::string_view digits) -> std::optional<std::uint64_t> {
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
    return value;
  };
  const std::size_t dots = text.find("..");
  const std::string_view all = text;
  const auto first = number(all.substr(0, dots));
  const auto last = dots == std::string::npos ? first : number(all.substr(dots + 2));
  if (!first || !last || *last < *first) return std::nullopt;
  return std::pair(*first, *last);
}

int run(const Options& options) {
  if (options.list_plants) {
    for (const PlantText& plant : plants()) fmt::print("{:<28} {}\n", plant.name, plant.what);
    return 0;
  }
  if (!plant_named(options.plant)) {
    fmt::print(stderr, "migrate-sim: no plant '{}'; --list-plants names them\n", options.plant);
    return kExitUsage;
  }
  if (options.exhaustive) return run_exhaustive(options);
  const auto seeds = parse_seeds(options.seed.empty() ? options.seeds : options.seed);
  if (!seeds) {
    fmt::print(stderr, "migrate-sim: seeds are a number, or FIRST..LAST\n");
    return kExitUsage;
  }
  return run_seeds(options, seeds->first, seeds->second);
}

}  // namespace
}  // namespace sealift::sim

int main(int argc, char** argv) {
  using sealift::sim::Options;
  Options options;
  CLI::App app{"Runs the decisions of a migration in a simulated world that fails"};
  app.add_option("--seed", options.seed, "one seed");
  app.add_option("--seeds", options.seeds, "FIRST..LAST (1..100)");
  app.add_option("--mode", options.mode, "safety or liveness (liveness)")
      ->check(CLI::IsMember({"safety", "liveness"}));
  app.add_option("--plant", options.plant, "a planted bug, by name");
  app.add_option("--platform", options.platform, "none, sev, tdx or all (all)")
      ->check(CLI::IsMember({"none", "sev", "tdx", "all"}));
  app.add_flag("--exhaustive", options.exhaustive, "every order of one migration, one failure");
  app.add_flag("--trace", options.trace, "every step; with --exhaustive, of the first violation");
  app.add_flag("--json", options.as_json, "one JSON object");
  app.add_flag("--list-plants", options.list_plants, "names of the planted bugs");
  CLI11_PARSE(app, argc, argv);
  return sealift::sim::run(options);
}
