// What an agent may not do any more, tried in processes of their own: filters cannot be taken back.
#include "tools/agent/least_rights.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>

#include "tools/agent/hook_process.h"

namespace sealift::test {
namespace {

// Whether /bin/true can be started. Ends the process.
[[noreturn]] void start_a_program(bool forbidden) {
  if (!drop_privileges()) std::_Exit(3);
  if (forbidden && !forbid_programs()) std::_Exit(4);
  const auto end = run_hook({"/bin/true"}, {}, Millis{20'000}, {});
  if (!end) std::fputs(end.error().detail.c_str(), stderr);
  std::_Exit(end && end->good() ? 0 : 1);
}

TEST(LeastRights, ProgramsCanBeForbidden) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(start_a_program(false), ::testing::ExitedWithCode(0), "");
  EXPECT_EXIT(start_a_program(true), ::testing::ExitedWithCode(1),
              "/bin/true cannot be started: Operation not permitted");
}

}  // namespace
}  // namespace sealift::test
