// SourceRunner: drives SourceSession with threads, a channel, a guest and a platform. The flow of a
// migration at the source reads top to bottom in source_runner.cc.
//
// Owner:   the agent (or an embedding VMM); one for each migration.
// Threads: run() blocks its caller, which becomes the control thread; it owns a reader thread and a
// round thread and
//          joins both, and those of StreamSenders. cancel() may come from any thread at any time.
// Failure: never fails as a call: the report says how the migration ended.
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <optional>
#include <thread>

#include "engine/guest_port.h"
#include "engine/private_path.h"
#include "engine/records.h"
#include "engine/source_session.h"
#include "tools/agent/clock.h"
#include "tools/agent/event_queue.h"
#include "tools/agent/linger.h"
#include "tools/agent/progress.h"
#include "tools/agent/round_sender.h"

namespace sealift {

class SourceRunner {
 public:
  // `exporter` is null for guests without a platform; `notes` is null without a journal, and then
  // config.claim is empty. All references outlive the runner.
  // `links`: null where config.data_streams is 0.
  SourceRunner(SourceConfig config, GuestPort& guest, PrivateExporter* exporter,
               RecordChannel& channel, Progress& progress, RightNotes* notes = nullptr,
               const StreamLinks* links = nullptr);

  MigrationReport run();
  // False: too late, the hand-over may have been sent.
  bool cancel();
  // What the destination said of itself, after run().
  const std::optional<Hello>& peer() const { return session_.peer(); }
  // A complete copy may wait there; after run().
  bool destination_may_hold() const { return session_.destination_may_hold(); }

 private:
  void read_records();
  void handle(source::Event event);
  bool perform_note(source::Note& action);  // false: the rest of the step does not happen
  void perform(source::Note&) {}            // perform_note() does it
  void perform(source::Send& action);
  void perform(source::CheckPlatform& action);
  void perform(source::StartPlatform& action);
  void perform(source::RunRound& action);
  void perform(source::StopRound& action);
  void perform(source::Throttle& action);
  void perform(source::Survey& action);
  void perform(source::Pause& action);
  void perform(source::SaveState& action);
  void perform(source::Seal& action);
  void perform(source::Release& action);
  void perform(source::Recover& action);
  void perform(source::End& action);

  Result<void> join_streams();
  void cut();  // nothing blocks on the peer any more; any thread
  void reply(source::Event event) { replies_.push_back(std::move(event)); }
  void keep_alive();
  void publish_phase();
  void note_prediction();
  void begin_handover();
  void fill_downtime();

  bool const ignore_readiness_;
  std::chrono::nanoseconds const harvest_every_;
  std::uint64_t const slice_ns_;
  RightFacts facts_;
  SourceSession session_;
  GuestPort& guest_;
  PrivateExporter* exporter_;
  RecordChannel& channel_;
  Progress& progress_;
  RightNotes* notes_;
  const StreamLinks* links_;
  CancelToken cut_streams_;
  std::optional<StreamSenders> streams_;
  RoundSender sender_;
  EventQueue<source::Event> queue_;
  std::vector<source::Event>
      replies_;  // answers to actions of the present step, before anything else
  MigrationReport report_;
  DowntimeMarks marks_;
  Stopwatch total_;
  Stopwatch round_;
  Stopwatch part_;
  bool handing_over_ = false;  // marks_.finish_ns is taken
  std::uint64_t last_sent_ns_ = 0;
  std::mutex cancel_mutex_;
  bool handed_over_ = false;                   // guarded by cancel_mutex_
  std::optional<ShutdownGuard> cancel_guard_;  // guarded by cancel_mutex_
  std::optional<ShutdownGuard> round_guard_;   // a round that was asked to stop
  bool tracking_ = false;
  bool throttled_ = false;
  bool spoke_last_ = false;  // the last thing that happened on the link was our record
  bool ended_ = false;
  std::jthread round_thread_;
};

}  // namespace sealift
