#include "engine/page_admission.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace sealift {
namespace {

constexpr std::uint64_t kPages = 1000;

class Admission : public testing::Test {
 protected:
  Admission()
      : layout_(*MemoryLayout::make({{Gfn{0}, 200}, {Gfn{300}, kPages - 300}})),
        admission_(layout_) {
    admission_.begin(3, 512);
    admission_.open(1);
  }
  static LivePages live(std::uint8_t stream, std::uint32_t epoch, std::vector<GfnRange> zero,
                        std::vector<GfnRange> raw = {}) {
    return {epoch, stream, std::move(zero), std::move(raw), {}};
  }
  static void expect_refused(const Result<void>& result, const std::string& text) {
    ASSERT_FALSE(result.has_value());
    EXPECT_EQ(result.error().cls, ErrorClass::kMalformed);
    EXPECT_EQ(result.error().detail, text);
  }
  void end_all(std::uint32_t epoch) {
    for (std::uint8_t stream = 0; stream < 3; ++stream) {
      EXPECT_TRUE(admission_.end(EpochEnd{epoch, stream, 0, 0, {}}).has_value());
    }
  }

  MemoryLayout layout_;
  PageAdmission admission_;
};

TEST_F(Admission, APageComesOnceInAnEpochOverAllStreams) {
  EXPECT_TRUE(admission_.admit(live(1, 1, {{Gfn{60}, 10}}, {{Gfn{300}, 200}})).has_value());
  expect_refused(admission_.admit(live(2, 1, {}, {{Gfn{0}, 64}})),
                 "page gfn 0x3c came twice in epoch 1");
  expect_refused(admission_.admit(live(2, 1, {{Gfn{499}, 100}})),
                 "page gfn 0x1f3 came twice in epoch 1");
  expect_refused(admission_.admit(live(1, 1, {{Gfn{600}, 2}}, {{Gfn{601}, 1}})),
                 "page gfn 0x259 came twice in epoch 1");
  const std::vector<Gfn> gfns = {Gfn{70}, Gfn{300}};
  expect_refused(admission_.admit(0, 1, gfns, 2, PageClass::kPrivate),
                 "page gfn 0x12c came twice in epoch 1");
}

TEST_F(Admission, TheNextEpochBeginsAnew) {
  EXPECT_TRUE(admission_.admit(live(1, 1, {}, {{Gfn{0}, 100}})).has_value());
  EXPECT_TRUE(admission_.end(EpochEnd{1, 1, 100, 0, {}}).has_value());
  EXPECT_TRUE(admission_.end(EpochEnd{1, 0, 0, 0, {}}).has_value());
  EXPECT_TRUE(admission_.end(EpochEnd{1, 2, 0, 0, {}}).has_value());
  admission_.open(2);
  EXPECT_TRUE(admission_.admit(live(2, 2, {}, {{Gfn{0}, 100}})).has_value());
  expect_refused(admission_.end(EpochEnd{2, 2, 99, 0, {}}),
                 "epoch 2 on stream 2 announces 99 shared and 0 private pages, 100 and 0 came");
  EXPECT_TRUE(admission_.end(EpochEnd{2, 2, 100, 0, {}}).has_value());
}

TEST_F(Admission, NothingOfAnEpochThatIsNotOpen) {
  expect_refused(admission_.admit(live(1, 2, {{Gfn{0}, 1}})), "pages of epoch 2 came in epoch 1");
  expect_refused(admission_.admit(live(1, 0, {{Gfn{0}, 1}})),
                 "pages of epoch 0 came on stream 1, which has ended the epoch");
  expect_refused(admission_.end(EpochEnd{2, 1, 0, 0, {}}), "EpochEnd of epoch 2 came in epoch 1");
  end_all(1);
  // The next epoch is not open because the last one has ended.
  expect_refused(admission_.admit(live(1, 2, {{Gfn{0}, 1}})), "pages of epoch 2 came in epoch 1");
  admission_.open(2);
  EXPECT_TRUE(admission_.admit(live(1, 2, {{Gfn{0}, 1}})).has_value());
}

// Also while other streams have not, and after the next epoch was opened.
TEST_F(Admission, NothingOnAStreamThatHasEndedTheEpoch) {
  EXPECT_TRUE(admission_.end(EpochEnd{1, 1, 0, 0, {}}).has_value());
  const std::string text = "pages of epoch 1 came on stream 1, which has ended the epoch";
  expect_refused(admission_.admit(live(1, 1, {{Gfn{0}, 1}})), text);
  expect_refused(admission_.end(EpochEnd{1, 1, 0, 0, {}}),
                 "EpochEnd of epoch 1 came on stream 1, which has ended the epoch");
  EXPECT_TRUE(admission_.admit(live(2, 1, {{Gfn{0}, 1}})).has_value());
  EXPECT_TRUE(admission_.end(EpochEnd{1, 2, 1, 0, {}}).has_value());
  EXPECT_TRUE(admission_.end(EpochEnd{1, 0, 0, 0, {}}).has_value());
  admission_.open(2);
  expect_refused(admission_.admit(live(1, 1, {{Gfn{0}, 1}})), text);
}

TEST_F(Admission, OnlyRamAndOnlySoMany) {
  expect_refused(admission_.admit(live(1, 1, {{Gfn{190}, 20}})),
                 "page gfn 0xbe (20 pages) is not in the guest's memory");
  expect_refused(admission_.admit(live(1, 1, {}, {{Gfn{999}, 2}})),
                 "page gfn 0x3e7 (2 pages) is not in the guest's memory");
  expect_refused(admission_.admit(live(3, 1, {{Gfn{0}, 1}})),
                 "pages of epoch 1 came on stream 3, which does not exist");
  expect_refused(admission_.admit(live(1, 1, {{Gfn{0}, 200}}, {{Gfn{300}, 313}})),
                 "a batch of 513 pages is outside 1 to 512");
  expect_refused(admission_.admit(live(1, 1, {})), "a batch of 0 pages is outside 1 to 512");
}

// Streams that send the same pages at the same time: each page is admitted for exactly one.
TEST(PageAdmissionThreads, NoPageIsAdmittedTwice) {
  constexpr std::uint64_t kMany = 64 * 1024;
  constexpr std::uint8_t kStreams = 4;
  const MemoryLayout layout = *MemoryLayout::make({{Gfn{0}, kMany}});
  PageAdmission admission(layout);
  admission.begin(kStreams, 512);
  admission.open(1);
  std::atomic<std::uint64_t> admitted{0};
  {
    std::vector<std::jthread> threads;
    for (std::uint8_t stream = 0; stream < kStreams; ++stream) {
      threads.emplace_back([&, stream] {
        for (std::uint64_t gfn = 0; gfn < kMany; ++gfn) {
          if (admission.admit(LivePages{1, stream, {}, {{Gfn{gfn}, 1}}, {}})) ++admitted;
        }
      });
    }
  }
  EXPECT_EQ(admitted.load(), kMany);
}

}  // namespace
}  // namespace sealift
