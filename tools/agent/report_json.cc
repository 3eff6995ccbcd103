#include "tools/agent/report_json.h"

#include <limits>
#include <nlohmann/json.hpp>

namespace sealift {

using nlohmann::json;

namespace {

constexpr std::uint64_t kNever = std::numeric_limits<std::uint64_t>::max();

double ms(std::uint64_t ns) { return static_cast<double>(ns) / 1e6; }
json ms_or_null(std::uint64_t ns) { return ns == kNever ? json(nullptr) : json(ms(ns)); }

json to_json(const RoundStats& round) {
  return {{"epoch", round.epoch},
          {"epochs", round.epochs},
          {"passes", round.passes},
          {"guest_paused", round.guest_paused},
          {"throttle_percent", round.throttle_percent},
          {"shared_pages", round.shared_pages},
          {"zero_pages", round.zero_pages},
          {"private_pages", round.private_pages},
          {"skipped_pages", round.skipped_pages},
          {"left_private_pages", round.left_private_pages},
          {"shared_bytes", round.shared_bytes},
          {"private_bytes", round.private_bytes},
          {"firmware_exports", round.firmware_commands},
          {"harvest_ms", ms(round.harvest_ns)},
          {"plain_ms", ms(round.plain_ns)},
          {"firmware_ms", ms(round.firmware_ns)},
          {"total_ms", ms(round.total_ns)},
          {"ack_ms", ms(round.ack_ns)},
          {"dirty_shared_pages_after", round.dirty_after.shared_pages},
          {"dirty_private_pages_after", round.dirty_after.private_pages}};
}

// The parts by name, in the order of time, as they are printed.
json to_json(const DowntimeAccount& account) {
  json parts = json::array();
  for (const DowntimePart& part : account.parts()) {
    parts.push_back({{"part", part.name}, {"ms", ms(part.ns)}});
  }
  return {{"total_ms", ms(account.total_ns)},
          {"parts", std::move(parts)},
          {"source_release_after_ms", ms(account.release_ns)}};
}

json to_json(const Prediction& prediction) {
  return {{"downtime_ms", ms_or_null(prediction.downtime_ns)},
          {"total_low_ms", ms_or_null(prediction.total_low_ns)},
          {"total_high_ms", ms_or_null(prediction.total_high_ns)},
          {"why", prediction.why}};
}

json to_json(const Decision& decision) {
  return {{"predicted_downtime_ms", ms_or_null(decision.predicted_downtime_ns)},
          {"predicted_plain_ms", ms_or_null(decision.predicted_plain_ns)},
          {"predicted_firmware_ms", ms_or_null(decision.predicted_firmware_ns)},
          {"predicted_other_ms", ms_or_null(decision.predicted_other_ns)},
          {"eta_low_ms", ms_or_null(decision.eta.low_ns)},
          {"eta_high_ms", ms_or_null(decision.eta.high_ns)},
          {"floor_private_pages", decision.floor_private_pages},
          {"reason", decision.reason}};
}

json to_json(const ProgressSnapshot& progress) {
  json out = {{"phase", progress.phase},
              {"round", to_json(progress.round)},
              {"round_pages", progress.round_pages},
              {"rounds_done", progress.rounds},
              {"totals", to_json(progress.totals)},
              {"plain_pages_per_s", progress.rates.plain_pages_per_s},
              {"firmware_pages_per_s", progress.rates.firmware_pages_per_s},
              {"guest_paused", progress.guest_paused},
              {"elapsed_ms", ms(steady_now_ns() - progress.started_ns)}};
  if (progress.decision) out["decision"] = to_json(*progress.decision);
  return out;
}

json to_json(const DestinationReport& report) {
  json out = {{"outcome", name_of(report.outcome)},
              {"epochs", report.epochs},
              {"shared_pages", report.shared_pages},
              {"private_pages", report.private_pages}};
  if (!report.stream_pages.empty()) out["stream_pages"] = report.stream_pages;
  if (report.peer) out["source"] = report.peer->agent_name;
  if (report.error) out["error"] = to_json(*report.error);
  return out;
}

json to_json(const GuestSpec& spec, bool launched_here) {
  json out = {{"name", spec.name},
              {"platform", name_of(spec.vm.platform)},
              {"backend", name_of(spec.vm.backend)},
              {"memory_bytes", spec.vm.memory_bytes},
              {"vcpus", spec.vm.vcpus}};
  if (launched_here) {
    out["program"] = name_of(spec.vm.program);
    if (spec.vm.program != Program::kChecker) return out;
    out["workload"] = name_of(spec.vm.workload);
    out["seed"] = spec.vm.seed;
  }
  return out;
}

json to_json(const ResourcesStatus& status) {
  json out = {{"disks", status.disks}, {"disks_locked", status.disks_locked}};
  if (!status.announce.empty()) {
    out["announce"] = {{"addresses", status.announce},
                       {"frames_sent", status.announced.frames_sent},
                       {"first_frame_after_ms", ms(status.announced.first_after_ns)}};
    if (!status.announced.error.empty()) out["announce"]["error"] = status.announced.error;
  }
  json runs = json::array();
  for (const HookRun& run : status.hook_runs.last) {
    runs.push_back({{"event", name_of(run.event)},
                    {"path", run.path},
                    {"guest", run.guest},
                    {"good", run.good},
                    {"how", run.how},
                    {"took_ms", ms(run.took_ns)}});
  }
  out["hooks"] = {{"configured", status.hooks},
                  {"waiting", status.hook_runs.waiting},
                  {"failed", status.hook_runs.failed},
                  {"dropped", status.hook_runs.dropped},
                  {"last", std::move(runs)}};
  return out;
}

}  // namespace

json to_json(const Error& error) {
  return {{"class", name_of(error.cls)}, {"detail", error.detail}};
}

json to_json(const MigrationReport& report) {
  json out = {{"outcome", name_of(report.outcome)},
              {"data_streams", report.data_streams},
              {"setup_ms", ms(report.setup_ns)},
              {"total_ms", ms(report.total_ns)},
              {"downtime", to_json(report.downtime)},
              {"totals", to_json(report.totals())}};
  out["rounds"] = json::array();
  for (const RoundStats& round : report.rounds) out["rounds"].push_back(to_json(round));
  out["platform_findings"] = json::array();
  for (const PlatformFinding& finding : report.findings) {
    out["platform_findings"].push_back(
        {{"level", name_of(finding.level)}, {"name", finding.name}, {"text", finding.text}});
  }
  if (report.prediction) out["prediction"] = to_json(*report.prediction);
  if (report.error) out["error"] = to_json(*report.error);
  if (report.recovery_error) out["recovery_error"] = to_json(*report.recovery_error);
  return out;
}

json to_json(const RightAnswer& answer) {
  json out = {{"agent", answer.agent},
              {"state", name_of(answer.state)},
              {"guest", answer.guest},
              {"has_copy", answer.has_copy},
              {"busy", is_busy(answer.state)}};
  if (!answer.last) return out;
  const RightToRun& right = answer.last->right;
  const JournalSide side = side_of(answer.last->last);
  out["last"] = {{"migration", hex_text(right.migration)},
                 {"generation", right.generation},
                 {"guest", right.guest},
                 {"source", right.source},
                 {"destination", right.destination},
                 {"side", name_of(side)},
                 {"record", name_of(answer.last->last)},
                 {"settled", is_settled(answer.last->last)},
                 {"latest", answer.is_latest}};
  const auto known = [&](const char* key, const Digest32& digest) {
    if (digest != Digest32{}) out["last"][key] = hex_text(digest);
  };
  known("page_map_sha256", right.page_map_sha256);
  known("memory_sha256", right.memory_sha256);
  return out;
}

json to_json(const AgentStatus& status) {
  json out = {{"agent", status.name},
              {"state", name_of(status.state)},
              {"backend", name_of(status.backend.backend)},
              {"backend_reason", status.backend.why},
              {"platform", status.platform},
              {"guest", to_json(status.guest, status.launched_here)}};
  if (status.vm) {
    out["vm"] = {{"state", name_of(status.vm->state)},
                 {"booted", status.vm->booted},
                 {"steps", status.vm->steps}};
    if (!status.vm->reason.empty()) out["vm"]["reason"] = status.vm->reason;
    if (!status.vm->not_ready.empty()) out["vm"]["not_ready"] = status.vm->not_ready;
    if (status.vm->throttle_percent != 0) {
      out["vm"]["throttle_percent"] = status.vm->throttle_percent;
    }
    if (status.vm->serial_bytes != 0) out["vm"]["serial_bytes"] = status.vm->serial_bytes;
    if (!status.vm->dirty_backend.empty()) out["vm"]["dirty_backend"] = status.vm->dirty_backend;
    if (!status.vm->notes.empty()) out["vm"]["notes"] = status.vm->notes;
  }
  if (status.bandwidth_bytes_per_s != kUnlimited)
    out["bandwidth_bytes_per_s"] = status.bandwidth_bytes_per_s;
  if (status.lock) {
    out["lock"] = {{"manager", status.lock->manager}, {"state", status.lock->state}};
    if (!status.lock->guest.empty()) {
      out["lock"]["guest"] = status.lock->guest;
      out["lock"]["generation"] = status.lock->generation;
      out["lock"]["run_left_ms"] = status.lock->run_left_ns / 1'000'000;
    }
    if (!status.lock->reason.empty()) out["lock"]["reason"] = status.lock->reason;
  }
  if (status.progress) out["progress"] = to_json(*status.progress);
  if (status.report) out["report"] = to_json(*status.report);
  if (status.incoming) out["incoming"] = to_json(*status.incoming);
  if (status.resources) out["resources"] = to_json(*status.resources);
  for (const InquiryStatus& inquiry : status.inquiries) {
    out["inquiries"].push_back({{"guest", inquiry.guest},
                                {"migration", hex_text(inquiry.migration)},
                                {"to", inquiry.to},
                                {"asked", inquiry.asked},
                                {"next_in_ms", ms(inquiry.next_in_ns)},
                                {"last", inquiry.last}});
  }
  return out;
}

json to_json(const DigestAnswer& answer) {
  return {{"at", answer.at_handover ? "handover" : "now"},
          {"covers", answer.covers_private ? "all pages" : "shared pages"},
          {"memory_sha256", hex_text(answer.digest.memory_sha256)},
          {"page_map_sha256", hex_text(answer.digest.page_map_sha256)},
          {"shared_pages", answer.digest.shared_pages},
          {"private_pages", answer.digest.private_pages}};
}

json to_json(const SelfCheck& check) {
  json out = {{"pages_checked", check.pages_checked},
              {"errors", check.errors},
              {"conversions", check.conversions},
              {"refused_conversions", check.refused},
              {"steps", check.steps}};
  if (check.first_bad_gfn) out["first_bad_gfn"] = value(*check.first_bad_gfn);
  return out;
}

json to_json(const Estimate& estimate) {
  const Forecast& forecast = estimate.forecast;
  const GuestObservation& seen = estimate.seen;
  return {{"converges", estimate.converges()},
          {"verdict", estimate.verdict()},
          {"total_ms", forecast.total_s * 1e3},
          {"downtime_ms",
           forecast.end == Step::kSwitchover ? json(forecast.downtime_s * 1e3) : json(nullptr)},
          {"rounds", forecast.rounds},
          {"plain_pages", forecast.plain_pages},
          {"firmware_exports_max", forecast.exports},
          {"throttle_percent", forecast.throttle_percent},
          {"held_back_percent", forecast.slowdown * 100},
          {"link_mib_per_s", estimate.path.plain_pages_per_s * kPageBytes / (1 << 20)},
          {"link_from", estimate.plain_from},
          {"firmware_pages_per_s", estimate.path.firmware_pages_per_s},
          {"firmware_from", estimate.firmware_from},
          {"observed_ms", seen.seconds * 1e3},
          {"shared_pages", seen.shared_pages},
          {"private_pages", seen.private_pages},
          {"shared_written_pages_per_s", seen.shared_written_per_s},
          {"private_written_pages_per_s", seen.private_written_per_s},
          {"zero_share", seen.guest.zero_share}};
}

}  // namespace sealift
