// Rig: both runners of one migration in memory, with a simulated guest and firmware on each side.
//
// Fault model: the link's (support/memory_channel.h) and the guests' (support/sim_guest.h).
// Owner: the test. Threads: run() blocks; it makes the destination's thread and joins it.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <thread>

#include "tests/support/memory_channel.h"
#include "tests/support/sim_guest.h"
#include "tools/agent/destination_runner.h"
#include "tools/agent/source_runner.h"

namespace sealift::test {

inline constexpr std::uint64_t kPages = 300;

inline Hello hello(std::string name) {
  Hello hello;
  hello.agent_name = std::move(name);
  hello.build = "test";
  hello.platform = Platform::kSev;
  hello.backend = "model";
  hello.memory = {GfnRange{Gfn{0}, kPages}};
  hello.batch_pages_max = 32;
  return hello;
}

struct Rig {
  explicit Rig(std::uint64_t seed) : source(kPages, 11, seed), destination(kPages, 22, seed + 1) {
    destination.await_migration();
    std::tie(source_end, destination_end) = make_memory_channels();
    source_config.hello = hello("A");
    source_config.guest_name = "guest";
    source_config.goals.rounds_max = 4;
    source_config.goals.downtime_max_ns = 1;  // never predicted: always the full number of rounds
    hooks.open_guest = [this]() -> Result<IncomingGuest> {
      return IncomingGuest{&destination, &importer};
    };
  }

  void run() {
    Progress progress_destination;
    SourceRunner runner(source_config, source, &exporter, *source_end, progress, source_notes,
                        links);
    source_runner = &runner;
    DestinationRunner incoming(destination_hello, destination.layout(), *destination_end, hooks,
                               progress_destination, card, destination_notes);
    std::jthread thread([&] { report_destination = incoming.run(); });
    report = runner.run();
    thread.join();
    source_runner = nullptr;
  }

  bool source_runs() const {
    return report.outcome != Outcome::kDone && report.outcome != Outcome::kInDoubt;
  }
  bool destination_runs() const { return report_destination.outcome == DestinationOutcome::kRuns; }
  std::string text() const {
    return std::string(name_of(report.outcome)) + ": " +
           (report.error ? report.error->detail : "-") + " / " +
           name_of(report_destination.outcome) + ": " +
           (report_destination.error ? report_destination.error->detail : "-");
  }

  SimGuest source;
  SimGuest destination;
  SimExporter exporter{source};
  SimImporter importer{destination};
  std::unique_ptr<MemoryChannel> source_end;
  std::unique_ptr<MemoryChannel> destination_end;
  SourceConfig source_config;
  Hello destination_hello = hello("B");
  Bytes card;  // of the destination's platform; set feature bits along with it
  const StreamLinks* links = nullptr;  // of source_config.data_streams
  RightNotes* source_notes = nullptr;
  RightNotes* destination_notes = nullptr;
  DestinationHooks hooks;
  Progress progress;
  std::atomic<SourceRunner*> source_runner{nullptr};
  MigrationReport report;
  DestinationReport report_destination;
};

}  // namespace sealift::test
