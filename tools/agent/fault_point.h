// Fault points: named places where a test stops the whole agent, so that it can kill it, cut its
// links or break its disk there, and let it go on.
//
// Only migrate-agent-faulty, a program of the tests, is compiled with SEALIFT_FAULT_POINTS. In
// every other program the macro is nothing, its arguments are not evaluated, and not even the
// names are there (tests/e2e/fault_points_test.py).
//
// Threads:   any. The process stops before the call returns.
// Invariant: a point that is passed is in fault_points(), so that the tests derive their cases
//            from that list.
#pragma once

#ifndef SEALIFT_FAULT_POINTS

#define SEALIFT_FAULT_POINT(...) static_cast<void>(0)

#else

#include <string>
#include <vector>

#include "engine/destination_session.h"
#include "engine/records.h"
#include "engine/result.h"
#include "engine/source_session.h"

#define SEALIFT_FAULT_POINT(...) ::sealift::fault_point(__VA_ARGS__)

namespace sealift {

// The names of all points.
std::vector<std::string> fault_points();
// "POINT" or "POINT:N": the process stops itself (SIGSTOP) when it passes POINT for the N-th time.
// kUsage for anything else. Once, before any other thread.
Result<void> stop_at_fault_point(const std::string& spec);

std::string fault_name(const source::Action& action);
std::string fault_name(const destination::Action& action);
inline std::string fault_name(const Record& record) { return name_of(record); }
inline std::string fault_name(const char* word) { return word; }

void pass_fault_point(const std::string& name);

// A point's name is its parts with dots between them.
template <class First, class... More>
void fault_point(const First& first, const More&... more) {
  std::string name = fault_name(first);
  ((name += '.', name += fault_name(more)), ...);
  pass_fault_point(name);
}

}  // namespace sealift

#endif
