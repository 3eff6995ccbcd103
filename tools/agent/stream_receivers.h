// StreamReceivers: streams 1 to n of a destination. One thread each reads frames, lets the
// session's PageAdmission judge them, and receives pages straight into the guest's memory.
//
// Spec:    docs/spec/wire.md, "Connections and streams" and "Epochs".
// Owner:   DestinationRunner. Threads: its own, joined by stop() or the destructor; open() and
//          stop() come from the control thread. `report` is called from all of its threads and does
//          not block.
// Failure: the first failure of a stream ends its thread and is reported as StreamFailed.
// Invariant: when StreamEnded is reported, every page of the epoch on that stream is in memory.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <span>
#include <thread>
#include <vector>

#include "engine/destination_session.h"
#include "engine/guest_port.h"
#include "tools/agent/epoch_gate.h"
#include "transport/frame.h"
#include "transport/stream.h"

namespace sealift {

class StreamReceivers {
 public:
  using Report = std::function<void(destination::Event)>;
  using PagesWritten = std::function<Result<void>(std::span<const Gfn>)>;

  // `streams`: stream 1 first, each after its StreamJoin. `written` may be empty. All references
  // outlive it.
  StreamReceivers(GuestPort& guest, PageAdmission& admission, std::uint64_t session_id,
                  std::vector<std::unique_ptr<Stream>> streams, PagesWritten written,
                  Report report);
  ~StreamReceivers() { stop(); }
  StreamReceivers(const StreamReceivers&) = delete;
  StreamReceivers& operator=(const StreamReceivers&) = delete;

  void open(std::uint32_t epoch) { gate_.open(epoch); }
  void stop();

  // Pages that came so far, stream 1 first. Any thread.
  std::vector<std::uint64_t> pages() const;

 private:
  struct Receiver {
    Receiver(std::uint8_t of, std::unique_ptr<Stream> its, std::uint64_t session_id)
        : number(of),
          stream(std::move(its)),
          reader(*stream, FrameOrder::after_first(session_id, of)) {}
    std::uint8_t const number;
    std::unique_ptr<Stream> const stream;
    FrameReader reader;
    Bytes meta;
    Bytes staged;                     // pages that cannot land where they belong
    std::vector<MutableBytes> parts;  // of the payload under way
    std::vector<GfnRange> landed;     // the pages of those parts
    std::atomic<std::uint64_t> pages{0};
    std::jthread thread;
  };

  void run(Receiver& receiver);
  Result<void> receive_frames(Receiver& receiver);
  Result<void> receive_pages(Receiver& receiver, const FrameHeader& head);
  Result<void> read_raw(Receiver& receiver, const std::vector<GfnRange>& ranges);
  Result<void> finish_parts(Receiver& receiver);
  Result<void> read_staged(Receiver& receiver, GfnRange range);
  Result<void> end_epoch(Receiver& receiver);
  Result<void> check_class(GfnRange range) const;

  GuestPort& guest_;
  PageAdmission& admission_;
  PagesWritten const written_;
  Report const report_;
  EpochGate gate_;
  std::atomic<bool> stopped_{false};
  std::list<Receiver> receivers_;
};

}  // namespace sealift
