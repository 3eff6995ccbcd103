// Inquirer with hooks that answer from a script: what is asked again, what is carried out, how it
// ends.
#include "tools/agent/inquirer.h"

#include <gtest/gtest.h>

#include <future>

namespace sealift::test {
namespace {

using K = JournalKind;
constexpr std::chrono::seconds kLong{20};

RightToRun right_of(std::uint8_t number) {
  RightToRun right;
  right.migration[0] = std::byte{number};
  right.guest = "web-1";
  right.source = "alder";
  right.destination = "birch tcp:192.0.2.2:7000";
  return right;
}

RightWord says(K kind, bool has_guest) {
  JournalEntry entry{.right = right_of(1), .last = kind};
  return word_of(entry.right, &entry, has_guest);
}

Address address() { return *parse_address("tcp:192.0.2.2:7000"); }

struct Script {
  std::mutex mutex;
  std::condition_variable changed;
  RightWord own = says(K::kCommitting, true);
  std::vector<Result<Answer>> answers;  // one after another; the last for ever
  std::size_t asked = 0;
  bool believes = true;
  std::vector<InquiryStep> steps;
  std::string log;

  InquirerHooks hooks() {
    InquirerHooks hooks;
    hooks.own_word = [this](const RightToRun&) -> Result<RightWord> {
      const std::lock_guard lock(mutex);
      return own;
    };
    hooks.ask = [this](const Address& to, const Inquiry& inquiry) {
      const std::lock_guard lock(mutex);
      EXPECT_EQ(to, address());
      EXPECT_EQ(inquiry.word, own);
      Result<Answer> answer = answers[std::min(asked, answers.size() - 1)];
      ++asked;
      changed.notify_all();
      return answer;
    };
    hooks.believes = [this](const RightWord&) -> Result<bool> { return believes; };
    hooks.carry_out = [this](const RightWord&, InquiryStep step) -> Result<void> {
      const std::lock_guard lock(mutex);
      steps.push_back(step);
      if (step == InquiryStep::kCede) own = says(K::kCeded, false);
      changed.notify_all();
      return {};
    };
    hooks.log = [this](const std::string& text) {
      const std::lock_guard lock(mutex);
      log += text + "\n";
    };
    return hooks;
  }
  template <class Condition>
  bool wait(Condition condition) {
    std::unique_lock lock(mutex);
    return changed.wait_for(lock, kLong, condition);
  }
};

Result<Answer> refused() { return fail(ErrorClass::kDisconnected, "nobody answers"); }

TEST(Inquirer, AsksUntilSomebodyAnswersAndIsDone) {
  Script script;
  script.answers = {refused(), refused(), Answer{says(K::kTaken, true)}};
  Inquirer inquirer(script.hooks());
  inquirer.add(right_of(1), address());
  inquirer.add(right_of(1), address());  // once
  EXPECT_EQ(inquirer.status().size(), 1U);
  ASSERT_TRUE(script.wait([&] { return !script.steps.empty(); }));
  EXPECT_EQ(script.asked, 3U);
  EXPECT_EQ(script.steps, std::vector{InquiryStep::kRelease});
  const auto deadline = std::chrono::steady_clock::now() + kLong;
  while (!inquirer.status().empty()) ASSERT_LT(std::chrono::steady_clock::now(), deadline);
  const std::lock_guard lock(script.mutex);
  EXPECT_EQ(script.log,
            "asked tcp:192.0.2.2:7000 about web-1: nobody answers\n"
            "asked tcp:192.0.2.2:7000 about web-1: it says Taken; run destination: the destination "
            "has taken the right and has the guest\n");
}

TEST(Inquirer, ASourceWithoutItsCopyCedesAndAsksAtOnce) {
  Script script;
  script.own = says(K::kBegun, false);
  script.answers = {Answer{says(K::kReady, true)}, Answer{says(K::kTaken, true)}};
  Inquirer inquirer(script.hooks());
  inquirer.add(right_of(1), address());
  ASSERT_TRUE(script.wait([&] { return script.asked == 2; }));
  EXPECT_EQ(script.steps, std::vector{InquiryStep::kCede});
}

TEST(Inquirer, WhoIsNotBelievedSettlesNothing) {
  Script script;
  script.believes = false;
  script.answers = {Answer{says(K::kDiscarded, false)}};
  Inquirer inquirer(script.hooks());
  inquirer.add(right_of(1), address());
  ASSERT_TRUE(script.wait([&] { return script.asked == 2; }));
  EXPECT_TRUE(script.steps.empty());
  const auto status = inquirer.status();
  ASSERT_EQ(status.size(), 1U);
  EXPECT_NE(status[0].last.find("Discarded without the session's key; needs a human"),
            std::string::npos)
      << status[0].last;
}

TEST(Inquirer, WhatCannotBeCarriedOutIsAskedAgain) {
  Script script;
  script.answers = {Answer{says(K::kDiscarded, false)}};
  InquirerHooks hooks = script.hooks();
  int failures = 0;
  hooks.carry_out = [&](const RightWord&, InquiryStep step) -> Result<void> {
    const std::lock_guard lock(script.mutex);
    if (++failures < 3) return fail(ErrorClass::kLocalFault, "disk full");
    script.steps.push_back(step);
    script.changed.notify_all();
    return {};
  };
  Inquirer inquirer(std::move(hooks));
  inquirer.add(right_of(1), address());
  ASSERT_TRUE(script.wait([&] { return !script.steps.empty(); }));
  EXPECT_EQ(script.steps, std::vector{InquiryStep::kKeep});
}

TEST(Inquirer, QuestionsAreBoundedAndAnEndIsPrompt) {
  Script script;
  script.answers = {refused()};
  const auto begun = std::chrono::steady_clock::now();
  {
    Inquirer inquirer(script.hooks());
    for (std::uint8_t i = 0; i < 40; ++i) inquirer.add(right_of(i), address());
    EXPECT_EQ(inquirer.status().size(), 16U);
    EXPECT_EQ(inquirer.status().back().migration, right_of(39).migration);
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begun, kLong);
}

}  // namespace
}  // namespace sealift::test
