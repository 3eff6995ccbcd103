// The agent's control API: HTTP requests to calls of Agent, answers as JSON.
//
//   GET  /v1/status
//   POST /v1/migrate   {"to": "tcp:HOST:PORT", "check_only", "verify", "downtime_ms", "rounds_max",
//                      "on_stall", "throttle_max_percent", "ignore_readiness", "timeout_ms"}
//   POST /v1/cancel
//   GET  /v1/digest    ?at=now | ?at=handover
//   POST /v1/verify    asks the guest to check its own memory
//
// An error is {"error": {"class", "detail"}} with a 4xx or 5xx status.
// Owner: main(); the Agent outlives it. Threads: any number. Failure: always an answer.
#pragma once

#include "tools/agent/agent.h"
#include "transport/http.h"

namespace sealift {

HttpResponse handle_request(Agent& agent, const HttpRequest& request);

}  // namespace sealift
