#include "vmm_glue/exits/quote_provider.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>

#include "vmm_glue/exits/tdx_calls.h"
#include "vmm_glue/exits/vmgexit_test_support.h"

namespace sealift {
namespace {

using test::FakeGuest;
constexpr std::uint64_t kBuffer = 0x10000;

struct Counter {
  void add() {
    const std::lock_guard lock(mutex);
    ++count;
    changed.notify_all();
  }
  bool wait(int wanted) {
    std::unique_lock lock(mutex);
    return changed.wait_for(lock, std::chrono::seconds(30), [&] { return count >= wanted; });
  }
  std::mutex mutex;
  std::condition_variable changed;
  int count = 0;
};

TEST(WorkerQuoteProvider, QuotesReachTheGuestFromItsThread) {
  FakeGuest guest({GfnRange{Gfn{0}, 0x1000}});
  guest.share({Gfn{0x10}, 0x100});
  Counter notified;
  WorkerQuoteProvider provider([](ByteView report) -> Result<Bytes> {
    Bytes quote(report.begin(), report.end());
    std::ranges::reverse(quote);
    return quote;
  });
  TdxCalls calls(guest, &provider, [&](TdxNotify) { notified.add(); }, {});
  calls.set_notify_target(TdxNotify{0, 0x40});
  for (std::uint64_t i = 0; i < 8; ++i) {
    guest.poke_word(kBuffer + 4096 * i, TdxQuoteHeader{1, 0, 2, 0});
    guest.poke_word(kBuffer + 4096 * i + 24, static_cast<std::uint16_t>(0x100 * i + 1));
    KvmRun run{};
    run.exit_reason = kKvmExitTdx;
    run.exit.tdx.nr = kTdxGetQuote;
    run.exit.tdx.get_quote = {0, kBuffer + 4096 * i, 4096};
    ASSERT_EQ(calls.handle(run, 0).ret, 0u);
  }
  ASSERT_TRUE(notified.wait(8));
  for (std::uint64_t i = 0; i < 8; ++i) {
    EXPECT_EQ(guest.peek<TdxQuoteHeader>(kBuffer + 4096 * i).status, 0u);
    EXPECT_EQ(guest.peek<std::uint16_t>(kBuffer + 4096 * i + 24), 0x100 + i);
  }
}

TEST(WorkerQuoteProvider, EndRefusesWhatWaitsAndTheQueueIsBounded) {
  Counter entered;
  Counter refused;
  int done = 0;
  const auto count = [&](const Result<Bytes>& quote) {
    if (quote) {
      ++done;
    } else {
      EXPECT_EQ(quote.error().cls, ErrorClass::kRefused);
      refused.add();
    }
  };
  {
    WorkerQuoteProvider provider([&](ByteView) -> Result<Bytes> {
      entered.add();
      EXPECT_TRUE(refused.wait(65));  // served until the destructor has refused the others
      return Bytes(1);
    });
    provider.request({}, count);
    ASSERT_TRUE(entered.wait(1));
    for (std::size_t i = 0; i < WorkerQuoteProvider::kWaitingMax; ++i) provider.request({}, count);
    EXPECT_EQ(refused.count, 0);
    provider.request({}, count);
    EXPECT_EQ(refused.count, 1);
  }
  EXPECT_EQ(done, 1);
  EXPECT_EQ(refused.count, 65);
}

}  // namespace
}  // namespace sealift
