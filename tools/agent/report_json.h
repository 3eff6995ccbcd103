// The agent's answers as JSON, for the control API and `migrate --json`. Names carry units;
// docs/operations.md lists them. Plain functions.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "tools/agent/agent.h"

namespace sealift {

nlohmann::json to_json(const RightAnswer& answer);
nlohmann::json to_json(const AgentStatus& status);
nlohmann::json to_json(const MigrationReport& report);
nlohmann::json to_json(const DigestAnswer& answer);
nlohmann::json to_json(const SelfCheck& check);
nlohmann::json to_json(const Estimate& estimate);
nlohmann::json to_json(const Error& error);

}  // namespace sealift
