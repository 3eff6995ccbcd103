// What a person sees: progress lines and reports made from the agent's JSON. Plain functions.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace sealift {

// One line, without its end.
std::string progress_line(const nlohmann::json& progress);
// The report of a finished migration or check, several lines.
std::string report_text(const nlohmann::json& report, bool check_only);
// What POST /v1/estimate answered.
std::string estimate_text(const nlohmann::json& estimate);
std::string status_text(const nlohmann::json& status);

}  // namespace sealift
