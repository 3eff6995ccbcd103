// What a hostile source may put on a stream.
#include "tools/agent/stream_receivers.h"

#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <string>

#include "schemas/codec.h"
#include "schemas/record_type.h"
#include "tests/sim/stream_rig.h"

namespace sealift::test {
namespace {

using namespace std::chrono_literals;
constexpr std::uint64_t kSession = 5;

// Two streams into a guest whose first 100 pages were announced as shared.
class Receivers : public testing::Test {
 protected:
  Receivers() : guest_(kPages, 22, 1), admission_(guest_.layout()) {
    guest_.await_migration();
    guest_.page_map().convert({Gfn{0}, kPages}, PageClass::kPrivate);
    guest_.page_map().convert({Gfn{0}, 100}, PageClass::kShared);
    admission_.begin(3, 512);
    std::vector<std::unique_ptr<Stream>> theirs;
    for (std::uint8_t number = 1; number <= 2; ++number) {
      auto [source, destination] = stream_pair();
      ours_.push_back(std::move(source));
      writers_.emplace_back(std::make_unique<FrameWriter>(*ours_.back(), kSession));
      theirs.push_back(std::move(destination));
      // Frame 0 is the StreamJoin, which the acceptor has read.
      const EncodedRecord join = encode(StreamJoin{number, {}});
      EXPECT_TRUE(writers_.back()->write(join.type, number, join.meta, join.payload).has_value());
      Bytes read(kFrameHeaderBytes + join.meta.size());
      EXPECT_TRUE(theirs.back()->read_exact(read).has_value());
    }
    receivers_.emplace(
        guest_, admission_, kSession, std::move(theirs),
        [this](std::span<const Gfn> gfns) -> Result<void> {
          written_ += gfns.size();
          return {};
        },
        [this](destination::Event event) {
          const std::lock_guard lock(mutex_);
          events_.push_back(std::move(event));
          changed_.notify_all();
        });
  }

  void open(std::uint32_t epoch) {
    admission_.open(epoch);
    receivers_->open(epoch);
  }
  void send(std::uint8_t on, const Record& record) {
    const EncodedRecord encoded = encode(record);
    EXPECT_TRUE(writers_[on - 1U]
                    ->write(encoded.type, encoded.stream, encoded.meta, encoded.payload)
                    .has_value());
  }
  static LivePages pages(std::uint8_t stream, std::uint32_t epoch, GfnRange raw) {
    LivePages pages{epoch, stream, {}, {raw}, {}};
    for (std::uint64_t i = 0; i < raw.pages; ++i) {
      Bytes page(kPageBytes);
      page[0] = static_cast<std::byte>(value(raw.first) + i + 1);
      pages.body.insert(pages.body.end(), page.begin(), page.end());
    }
    return pages;
  }
  std::optional<destination::Event> next(std::chrono::milliseconds limit = 5s) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, limit, [&] { return !events_.empty(); });
    if (events_.empty()) return std::nullopt;
    destination::Event event = std::move(events_.front());
    events_.pop_front();
    return event;
  }
  void expect_failed(const std::string& text) {
    auto event = next();
    ASSERT_TRUE(event.has_value());
    auto* failed = std::get_if<destination::StreamFailed>(&*event);
    ASSERT_NE(failed, nullptr);
    EXPECT_EQ(failed->error.detail, text);
  }
  void expect_ended(std::uint8_t stream, std::uint32_t epoch, std::uint64_t shared_pages) {
    auto event = next();
    ASSERT_TRUE(event.has_value());
    auto* ended = std::get_if<destination::StreamEnded>(&*event);
    ASSERT_NE(ended, nullptr);
    EXPECT_EQ(ended->marker, (EpochEnd{epoch, stream, shared_pages, 0, {}}));
  }
  std::uint64_t shared_at(std::uint64_t gfn) { return guest_.guest_value(Gfn{gfn}); }

  SimGuest guest_;
  PageAdmission admission_;
  std::vector<std::unique_ptr<Stream>> ours_;
  std::vector<std::unique_ptr<FrameWriter>> writers_;
  std::atomic<std::uint64_t> written_{0};
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<destination::Event> events_;
  std::optional<StreamReceivers> receivers_;
};

TEST_F(Receivers, PagesAndTheirEnd) {
  open(1);
  send(1, pages(1, 1, {Gfn{3}, 4}));
  send(2, LivePages{1, 2, {{Gfn{10}, 2}}, {}, {}});
  send(1, KeepAlive{});  // its stream is 0 in the record and in the frame
  expect_failed("stream 1: a frame of stream 0 came on it");
  send(2, EpochEnd{1, 2, 2, 0, {}});
  expect_ended(2, 1, 2);
  EXPECT_EQ(written_.load(), 6U);
  EXPECT_EQ(receivers_->pages(), (std::vector<std::uint64_t>{4, 2}));
}

// A page of the next epoch may be here before EpochBegin; it is not applied until then.
TEST_F(Receivers, AnEpochThatHasNotBegunWaits) {
  send(1, pages(1, 1, {Gfn{3}, 1}));
  EXPECT_FALSE(next(50ms).has_value());
  EXPECT_EQ(written_.load(), 0U);
  open(1);
  send(1, EpochEnd{1, 1, 1, 0, {}});
  expect_ended(1, 1, 1);
  EXPECT_EQ(written_.load(), 1U);
  // Ended here, not on stream 2: nothing of epoch 2 yet, whatever comes.
  send(1, pages(1, 2, {Gfn{3}, 1}));
  EXPECT_FALSE(next(50ms).has_value());
  EXPECT_EQ(written_.load(), 1U);
}

TEST_F(Receivers, WhatIsOutOfTurnIsRefused) {
  open(1);
  send(1, pages(1, 3, {Gfn{3}, 1}));
  expect_failed("stream 1: epoch 3 came while epoch 1 was open");
  send(2, EpochEnd{1, 2, 0, 0, {}});
  expect_ended(2, 1, 0);
  send(2, pages(2, 1, {Gfn{3}, 1}));
  expect_failed("stream 2: pages of epoch 1 came on stream 2, which has ended the epoch");
  EXPECT_EQ(written_.load(), 0U);
}

TEST_F(Receivers, APageOnTwoStreams) {
  open(1);
  send(1, pages(1, 1, {Gfn{3}, 4}));
  send(1, EpochEnd{1, 1, 4, 0, {}});
  expect_ended(1, 1, 4);
  send(2, pages(2, 1, {Gfn{6}, 1}));
  expect_failed("stream 2: page gfn 0x6 came twice in epoch 1");
}

TEST_F(Receivers, APageOfTheOtherClass) {
  open(1);
  send(1, pages(1, 1, {Gfn{98}, 4}));
  expect_failed("stream 1: page gfn 0x64 came as shared but was announced as the other class");
  send(2, LivePages{1, 2, {{Gfn{120}, 1}}, {}, {}});
  expect_failed("stream 2: page gfn 0x78 came as shared but was announced as the other class");
  EXPECT_EQ(written_.load(), 0U);
}

TEST_F(Receivers, RecordsOfStream0) {
  open(1);
  const EncodedRecord ack = encode(EpochAck{1});
  EXPECT_TRUE(writers_[0]->write(ack.type, 1, ack.meta, ack.payload).has_value());
  expect_failed("stream 1: EpochAck came on stream 1, only stream 0 may carry it");
  send(2, SharedBatch{1, 2, {Gfn{1}}, {PageEncoding::kZero}, {}});
  expect_failed("stream 2: unexpected record SharedPages");
}

TEST_F(Receivers, ALinkThatEndsInAPage) {
  open(1);
  const EncodedRecord whole = encode(pages(1, 1, {Gfn{3}, 4}));
  FrameHeader header;
  header.type = whole.type;
  header.stream = 1;
  header.meta_bytes = static_cast<std::uint32_t>(whole.meta.size());
  header.payload_bytes = static_cast<std::uint32_t>(whole.payload.size());
  header.session_id = kSession;
  header.sequence = 1;
  header.body_checksum = body_checksum(whole.type, whole.meta, whole.payload);
  const auto head = encode_header(header);
  EXPECT_TRUE(ours_[0]->write_all(head).has_value());
  EXPECT_TRUE(ours_[0]->write_all(whole.meta).has_value());
  EXPECT_TRUE(ours_[0]->write_all(ByteView(whole.payload).first(5000)).has_value());
  ours_[0]->shutdown();
  auto event = next();
  ASSERT_TRUE(event.has_value());
  const Error& error = std::get<destination::StreamFailed>(*event).error;
  EXPECT_EQ(error.cls, ErrorClass::kDisconnected);
  EXPECT_TRUE(error.detail.find("closed the connection after 5000 of 16384 bytes") !=
              std::string::npos)
      << error.detail;
  EXPECT_EQ(written_.load(), 0U);
}

TEST_F(Receivers, AFrameOfAnotherSession) {
  open(1);
  FrameWriter other(*ours_[0], kSession + 1);
  const EncodedRecord end = encode(EpochEnd{1, 1, 0, 0, {}});
  EXPECT_TRUE(other.write(end.type, 1, end.meta, end.payload).has_value());
  auto event = next();
  ASSERT_TRUE(event.has_value());
  EXPECT_TRUE(std::get<destination::StreamFailed>(*event).error.detail.find(
                  "belongs to session 0x0000000000000006") != std::string::npos);
}

// The end of the session ends every thread, whatever it waits for.
TEST_F(Receivers, StopWakesAll) {
  send(1, pages(1, 1, {Gfn{3}, 1}));  // waits at the gate; stream 2 in a read
  receivers_->stop();
  EXPECT_FALSE(next(20ms).has_value()) << "what was stopped did not fail";
}

}  // namespace
}  // namespace sealift::test
