// StateNote: something about saved or loaded state that an operator should know and that does not
// stop the migration: an MSR of the host's that differs, an item of an older form.
//
// Plain values: no ownership, no threads, no failure. What would change the guest is no note but an
// error.
#pragma once

#include <string>
#include <vector>

namespace sealift {

struct StateNote {
  std::string item;  // "vCPU 0 MSR 0xce", "clock"
  std::string why;   // one sentence with the values in it
  friend bool operator==(const StateNote&, const StateNote&) = default;
};
using StateNotes = std::vector<StateNote>;

}  // namespace sealift
