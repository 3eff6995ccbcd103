// Report: what a benchmark measured, figure by figure, each with its goal if it has one.
//
// Owner: the benchmark that fills it. Threads: one. Failure: none.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace sealift::bench {

struct Goal {
  enum class Sense : std::uint8_t { kAtMost, kAtLeast };
  Sense sense = Sense::kAtMost;
  double limit = 0;
  bool met_by(double value) const {
    return sense == Sense::kAtMost ? value <= limit : value >= limit;
  }
};
constexpr Goal at_most(double limit) { return {Goal::Sense::kAtMost, limit}; }
constexpr Goal at_least(double limit) { return {Goal::Sense::kAtLeast, limit}; }

struct Figure {
  std::string name;
  double value = 0;
  std::string unit;
  std::optional<Goal> goal;
  bool judged = true;  // false: the goal is shown, but these circumstances cannot decide it
  bool missed() const { return goal && judged && !goal->met_by(value); }
};

class Report {
 public:
  explicit Report(std::string bench) : bench_(std::move(bench)) {}

  void note(std::string text) { notes_.push_back(std::move(text)); }
  void section(std::string title) { sections_.push_back({std::move(title), {}}); }
  // Into the section begun last. REQUIRES: there is one.
  void add(Figure figure) { sections_.back().figures.push_back(std::move(figure)); }

  bool passed() const;
  std::string table() const;
  std::string json() const;

 private:
  struct Section {
    std::string title;
    std::vector<Figure> figures;
  };
  std::string bench_;
  std::vector<std::string> notes_;
  std::vector<Section> sections_;
};

// REQUIRES: not empty.
double median(std::vector<double> values);

}  // namespace sealift::bench
