#include "engine/platform_check.h"

#include <algorithm>

namespace sealift {

const char* name_of(PlatformFinding::Level level) {
  switch (level) {
    case PlatformFinding::Level::kOk:
      return "ok";
    case PlatformFinding::Level::kWarning:
      return "warning";
    case PlatformFinding::Level::kRefuse:
      return "refuse";
  }
  return "invalid level";
}

bool refuses(const PlatformFindings& findings) {
  return std::any_of(findings.begin(), findings.end(), [](const PlatformFinding& finding) {
    return finding.level == PlatformFinding::Level::kRefuse;
  });
}

std::string refusal_text(const PlatformFindings& findings) {
  std::string text;
  for (const PlatformFinding& finding : findings) {
    if (finding.level != PlatformFinding::Level::kRefuse) continue;
    if (!text.empty()) text += "; ";
    text += finding.text;
  }
  return text;
}

}  // namespace sealift
