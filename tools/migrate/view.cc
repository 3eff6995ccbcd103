#include "tools/migrate/view.h"

#include <fmt/format.h>

#include <cstdint>

namespace sealift {

using nlohmann::json;

namespace {

std::uint64_t count(const json& object, const char* key) {
  return object.value(key, std::uint64_t{0});
}
double number(const json& object, const char* key) { return object.value(key, 0.0); }

std::string bytes_text(double bytes) {
  if (bytes >= 1e9) return fmt::format("{:.2f} GB", bytes / 1e9);
  if (bytes >= 1e6) return fmt::format("{:.1f} MB", bytes / 1e6);
  return fmt::format("{:.0f} kB", bytes / 1e3);
}

std::string time_text(double ms) {
  return ms >= 10'000 ? fmt::format("{:.1f} s", ms / 1e3) : fmt::format("{:.1f} ms", ms);
}

std::string eta_text(const json& decision) {
  const json low = decision.value("eta_low_ms", json());
  const json high = decision.value("eta_high_ms", json());
  if (low.is_null()) return "unknown";
  if (high.is_null()) return fmt::format("more than {}", time_text(low.get<double>()));
  return fmt::format("{} to {}", time_text(low.get<double>()), time_text(high.get<double>()));
}

std::string rate_text(double pages, double ms) {
  return ms <= 0 ? std::string("-") : fmt::format("{}/s", bytes_text(pages * 4096 / (ms / 1e3)));
}

std::string round_text(const json& round) {
  return fmt::format(
      "  {:>5}{} {:>9} {:>9} {:>9} {:>9} {:>11} {:>11} {:>10}\n", count(round, "epoch"),
      round.value("guest_paused", false) ? "*" : " ", count(round, "shared_pages"),
      count(round, "zero_pages"), count(round, "private_pages"), count(round, "skipped_pages"),
      bytes_text(number(round, "shared_bytes")), bytes_text(number(round, "private_bytes")),
      time_text(number(round, "total_ms")));
}

std::string predicted_text(double predicted_ms, double actual_ms) {
  const std::string off =
      actual_ms > 0 ? fmt::format(" ({:+.0f} %)", (predicted_ms / actual_ms - 1) * 100) : "";
  return time_text(predicted_ms) + off;
}

// Where the pause went, and what had been expected.
std::string downtime_text(const json& report) {
  const json down = report.value("downtime", json::object());
  const double down_ms = number(down, "total_ms");
  std::string text = fmt::format("downtime: {}", time_text(down_ms));
  const char* before = " = ";
  for (const json& part : down.value("parts", json::array())) {
    text += fmt::format("{}{} {}", before, part.value("part", ""), time_text(number(part, "ms")));
    before = " + ";
  }
  text += "\n";
  const json prediction = report.value("prediction", json::object());
  const json pause = prediction.value("downtime_ms", json());
  if (!pause.is_null()) {
    text += fmt::format("  predicted at the pause: {}; paused because {}\n",
                        predicted_text(pause.get<double>(), down_ms), prediction.value("why", ""));
  }
  const json low = prediction.value("total_low_ms", json());
  const json high = prediction.value("total_high_ms", json());
  if (low.is_null()) return text;
  return text + fmt::format("  total predicted after the first round: {} to {}, was {}\n",
                            time_text(low.get<double>()),
                            high.is_null() ? "unknown" : time_text(high.get<double>()),
                            time_text(number(report, "total_ms")));
}

}  // namespace

std::string progress_line(const json& progress) {
  const json round = progress.value("round", json::object());
  const std::uint64_t sent =
      count(round, "shared_pages") + count(round, "zero_pages") + count(round, "private_pages");
  const std::uint64_t pages = count(progress, "round_pages");
  const std::uint64_t skipped = count(round, "skipped_pages");
  const std::uint64_t left = pages > sent + skipped ? pages - sent - skipped : 0;
  std::string line = fmt::format(
      "round {}: {}, {} of {} pages, {} left, plain {}, firmware {}", count(round, "epoch"),
      progress.value("phase", ""), sent, pages, left,
      rate_text(static_cast<double>(count(round, "shared_pages") + count(round, "zero_pages")),
                number(round, "plain_ms")),
      rate_text(static_cast<double>(count(round, "private_pages")), number(round, "firmware_ms")));
  if (const auto decision = progress.find("decision"); decision != progress.end()) {
    line += fmt::format("; ETA {}; {}", eta_text(*decision), decision->value("reason", ""));
  }
  return line;
}

std::string report_text(const json& report, bool check_only) {
  std::string text;
  const std::string outcome = report.value("outcome", "");
  if (check_only) {
    text = outcome == "done" ? "check: a migration would be accepted\n"
                             : fmt::format("check: {}\n", outcome);
  } else {
    text = fmt::format("migration: {}\n", outcome);
  }
  if (const auto error = report.find("error"); error != report.end()) {
    text += fmt::format("reason: {}\n", error->value("detail", ""));
  }
  if (const auto error = report.find("recovery_error"); error != report.end()) {
    text += fmt::format("also: {}\n", error->value("detail", ""));
  }
  for (const json& finding : report.value("platform_findings", json::array())) {
    const std::string level = finding.value("level", "");
    if (!check_only && level == "ok") continue;  // a migration shows only what needs attention
    text += fmt::format("  {:<8} {}: {}\n", level, finding.value("name", ""),
                        finding.value("text", ""));
  }
  const json rounds = report.value("rounds", json::array());
  if (check_only || rounds.empty()) return text;
  text += "  round     shared      zero   private   skipped shared data private data       time\n";
  for (const json& round : rounds) text += round_text(round);
  const json totals = report.value("totals", json::object());
  text += fmt::format(
      "  (* guest paused)\ntotal: {} shared pages ({}), {} private pages ({}), {} zero pages, {} "
      "skipped, "
      "{} firmware exports, in {} (setup {})\n",
      count(totals, "shared_pages"), bytes_text(number(totals, "shared_bytes")),
      count(totals, "private_pages"), bytes_text(number(totals, "private_bytes")),
      count(totals, "zero_pages"), count(totals, "skipped_pages"),
      count(totals, "firmware_exports"), time_text(number(report, "total_ms")),
      time_text(number(report, "setup_ms")));
  if (outcome == "done") text += downtime_text(report);
  return text;
}

namespace {

// What of the things that move with the right needs attention, or says where they are.
std::string resources_text(const json& resources) {
  std::string text;
  const json disks = resources.value("disks", json::array());
  if (!disks.empty()) {
    text += fmt::format("disks: {} {}\n", disks.size(),
                        resources.value("disks_locked", false) ? "locked here" : "not locked here");
  }
  if (const auto announce = resources.find("announce"); announce != resources.end()) {
    text += fmt::format("announced: {} frames{}\n", count(*announce, "frames_sent"),
                        announce->contains("error") ? "; " + announce->value("error", "") : "");
  }
  const json hooks = resources.value("hooks", json::object());
  if (const std::uint64_t waiting = count(hooks, "waiting"); waiting != 0) {
    text += fmt::format("hooks: {} to run\n", waiting);
  }
  if (const std::uint64_t dropped = count(hooks, "dropped"); dropped != 0) {
    text += fmt::format("hooks: {} were not run: too many waited\n", dropped);
  }
  for (const json& run : hooks.value("last", json::array())) {
    if (run.value("good", false)) continue;
    text += fmt::format("hook {} {} failed: {}\n", run.value("event", ""), run.value("path", ""),
                        run.value("how", ""));
  }
  return text;
}

std::string lock_text(const json& lock) {
  std::string text =
      fmt::format("lock manager: {}: {}", lock.value("manager", ""), lock.value("state", ""));
  if (lock.contains("generation"))
    text += fmt::format(", generation {}", count(lock, "generation"));
  if (const double left = number(lock, "run_left_ms"); left > 0)
    text += fmt::format(", may run {} without an answer", time_text(left));
  if (lock.contains("reason")) text += ": " + lock.value("reason", "");
  return text + "\n";
}

}  // namespace

std::string estimate_text(const json& estimate) {
  const json downtime = estimate.value("downtime_ms", json());
  std::string text = fmt::format(
      "{}\nobserved for {}: {} shared pages, {:.0f} of them written each second ({:.0f} % are "
      "zero); "
      "{} private pages, {:.0f} written\n"
      "would take {}, downtime {}, {} rounds, {:.0f} pages by the plain path, at most {:.0f} "
      "firmware exports",
      estimate.value("verdict", ""), time_text(number(estimate, "observed_ms")),
      count(estimate, "shared_pages"), number(estimate, "shared_written_pages_per_s"),
      number(estimate, "zero_share") * 100, count(estimate, "private_pages"),
      number(estimate, "private_written_pages_per_s"), time_text(number(estimate, "total_ms")),
      downtime.is_null() ? "none: it would be given up" : time_text(downtime.get<double>()),
      count(estimate, "rounds"), number(estimate, "plain_pages"),
      number(estimate, "firmware_exports_max"));
  if (count(estimate, "throttle_percent") > 0) {
    text += fmt::format(", the guest held back for {:.0f} % of the time, up to {} %",
                        number(estimate, "held_back_percent"), count(estimate, "throttle_percent"));
  }
  text += fmt::format("\nlink {:.0f} MiB/s {}", number(estimate, "link_mib_per_s"),
                      estimate.value("link_from", ""));
  if (const std::string from = estimate.value("firmware_from", ""); !from.empty()) {
    text +=
        fmt::format("; firmware {:.0f} pages/s {}", number(estimate, "firmware_pages_per_s"), from);
  }
  return text + "\n";
}

std::string status_text(const json& status) {
  const json guest = status.value("guest", json::object());
  std::string text =
      fmt::format("agent {}: {}\nguest {}: platform {}, backend {}, {} MiB, {} vCPUs",
                  status.value("agent", ""), status.value("state", ""), guest.value("name", ""),
                  guest.value("platform", ""), guest.value("backend", ""),
                  count(guest, "memory_bytes") >> 20, count(guest, "vcpus"));
  if (guest.contains("workload")) {
    text +=
        fmt::format(", workload {}, seed {}", guest.value("workload", ""), count(guest, "seed"));
  }
  text += fmt::format("\nbackend: {}\nplatform: {}\n", status.value("backend_reason", ""),
                      status.value("platform", ""));
  if (const auto lock = status.find("lock"); lock != status.end()) text += lock_text(*lock);
  if (const auto vm = status.find("vm"); vm != status.end()) {
    text += fmt::format("vm: {}{}\n", vm->value("state", ""),
                        vm->contains("reason") ? ": " + vm->value("reason", "") : std::string());
    if (vm->contains("not_ready")) {
      text += fmt::format("not ready to be migrated: {}\n", vm->value("not_ready", ""));
    }
    for (const json& note : vm->value("notes", json::array())) {
      text += fmt::format("note: {}\n", note.get<std::string>());
    }
  }
  if (const auto resources = status.find("resources"); resources != status.end())
    text += resources_text(*resources);
  for (const json& inquiry : status.value("inquiries", json::array())) {
    text += fmt::format("asking {} about {}, next in {}", inquiry.value("to", ""),
                        inquiry.value("guest", ""), time_text(number(inquiry, "next_in_ms")));
    const std::string last = inquiry.value("last", "");
    text += last.empty() ? "\n" : fmt::format("; {}\n", last);
  }
  if (const auto progress = status.find("progress"); progress != status.end())
    text += progress_line(*progress) + "\n";
  if (const auto report = status.find("report"); report != status.end())
    text += "last " + report_text(*report, false);
  if (const auto incoming = status.find("incoming"); incoming != status.end()) {
    text += fmt::format(
        "last incoming: {}{}\n", incoming->value("outcome", ""),
        incoming->contains("error") ? ": " + (*incoming)["error"].value("detail", "") : "");
  }
  return text;
}

}  // namespace sealift
