// GuestCopy: one host's memory of the guest and what its platform's firmware makes of it; and
// History, the memory that the one true guest has by now.
//
// Fault model (the fake is its specification):
//   - A page is stored raw: shared pages as they are, private pages under this host's key. What is
//     read or written under the wrong class is garbage, silently.
//   - A write lands and is logged while tracking is on. A conversion is announced to the map and
//     marks the page, then the guest flips its own class bit and rewrites the content.
//   - none: no private pages, no firmware.
//   - SEV: exporting ends in cancel (running again) or in SEND_FINISH (SENT: nothing leads back).
//     A copy that was received can run after RECEIVE_FINISH, which comes with seal().
//   - TDX: after the source's seal only the destination's abort token lets it run; the destination
//     can run after commit(), and can make the abort token before it.
// Threads: one. Failure: as PrivateExporter and PrivateImporter.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/dirty_set.h"
#include "engine/page_map.h"
#include "engine/records.h"
#include "engine/result.h"

namespace sealift::sim {

// What the guest has done so far, wherever it ran.
struct History {
  std::vector<std::uint64_t> values;
  std::vector<PageClass> classes;
  std::uint64_t steps = 0;
};

enum class Firmware : std::uint8_t {
  kRuns,     // launched, or arrived and committed
  kSending,  // exporting
  kSealed,   // TDX source: the start token was made
  kSent,     // nothing leads back
  kEmpty,    // made for a guest that is to come
  kReceiving,
  kImported,  // all has arrived
  kGone,      // given up
};

class GuestCopy {
 public:
  // REQUIRES: `platform` is none, SEV or TDX.
  GuestCopy(Platform platform, std::uint64_t pages, std::uint64_t host_key);

  void launch(const History& history);
  bool equals(const History& history) const;
  // One step of the guest: writes a page, or converts it.
  void step(History& history, std::uint64_t page, bool converts, bool redirties);

  // As the host sees it.
  PageMap& map() { return map_; }
  DirtySet& dirty() { return dirty_; }
  void start_tracking();
  void stop_tracking() { tracking_ = false; }
  void harvest();
  std::uint64_t read_plain(Gfn gfn) const { return raw_[value(gfn)]; }
  void write_plain(Gfn gfn, std::uint64_t raw) { raw_[value(gfn)] = raw; }
  std::uint64_t pages() const { return raw_.size(); }

  // Through the firmware.
  std::uint64_t read_private(Gfn gfn) const { return raw_[value(gfn)] ^ pad(value(gfn)); }
  void write_private(Gfn gfn, std::uint64_t plain) { raw_[value(gfn)] = plain ^ pad(value(gfn)); }
  Result<void> begin_export();
  Result<Bytes> seal_export(std::uint64_t session);
  Result<void> release();
  Result<void> cancel(ByteView abort_token);
  Result<void> begin_import();
  Result<void> seal_import(ByteView token);
  Result<void> commit();
  Bytes abort();

  Result<void> resume();
  void pause() { running_ = false; }
  bool running() const { return running_; }
  // Complete as far as the platform goes: nothing but orders stands between it and running.
  bool viable() const;
  Firmware firmware() const { return firmware_; }

  Bytes save_state() const;
  Result<void> load_state(ByteView state);

 private:
  std::uint64_t pad(std::uint64_t page) const { return (key_ + page) * 0x9e3779b97f4a7c15ULL; }
  std::uint64_t seen_by_guest(std::uint64_t page) const;

  Platform const platform_;
  std::uint64_t const key_;
  PageMap map_;
  DirtySet dirty_;
  std::vector<std::uint64_t> raw_;
  std::vector<PageClass> classes_;  // the guest's own view, in its page tables
  std::vector<bool> log_;
  std::uint64_t steps_ = 0;
  std::uint64_t session_ = 0;
  Firmware firmware_ = Firmware::kEmpty;
  bool tracking_ = false;
  bool running_ = false;
};

}  // namespace sealift::sim
