// Chooser: the one source of everything that may happen in one way or another. A run is a pure
// function of what its chooser answers: drawn by a seed it is a simulation, enumerated it is a
// model.
//
// Owner: one run. Threads: one. Failure: none.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

namespace sealift::sim {

class Chooser {
 public:
  Chooser() = default;
  Chooser(const Chooser&) = delete;
  Chooser& operator=(const Chooser&) = delete;
  virtual ~Chooser() = default;

  // 0 to n - 1. REQUIRES: n > 0.
  virtual std::uint32_t pick(std::uint32_t n) = 0;
  // Does something fail now? Asked at every place where something can.
  virtual bool strikes() = 0;
  // Something was written down: what fails soon after it is worth more than elsewhere.
  virtual void milestone() {}
  virtual bool enumerates() const { return false; }
  // From here on nothing fails any more.
  void heal() { healed_ = true; }
  bool healed() const { return healed_; }

 private:
  bool healed_ = false;
};

// Draws. Strikes are few, and every other one is soon after a milestone.
class SeededChooser final : public Chooser {
 public:
  SeededChooser(std::uint64_t seed, std::uint32_t strikes_max);
  std::uint32_t pick(std::uint32_t n) override;
  bool strikes() override;
  void milestone() override;

 private:
  void aim();

  std::mt19937_64 random_;
  std::uint32_t strikes_left_;
  bool waits_for_milestone_ = false;
  std::uint32_t milestones_to_go_ = 0;
  std::uint32_t places_to_go_ = 0;
};

// Follows a path of answers and then answers 0; the explorer makes the next path from what was
// asked. At most `strikes_max` strikes in a run.
class PathChooser final : public Chooser {
 public:
  struct Answer {
    std::uint32_t chosen = 0;
    std::uint32_t of = 1;
  };
  PathChooser(std::vector<Answer> path, std::uint32_t strikes_max)
      : path_(std::move(path)), strikes_left_(strikes_max) {}
  std::uint32_t pick(std::uint32_t n) override;
  bool strikes() override;
  bool enumerates() const override { return true; }

  bool on_path() const { return next_ < path_.size(); }
  std::uint32_t strikes_left() const { return strikes_left_; }
  std::vector<Answer> take_path() { return std::move(path_); }

 private:
  std::vector<Answer> path_;
  std::size_t next_ = 0;
  std::uint32_t strikes_left_;
};

}  // namespace sealift::sim
