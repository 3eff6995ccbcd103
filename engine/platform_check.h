// What a source's platform thinks of a destination before anything moves.
//
// Made by PrivateExporter::judge() from the card that the destination's platform sent; shown by
// `migrate check`, and obeyed by the session before it starts. Plain values; no failure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace sealift {

struct PlatformFinding {
  enum class Level : std::uint8_t { kOk, kWarning, kRefuse };
  Level level = Level::kOk;
  std::string name;  // short and stable, for programs: "policy", "chain", "c-bit", …
  std::string text;  // one line for people, with the values
  friend bool operator==(const PlatformFinding&, const PlatformFinding&) = default;
};
const char* name_of(PlatformFinding::Level level);  // "ok", "warning", "refuse"

using PlatformFindings = std::vector<PlatformFinding>;

bool refuses(const PlatformFindings& findings);
// The texts of all that refuse, joined by "; ".
std::string refusal_text(const PlatformFindings& findings);

}  // namespace sealift
