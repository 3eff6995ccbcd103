// Programs of the operator's that succeed, fail, hang, talk too much or cannot be started.
#include "tools/agent/hooks.h"

#include <gmock/gmock.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>

#include "transport/fd.h"

namespace sealift::test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr Millis kLong{20'000};

Result<HookEnd> shell(const std::string& script, Millis time_max = kLong,
                      const CancelToken& stop = {}) {
  return run_hook({"/bin/sh", "-c", script}, {"PATH=/usr/bin:/bin", "WORD=two words"}, time_max,
                  stop);
}

TEST(HookProcess, ExitCodeEnvironmentAndOutput) {
  const auto end = shell("echo \"$WORD\"; echo aside >&2; exit 7");
  ASSERT_TRUE(end.has_value()) << end.error().detail;
  EXPECT_EQ(end->exit_code, 7);
  EXPECT_FALSE(end->good());
  EXPECT_EQ(end->output, "two words\naside\n");
  EXPECT_FALSE(end->output_cut);
  EXPECT_TRUE(shell("true")->good());
  EXPECT_EQ(shell("kill -9 $$")->signal, SIGKILL);
}

TEST(HookProcess, InputIsEmptyAndNoDescriptorIsInherited) {
  const UniqueFd ours(::dup(2));  // without close-on-exec, as a careless library leaves one
  ASSERT_TRUE(ours);
  const auto end = shell("cat; ls /proc/$$/fd");
  ASSERT_TRUE(end.has_value()) << end.error().detail;
  EXPECT_EQ(end->output, "0\n1\n2\n");
}

TEST(HookProcess, SignalsAreAsUsual) {
  sigset_t set;
  sigset_t before;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &set, &before);  // as the agent has it
  const auto end = shell("kill -TERM $$; echo still there");
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  ASSERT_TRUE(end.has_value()) << end.error().detail;
  EXPECT_EQ(end->signal, SIGTERM);
  EXPECT_EQ(end->output, "");
}

TEST(HookProcess, WhatHangsIsKilledWithItsChildren) {
  const auto end = shell("trap '' TERM; sleep 1000 & echo $!; wait", Millis{300});
  ASSERT_TRUE(end.has_value()) << end.error().detail;
  EXPECT_TRUE(end->timed_out);
  EXPECT_GE(end->took_ns, 300'000'000u);
  EXPECT_LT(end->took_ns, 10'000'000'000u);
  const std::string stat = "/proc/" + end->output.substr(0, end->output.find('\n')) + "/stat";
  const auto lives = [&] {  // a killed one takes a moment, and its new parent reaps it later
    std::string line;
    std::ifstream file(stat);
    return std::getline(file, line) && line.find(") Z ") == std::string::npos;
  };
  const Deadline deadline = Deadline::after(kLong);
  while (lives() && deadline.remaining() > Millis{0}) {
  }
  EXPECT_FALSE(lives());
}

TEST(HookProcess, AChildThatIsLeftBehindKeepsNobodyWaiting) {
  const auto end = shell("sleep 1000 & exit 0");  // it has the pipe
  ASSERT_TRUE(end.has_value()) << end.error().detail;
  EXPECT_TRUE(end->good());
  EXPECT_LT(end->took_ns, 10'000'000'000u);
}

TEST(HookProcess, EndlessOutputIsDroppedAndDoesNotOutliveTheTime) {
  // Writers that are never slower than we are.
  const auto end = shell("for i in 1 2 3 4; do cat /dev/zero & done; wait", Millis{300});
  ASSERT_TRUE(end.has_value()) << end.error().detail;
  EXPECT_TRUE(end->timed_out);
  EXPECT_LT(end->took_ns, 10'000'000'000u);
  EXPECT_EQ(end->output.size(), kHookOutputMax);
  EXPECT_TRUE(end->output_cut);
}

TEST(HookProcess, OutputThatFillsThePipeDoesNotBlockTheProgram) {
  const auto end = shell("head -c 300000 /dev/zero; exit 5");
  ASSERT_TRUE(end.has_value()) << end.error().detail;
  EXPECT_EQ(end->exit_code, 5);
  EXPECT_TRUE(end->output_cut);
}

TEST(HookProcess, AProgramWithoutOutputIsWatchedAllTheSame) {
  const auto end = shell("exec >/dev/null 2>&1; sleep 1000", Millis{300});
  ASSERT_TRUE(end.has_value()) << end.error().detail;
  EXPECT_TRUE(end->timed_out);
}

TEST(HookProcess, StopKills) {
  const CancelToken stop;
  stop.cancel();
  const auto end = shell("sleep 1000", kLong, stop);
  ASSERT_TRUE(end.has_value()) << end.error().detail;
  EXPECT_TRUE(end->stopped);
  EXPECT_FALSE(end->good());
}

TEST(HookProcess, WhatCannotBeStarted) {
  const auto end = run_hook({"/nothing/there"}, {}, kLong, {});
  ASSERT_FALSE(end.has_value());
  EXPECT_THAT(end.error().detail, HasSubstr("/nothing/there cannot be started: No such file"));
}

class HooksTest : public ::testing::Test {
 protected:
  HooksTest() { std::filesystem::create_directory(folder_); }
  ~HooksTest() override { std::filesystem::remove_all(folder_); }

  std::string script(const std::string& name, const std::string& text) {
    const std::string path = folder_ + "/" + name;
    std::ofstream(path) << "#!/bin/sh\n" << text << "\n";
    std::filesystem::permissions(path, std::filesystem::perms::owner_all);
    return path;
  }
  std::vector<std::string> lines(const std::string& name) const {
    std::vector<std::string> out;
    std::ifstream file(folder_ + "/" + name);
    for (std::string line; std::getline(file, line);) out.push_back(line);
    return out;
  }
  Hooks::Log log() {
    return [this](const std::string& text) {
      const std::lock_guard lock(mutex_);
      log_ += text + "\n";
    };
  }

  std::string const folder_ = testing::TempDir() + "hooks-" + std::to_string(::getpid());
  std::mutex mutex_;
  std::string log_;
};

TEST_F(HooksTest, RunInTheOrderOfTheEventsAndOnlyOnTheirs) {
  const std::string path =
      script("a", "echo $1 $SEALIFT_GUEST $SEALIFT_AGAIN >> " + folder_ + "/out");
  {
    Hooks hooks({{HookEvent::kGuestLeft, path}, {HookEvent::kInDoubt, path}}, kLong, log());
    HookFacts facts;
    facts.guest = "web\n1";
    hooks.fire(HookEvent::kInDoubt, facts);
    hooks.fire(HookEvent::kDiscarded, facts);
    facts.again = true;
    hooks.fire(HookEvent::kGuestLeft, facts);
  }  // waits for them
  EXPECT_THAT(lines("out"), ElementsAre("in-doubt web?1 0", "guest-left web?1 1"));
}

TEST_F(HooksTest, FailuresAreCountedAndRemembered) {
  const std::string bad = script("bad", "printf 'a\\033b\\n\\nlast'; exit 3");
  HookStatus status;
  {
    Hooks hooks({{HookEvent::kLost, bad}, {HookEvent::kLost, folder_ + "/gone"}}, kLong, log());
    for (int i = 0; i < 10; ++i) hooks.fire(HookEvent::kLost, {});
    for (const Deadline deadline = Deadline::after(kLong);
         (status = hooks.status()).waiting != 0 && deadline.remaining() > Millis{0};) {
    }
  }
  EXPECT_EQ(status.failed, 20u);
  ASSERT_EQ(status.last.size(), Hooks::kRememberedMax);
  EXPECT_EQ(status.last[14].how, "exit code 3");
  EXPECT_THAT(status.last[15].how, HasSubstr("cannot be started"));
  EXPECT_THAT(log_, HasSubstr("hook lost " + bad + " says: a?b\n"));
  EXPECT_THAT(log_, HasSubstr("says: last\n"));
}

TEST_F(HooksTest, TheQueueIsBounded) {
  const std::string wait = script("wait", "while [ ! -e " + folder_ + "/go ]; do sleep 0.05; done");
  Hooks hooks({{HookEvent::kLost, wait}}, kLong, log());
  for (std::size_t i = 0; i < Hooks::kQueuedMax + 5; ++i) hooks.fire(HookEvent::kLost, {});
  const HookStatus status = hooks.status();
  EXPECT_GE(status.dropped, 4u);  // one may run already
  EXPECT_LE(status.waiting, Hooks::kQueuedMax + 1);
  EXPECT_THAT(log_, HasSubstr("was not run: 256 others wait"));
  std::ofstream(folder_ + "/go") << "";
}

TEST_F(HooksTest, TextsThatAreNone) {
  EXPECT_EQ(parse_hook("guest-kept=/bin/sh")->event, HookEvent::kGuestKept);
  for (const char* text : {"", "=", "guest-kept", "kept=/bin/sh", "guest-kept=", "guest-kept=sh",
                           "guest-kept=/bin", "guest-kept=/etc/passwd", "guest-kept=/no/such"}) {
    EXPECT_FALSE(parse_hook(text).has_value()) << text;
  }
}

}  // namespace
}  // namespace sealift::test
