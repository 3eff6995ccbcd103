#include "tools/migrate-bench/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "engine/assert.h"

namespace sealift::bench {
namespace {

std::string goal_text(const Figure& figure) {
  if (!figure.goal) return "";
  const char* sense = figure.goal->sense == Goal::Sense::kAtMost ? "<=" : ">=";
  return fmt::format("{} {:.5g} {}", sense, figure.goal->limit, figure.unit);
}

const char* verdict_of(const Figure& figure) {
  if (!figure.goal) return "";
  if (!figure.judged) return "not judged";
  return figure.missed() ? "FAIL" : "pass";
}

}  // namespace

bool Report::passed() const {
  for (const Section& section : sections_) {
    for (const Figure& figure : section.figures) {
      if (figure.missed()) return false;
    }
  }
  return true;
}

std::string Report::table() const {
  std::string text = fmt::format("migrate-bench {}\n", bench_);
  for (const std::string& note : notes_) text += fmt::format("  {}\n", note);
  for (const Section& section : sections_) {
    text += fmt::format("\n{}\n", section.title);
    for (const Figure& figure : section.figures) {
      text += fmt::format("  {:<58} {:>10.4g} {:<10} {:<18} {}\n", figure.name, figure.value,
                          figure.unit, goal_text(figure), verdict_of(figure));
    }
  }
  text += fmt::format("\n{}\n", passed() ? "no goal is missed" : "A GOAL IS MISSED");
  return text;
}

std::string Report::json() const {
  nlohmann::json sections = nlohmann::json::array();
  for (const Section& section : sections_) {
    nlohmann::json figures = nlohmann::json::array();
    for (const Figure& figure : section.figures) {
      nlohmann::json entry = {
          {"name", figure.name}, {"value", figure.value}, {"unit", figure.unit}};
      if (figure.goal) {
        entry["goal"] = {{figure.goal->sense == Goal::Sense::kAtMost ? "at_most" : "at_least",
                          figure.goal->limit}};
        entry["verdict"] = verdict_of(figure);
      }
      figures.push_back(std::move(entry));
    }
    sections.push_back({{"title", section.title}, {"figures", std::move(figures)}});
  }
  const nlohmann::json all = {{"bench", bench_},
                              {"notes", notes_},
                              {"passed", passed()},
                              {"sections", std::move(sections)}};
  return all.dump(2) + "\n";
}

double median(std::vector<double> values) {
  SEALIFT_ASSERT(!values.empty());
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace sealift::bench
