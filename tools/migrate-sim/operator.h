// Operator: somebody at a terminal who gives one command, a request at a time. What recover
// concludes and tells is shipped code (journal/recovery.h).
//
// Fault model: between two requests anything may happen for any time; a request may fail because
// the agent is down; its answer may be lost after it was carried out.
// Owner: the world. Threads: one. Failure: it gives up, as the command does.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "journal/recovery.h"

namespace sealift::sim {

class World;

struct Operator {
  enum class Command : std::uint8_t { kMigrate, kCancel, kRecover };
  Command command = Command::kRecover;
  int first = 0;         // the agent that is named first
  bool decides = false;  // a person who knows, where the verdict needs one
  std::uint32_t stage = 0;
  std::optional<SideAnswer> first_answer;
  std::optional<SideAnswer> second_answer;
  std::optional<Recovery> recovery;
  std::vector<Telling> plan;
  std::size_t told = 0;
  bool done = false;

  void step(World& world);

 private:
  void ask(World& world, int host, std::optional<SideAnswer>& answer);
  bool spoke_of_another(const std::optional<SideAnswer>& answer) const;
  void decide(World& world);
  void tell(World& world);
};

}  // namespace sealift::sim
