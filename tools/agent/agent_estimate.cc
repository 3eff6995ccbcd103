// What a migration of the agent's guest would take: nothing moves.
#include <utility>

#include "tools/agent/agent.h"

namespace sealift {

Result<Estimate> Agent::estimate(const EstimateOptions& options) {
  const std::lock_guard work(guest_work_);  // no migration begins meanwhile
  std::shared_ptr<Machine> machine;
  Rates measured;
  {
    const std::lock_guard lock(mutex_);
    if (state_ != AgentState::kRunning) {
      return fail(ErrorClass::kRefused, "{} has no running guest to estimate: it is {}",
                  config_.name, name_of(state_));
    }
    machine = machine_;
    if (report_) measured = measure_rates(report_->rounds);
  }
  const PrivateExporter* exporter = machine->exporter();
  const bool live_export = exporter == nullptr || exporter->traits().live_export;
  SEALIFT_TRY(GuestObservation seen,
              observe(machine->vm(), options.observe_ns, live_export, stopping_));
  return sealift::estimate(options, std::move(seen), exporter, measured);
}

}  // namespace sealift
