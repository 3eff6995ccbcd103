#include "tests/support/sim_guest.h"

#include <array>
#include <cstring>

#include "engine/assert.h"

namespace sealift::test {
namespace {

MemoryLayout flat_layout(std::uint64_t pages) {
  auto layout = MemoryLayout::make({GfnRange{Gfn{0}, pages}});
  SEALIFT_ASSERT(layout.has_value());
  return *layout;
}

PageClass other(PageClass cls) {
  return cls == PageClass::kShared ? PageClass::kPrivate : PageClass::kShared;
}

}  // namespace

SimGuest::SimGuest(std::uint64_t pages, std::uint64_t host_key, std::uint64_t seed, Plant plant)
    : layout_(flat_layout(pages)),
      map_(pages),
      dirty_(pages),
      plant_(plant),
      host_key_(host_key),
      random_(seed),
      raw_(pages),
      guest_class_(pages, PageClass::kPrivate),
      log_(pages),
      log_late_(pages) {
  for (std::uint64_t i = 0; i < pages; ++i) write(Gfn{i}, random_());
}

std::uint64_t SimGuest::pad(Gfn gfn) const {
  return (host_key_ + value(gfn)) * 0x9e3779b97f4a7c15ULL;
}

std::uint64_t SimGuest::guest_value(Gfn gfn) const {
  const std::uint64_t raw = raw_[value(gfn)];
  return guest_class(gfn) == PageClass::kPrivate ? raw ^ pad(gfn) : raw;
}

void SimGuest::write(Gfn gfn, std::uint64_t plain) {
  raw_[value(gfn)] = guest_class(gfn) == PageClass::kPrivate ? plain ^ pad(gfn) : plain;
  log_[value(gfn)] = true;
}

void SimGuest::announce(GfnRange range, PageClass cls) {
  if (plant_ == Plant::kNoRedirtyOnConversion) {
    map_.convert(range, cls);
  } else {
    convert_pages(map_, dirty_, range, cls);
  }
}

void SimGuest::run_step() {
  ++writes_;
  const Gfn gfn{random_() % layout_.pages()};
  if (random_() % 3 != 0) return write(gfn, random_());
  const std::uint64_t pages = std::min(1 + random_() % 4, layout_.pages() - value(gfn));
  const PageClass cls = other(guest_class(gfn));
  const GfnRange range{gfn, pages};
  announce(range, cls);
  // Some conversions happen without any write: content that was converted and not yet used again.
  for (std::uint64_t i = 0; i < pages; ++i) {
    const Gfn page = gfn + i;
    const std::uint64_t kept = guest_value(page);
    guest_class_[value(page)] = cls;
    // A kernel that converts in place (the announcement is all the host sees of it).
    raw_[value(page)] = cls == PageClass::kPrivate ? kept ^ pad(page) : kept;
  }
}

void SimGuest::interleave() {
  const std::lock_guard lock(mutex_);
  if (!running_ || steps_max_ == 0) return;
  for (std::uint64_t steps = random_() % (steps_max_ + 1); steps > 0; --steps) run_step();
}

std::vector<Gfn> SimGuest::differences(const SimGuest& destination) const {
  std::vector<Gfn> wrong;
  for (std::uint64_t i = 0; i < layout_.pages(); ++i) {
    const bool same_value = guest_value(Gfn{i}) == destination.guest_value(Gfn{i});
    const bool same_class = guest_class(Gfn{i}) == destination.map_.class_of(Gfn{i});
    if (!same_value || !same_class) wrong.push_back(Gfn{i});
  }
  return wrong;
}

PageMap& SimGuest::page_map() {
  const std::lock_guard lock(mutex_);
  interleave();
  return plant_ == Plant::kClassifyBeforeClearing && stale_map_ && running_ ? *stale_map_ : map_;
}

DirtySet& SimGuest::dirty() {
  const std::lock_guard lock(mutex_);
  interleave();
  return dirty_;
}

Result<void> SimGuest::start_dirty_tracking() {
  tracking_ = true;
  return {};
}

Result<void> SimGuest::stop_dirty_tracking() {
  tracking_ = false;
  return {};
}

Result<void> SimGuest::harvest_dirty() {
  const std::lock_guard lock(mutex_);
  if (plant_ == Plant::kClassifyBeforeClearing) {
    stale_map_ = std::make_unique<PageMap>(layout_.span_pages());
    for (GfnRange range : map_.shared_ranges()) stale_map_->convert(range, PageClass::kShared);
  }
  interleave();
  for (std::size_t i = 0; i < log_.size(); ++i) {
    if (log_late_[i]) log_[i] = false;
    log_late_[i] = false;
    if (!log_[i]) continue;
    dirty_.mark(Gfn{i});
    if (plant_ == Plant::kClearAfterCopying && running_) {
      log_late_[i] = true;
    } else {
      log_[i] = false;
    }
  }
  interleave();
  // The planted bug clears what conversions marked meanwhile as well: it drains the set it
  // classified for.
  return {};
}

Result<void> SimGuest::read_plain(Gfn gfn, std::span<std::byte, kPageBytes> out) {
  const std::lock_guard lock(mutex_);
  interleave();
  std::memset(out.data(), 0, out.size());
  std::memcpy(out.data(), &raw_[value(gfn)], sizeof(std::uint64_t));
  return {};
}

Result<void> SimGuest::write_plain(Gfn gfn, std::span<const std::byte, kPageBytes> in) {
  std::memcpy(&raw_[value(gfn)], in.data(), sizeof(std::uint64_t));
  return {};
}

Result<void> SimGuest::pause() {
  const std::lock_guard lock(mutex_);
  interleave();
  running_ = false;
  return {};
}

Result<void> SimGuest::resume() {
  const std::lock_guard lock(mutex_);
  running_ = true;
  return {};
}

Result<void> SimGuest::throttle(std::uint32_t percent) {
  throttle_percent_ = percent;
  return {};
}

Result<std::vector<StateBlob>> SimGuest::save_state() {
  StateBlob blob;
  blob.name = "sim";
  blob.bytes.resize(sizeof(writes_));
  std::memcpy(blob.bytes.data(), &writes_, sizeof(writes_));
  return std::vector<StateBlob>{blob};
}

Result<void> SimGuest::load_state(std::vector<StateBlob> state) {
  loaded_state_ = std::move(state);
  return {};
}

std::uint64_t SimGuest::firmware_read(Gfn gfn) {
  const std::lock_guard lock(mutex_);
  interleave();
  return raw_[value(gfn)] ^ pad(gfn);
}

void SimGuest::firmware_write(Gfn gfn, std::uint64_t plain) { raw_[value(gfn)] = plain ^ pad(gfn); }

PrivateTraits SimExporter::traits() const { return own_traits; }

Result<Bytes> SimExporter::begin(ByteView identity) {
  if (identity.size() != 4)
    return fail(ErrorClass::kMalformed, "identity has {} bytes", identity.size());
  begun = true;
  return Bytes(8, std::byte{2});
}

Result<ExportResult> SimExporter::export_batch(std::uint8_t, std::uint32_t epoch,
                                               std::span<const Gfn> gfns) {
  ExportResult result;
  result.batch.epoch = epoch;
  result.batch.page_body_bytes = sizeof(std::uint64_t);
  for (Gfn gfn : gfns) {
    if (retry_every != 0 && ++asked_ % retry_every == 0) {
      result.outcomes.push_back(ExportOutcome::kRetry);
      continue;
    }
    const std::uint64_t plain = guest_.firmware_read(gfn);
    std::array<std::byte, sizeof(plain)> bytes;
    std::memcpy(bytes.data(), &plain, sizeof(plain));
    result.batch.gfns.push_back(gfn);
    result.batch.ops.push_back(PrivateOp::kImport);
    result.batch.body.insert(result.batch.body.end(), bytes.begin(), bytes.end());
    result.outcomes.push_back(ExportOutcome::kExported);
    ++result.firmware_commands;
  }
  return result;
}

Result<std::optional<PrivateBatch>> SimExporter::next_extra(std::uint32_t epoch) {
  if (extras_per_epoch == 0 || extras_epoch_ == epoch) return std::optional<PrivateBatch>();
  extras_epoch_ = epoch;
  PrivateBatch batch;
  batch.epoch = epoch;
  batch.page_body_bytes = sizeof(std::uint64_t);
  for (std::uint64_t i = 0; i < extras_per_epoch; ++i) {
    batch.gfns.push_back(Gfn{(1ULL << 60) + i});  // the platform's own numbers, not guest pages
    batch.ops.push_back(PrivateOp::kMetadata);
    batch.body.resize(batch.body.size() + batch.page_body_bytes);
  }
  return std::optional<PrivateBatch>(std::move(batch));
}

Result<void> SimExporter::guest_paused() {
  guest_is_paused = true;
  return {};
}

Result<std::vector<StateBlob>> SimExporter::save_state() { return platform_state; }

Result<void> SimExporter::release() {
  released = true;
  return {};
}

Result<void> SimExporter::cancel(std::optional<ByteView>) {
  cancelled = true;
  return {};
}

PrivateTraits SimImporter::traits() const {
  PrivateTraits traits;
  traits.platform = Platform::kSev;
  return traits;
}

Result<void> SimImporter::begin(ByteView start) {
  if (start.size() != 8) return fail(ErrorClass::kMalformed, "start has {} bytes", start.size());
  return {};
}

Result<void> SimImporter::import_batch(const PrivateBatch& batch) {
  if (batch.body.size() != batch.gfns.size() * sizeof(std::uint64_t)) {
    return fail(ErrorClass::kMalformed, "body of {} bytes for {} pages", batch.body.size(),
                batch.gfns.size());
  }
  for (std::size_t i = 0; i < batch.gfns.size(); ++i) {
    if (batch.ops[i] == PrivateOp::kMetadata) {
      ++metadata_entries;
      continue;
    }
    std::uint64_t plain = 0;
    std::memcpy(&plain, batch.body.data() + i * sizeof(plain), sizeof(plain));
    guest_.firmware_write(batch.gfns[i], plain);
  }
  return {};
}

Result<void> SimImporter::load_state(std::vector<StateBlob> state) {
  platform_state = std::move(state);
  return {};
}

Result<void> SimImporter::seal(ByteView) {
  sealed = true;
  return {};
}

Result<void> SimImporter::commit() {
  committed = true;
  return {};
}

Result<Bytes> SimImporter::abort() {
  aborted = true;
  return Bytes{};
}

}  // namespace sealift::test
