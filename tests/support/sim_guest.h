// SimGuest: a guest of one 64-bit value a page, with the rules that matter for a migration and
// nothing else.
//
// Fault model of the environment (the fake is its specification):
//   - Each page is stored raw: shared pages as they are, private pages under this host's key.
//   Reading or writing a page
//     under the wrong class gives garbage, silently.
//   - A write lands first and is logged afterwards; fetching the log clears it; the host's own
//   writes are not logged.
//   - A conversion is announced to the VMM; then the guest flips its own class bit and rewrites the
//   content.
//   - Between any two things the sender does, the guest may run any number of steps (`interleave`).
// Threads: what a sender calls, from any; the rest from one. The firmware is the pair of export and
// import below.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "engine/guest_port.h"
#include "engine/private_path.h"

namespace sealift::test {

// The three classic ways to lose a page. Each stays here as a negative test
// (tests/sim/order_test.cc).
enum class Plant { kNone, kClassifyBeforeClearing, kClearAfterCopying, kNoRedirtyOnConversion };

class SimGuest : public GuestPort {
 public:
  SimGuest(std::uint64_t pages, std::uint64_t host_key, std::uint64_t seed,
           Plant plant = Plant::kNone);

  // One guest step: a write or a conversion of 1 to 4 pages.
  void run_step();
  // Runs a random number of steps while the guest is not paused.
  void interleave();
  // Makes this the guest of a destination: it does not run until resumed, and then takes no steps
  // by itself.
  void await_migration() {
    steps_max_ = 0;
    running_ = false;
  }

  // What the guest reads at its own class bit.
  std::uint64_t guest_value(Gfn gfn) const;
  PageClass guest_class(Gfn gfn) const { return guest_class_[value(gfn)]; }
  // Every page whose value or class at `destination` is not what the guest left here; empty when
  // all is well.
  std::vector<Gfn> differences(const SimGuest& destination) const;
  // Hand the guest's own view (class bits live in its page tables) to the destination.
  void take_guest_view(const SimGuest& source) { guest_class_ = source.guest_class_; }

  const MemoryLayout& layout() const override { return layout_; }
  PageMap& page_map() override;
  DirtySet& dirty() override;
  Result<void> start_dirty_tracking() override;
  Result<void> stop_dirty_tracking() override;
  Result<void> harvest_dirty() override;
  Result<void> read_plain(Gfn gfn, std::span<std::byte, kPageBytes> out) override;
  Result<void> write_plain(Gfn gfn, std::span<const std::byte, kPageBytes> in) override;
  Result<void> apply_conversion(GfnRange, PageClass) override { return {}; }
  GuestHealth health() const override { return {has_ended ? "triple fault" : "", not_ready}; }
  std::atomic<bool> has_ended{false};  // any thread
  std::string not_ready;
  Result<void> pause() override;
  Result<void> resume() override;
  Result<void> throttle(std::uint32_t percent) override;
  std::uint32_t throttle_percent() const { return throttle_percent_; }
  Result<std::vector<StateBlob>> save_state() override;
  Result<void> load_state(std::vector<StateBlob> state) override;

  std::uint64_t firmware_read(Gfn gfn);               // decrypts with this host's key
  void firmware_write(Gfn gfn, std::uint64_t plain);  // encrypts with this host's key
  bool running() const { return running_; }
  bool tracking() const { return tracking_; }
  const std::vector<StateBlob>& loaded_state() const { return loaded_state_; }

 private:
  std::uint64_t pad(Gfn gfn) const;
  void write(Gfn gfn, std::uint64_t plain);
  void announce(GfnRange range, PageClass cls);

  std::recursive_mutex mutex_;  // one thing happens at a time
  MemoryLayout layout_;
  PageMap map_;
  DirtySet dirty_;
  Plant plant_;
  std::uint64_t host_key_;
  std::mt19937_64 random_;
  unsigned steps_max_ = 4;
  std::uint32_t throttle_percent_ = 0;
  std::uint64_t writes_ = 0;
  bool running_ = true;
  bool tracking_ = false;
  std::vector<std::uint64_t> raw_;
  std::vector<PageClass> guest_class_;
  std::vector<bool> log_;
  std::vector<bool> log_late_;  // kClearAfterCopying: bits to clear at the next harvest
  std::unique_ptr<PageMap>
      stale_map_;  // kClassifyBeforeClearing: the map as it was before the log was cleared
  std::vector<StateBlob> loaded_state_;
};

// The firmware of a SimGuest's host; the packet is the plain value, which is all the engine may
// rely on.
class SimExporter : public PrivateExporter {
 public:
  std::function<Result<PlatformFindings>(ByteView card)> opinion;  // null: none
  Result<PlatformFindings> judge(ByteView card) override {
    return opinion ? opinion(card) : Result<PlatformFindings>(PlatformFindings{});
  }
  explicit SimExporter(SimGuest& guest) : guest_(guest) {}
  PrivateTraits traits() const override;
  void use_streams(std::uint32_t) override {}
  Result<Bytes> begin(ByteView identity) override;
  Result<void> prepare(std::uint32_t, std::span<const Gfn>) override { return {}; }
  Result<ExportResult> export_batch(std::uint8_t, std::uint32_t epoch,
                                    std::span<const Gfn> gfns) override;
  Result<std::optional<PrivateBatch>> next_extra(std::uint32_t epoch) override;
  ConvertVerdict may_convert(GfnRange, PageClass) override { return ConvertVerdict::kNow; }
  Result<void> fault_back(Gfn) override { return {}; }
  Result<void> guest_paused() override;
  Result<std::vector<StateBlob>> save_state() override;
  Result<Bytes> end_epoch(std::uint32_t) override { return Bytes{}; }
  Result<Bytes> seal() override { return Bytes{}; }
  Result<void> release() override;
  Result<void> cancel(std::optional<ByteView>) override;
  bool begun = false;
  bool released = false;
  bool cancelled = false;
  bool guest_is_paused = false;
  PrivateTraits own_traits{.platform = Platform::kSev};
  std::uint32_t extras_per_epoch = 0;  // metadata entries each epoch ends with
  std::vector<StateBlob> platform_state;
  unsigned retry_every = 0;  // every nth page answers kRetry once it is asked for; 0 = never

 private:
  SimGuest& guest_;
  unsigned asked_ = 0;
  std::uint32_t extras_epoch_ = 0;  // the epoch whose extras have been given
};

class SimImporter : public PrivateImporter {
 public:
  explicit SimImporter(SimGuest& guest) : guest_(guest) {}
  PrivateTraits traits() const override;
  Result<Bytes> identity() override { return Bytes(4, std::byte{1}); }
  void use_streams(std::uint32_t) override {}
  Result<void> begin(ByteView start) override;
  Result<void> import_batch(const PrivateBatch& batch) override;
  Result<void> converted(GfnRange, PageClass) override { return {}; }
  Result<void> end_epoch(std::uint32_t, ByteView) override { return {}; }
  Result<void> load_state(std::vector<StateBlob> state) override;
  Result<void> seal(ByteView) override;
  Result<void> commit() override;
  Result<Bytes> abort() override;
  std::vector<StateBlob> platform_state;
  std::uint64_t metadata_entries = 0;
  bool sealed = false;
  bool committed = false;
  bool aborted = false;

 private:
  SimGuest& guest_;
};

}  // namespace sealift::test
