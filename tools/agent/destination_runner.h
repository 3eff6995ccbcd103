// DestinationRunner: drives DestinationSession with a channel, a guest and a platform. The flow of
// a migration at the destination reads top to bottom in destination_runner.cc.
//
// Owner:   the agent (or an embedding VMM); one for each incoming connection.
// Threads: run() blocks its caller, which applies and answers; it owns a reader thread, and those
// of StreamReceivers, and joins all. cancel() may come from any thread. Failure: never fails as a
// call: the report says how it ended.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "engine/destination_session.h"
#include "engine/guest_port.h"
#include "engine/private_path.h"
#include "engine/records.h"
#include "tools/agent/event_queue.h"
#include "tools/agent/linger.h"
#include "tools/agent/progress.h"
#include "tools/agent/stream_desk.h"
#include "tools/agent/stream_receivers.h"

namespace sealift {

// The guest that is to receive, made when a session starts (not for a mere check).
struct IncomingGuest {
  GuestPort* guest = nullptr;
  PrivateImporter* importer = nullptr;  // null for guests without a platform
};

struct DestinationHooks {
  // Makes the guest. Its memory matches the layout that was negotiated. REQUIRED.
  std::function<Result<IncomingGuest>()> open_guest;
  // Called after pages were written, when the source asked for a digest of the hand-over. Optional.
  std::function<Result<void>(std::span<const Gfn>)> pages_written;
  // The last moment before the guest runs here; its memory is as the source left it. Optional.
  std::function<void()> about_to_run;
  // The guest runs here; the source has not heard of it yet. Optional.
  std::function<void()> runs;
  // Settles and says what is asked about a migration (wire.md, Inquiry). Without it none is
  // answered.
  std::function<Result<Answer>(const Inquiry&)> answer;
  // Where further connections of the session arrive, and its id, once its first record has come.
  // Null where Hello offers no streams. pages_written() then comes from several threads.
  StreamDesk* desk = nullptr;
  std::chrono::milliseconds join_max{10'000};  // from PlatformStart to the last of them
  std::function<std::uint64_t()> session_id;
};

struct DestinationReport {
  DestinationOutcome outcome = DestinationOutcome::kUnfinished;
  std::optional<Error> error = {};
  std::optional<Hello> peer = {};
  std::uint32_t epochs = 0;
  std::uint64_t shared_pages = 0;
  std::uint64_t private_pages = 0;
  std::vector<std::uint64_t> stream_pages = {};  // on streams 1, 2, …; empty without any
  std::uint64_t load_state_ns = 0;
  std::uint64_t seal_ns = 0;
  std::uint64_t resume_ns = 0;
};

class DestinationRunner {
 public:
  // All references outlive the runner. `notes`: where the right is written down. `card`: as
  // DestinationSession's.
  DestinationRunner(Hello local, MemoryLayout layout, RecordChannel& channel,
                    DestinationHooks hooks, Progress& progress, Bytes card = {},
                    RightNotes* notes = nullptr);

  DestinationReport run();
  // False: too late, the guest is being started here, or it is over.
  bool cancel();
  // The source has given this session up: as if the link had been lost. From any thread.
  void drop_link() { channel_.shutdown(); }
  // As the source calls it, once it has; of the control thread, or after run().
  const std::string& guest_name() const { return session_.start().guest_name; }
  bool keeps_journal() const { return session_.claim().has_value(); }  // as guest_name()
  // Of the control thread, or after run().
  const std::optional<Claim>& claim() const { return session_.claim(); }

 private:
  void read_records();
  void handle(destination::Event event);
  void end_of_cancelling();
  bool perform_note(destination::Note& action);  // false: the rest of the step does not happen
  void perform(destination::Note&) {}            // perform_note() does it
  void perform(destination::Send& action);
  void perform(destination::AwaitStreams& action);
  void perform(destination::GetIdentity& action);
  void perform(destination::BeginPlatform& action);
  void perform(destination::OpenEpoch& action);
  void perform(destination::ApplyShared& action);
  void perform(destination::ApplyPrivate& action);
  void perform(destination::ApplyConversions& action);
  void perform(destination::EndEpoch& action);
  void perform(destination::CheckAndLoad& action);
  void perform(destination::Run& action);
  void perform(destination::Discard& action);
  void perform(destination::AnswerInquiry& action);
  void perform(destination::End& action);

  Result<void> start_streams();
  Result<void> check_class(Gfn gfn, PageClass cls) const;
  Result<void> write_shared(const SharedBatch& batch);
  Result<void> import_private(const PrivateBatch& batch);
  Result<void> apply(const Conversions& conversions);
  Result<destination::Loaded> check_and_load(destination::CheckAndLoad& action);
  void reply(destination::Event event) { replies_.push_back(std::move(event)); }
  void reply(Result<void> result);
  void publish();

  DestinationSession session_;
  RecordChannel& channel_;
  DestinationHooks hooks_;
  Progress& progress_;
  RightNotes* notes_;  // null: `local` does not offer a journal
  IncomingGuest incoming_;
  EventQueue<destination::Event> queue_;
  std::vector<destination::Event> replies_;
  DestinationReport report_;
  std::uint64_t last_sent_ns_ = 0;
  std::mutex cancel_mutex_;
  bool too_late_ = false;                      // to cancel; guarded by cancel_mutex_
  std::optional<ShutdownGuard> cancel_guard_;  // guarded by cancel_mutex_
  bool spoke_last_ = false;  // the last thing that happened on the link was our record
  bool ended_ = false;
  std::optional<StreamReceivers> streams_;  // last: its threads use what is above
};

}  // namespace sealift
