// Link: one connection between two agents, as TCP with keep-alives gives it.
//
// Fault model: inside one connection records arrive whole, in order and once, after any delay. A
// connection can be cut, at any moment and with any part of what was on its way; it can go dead in
// one direction, where nothing arrives any more and nobody is told; a partition stops both for a
// while. A side that hears nothing for long enough ends the connection. A process that dies closes
// its connections, a host without power does not.
// Threads: one. Failure: none.
#pragma once

#include <array>
#include <cstdint>
#include <deque>

#include "engine/records.h"

namespace sealift::sim {

inline constexpr std::uint64_t kSilenceMax_ns = 10'000'000'000;

struct Link {
  static constexpr int kClient = 0;  // the source
  static constexpr int kServer = 1;

  int id = 0;
  std::array<int, 2> host{};                        // of each end
  std::array<std::deque<Record>, 2> to{};           // on its way to each end
  std::array<std::deque<std::uint64_t>, 2> tags{};  // what each record came from, as a hash
  std::array<bool, 2> dead{};                       // nothing arrives at this end any more
  std::array<bool, 2> closed{};                     // this end has closed, or its process is gone
  std::array<bool, 2> vanished{};                   // this end's host went without a word
  std::array<std::uint64_t, 2> heard_ns{};          // when something last could arrive at this end
  bool cut = false;

  // Whether this end is to learn that nothing more comes. `silent`: it has waited long enough.
  bool ends_at(int side, bool silent) const {
    const std::size_t at = static_cast<std::size_t>(side);
    const std::size_t peer = 1 - at;
    if (closed[at]) return false;
    if (!to[at].empty() && !dead[at]) return false;
    if (cut && !dead[at]) return true;
    if (closed[peer] && !dead[at]) return true;
    return silent && (dead[at] || vanished[peer]);
  }
};

}  // namespace sealift::sim
