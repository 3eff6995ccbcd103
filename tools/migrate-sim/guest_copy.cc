#include "tools/migrate-sim/guest_copy.h"

#include <cstring>

#include "engine/assert.h"

namespace sealift::sim {
namespace {

constexpr std::uint64_t kStartToken = 0x5354415254ULL;
constexpr std::uint64_t kAbortToken = 0x41424f5254ULL;

Bytes token_of(std::uint64_t what, std::uint64_t session) {
  const std::uint64_t word = what ^ (session * 0x9e3779b97f4a7c15ULL);
  Bytes token(sizeof(word));
  std::memcpy(token.data(), &word, sizeof(word));
  return token;
}

bool is_token(ByteView token, std::uint64_t what, std::uint64_t session) {
  const Bytes expected = token_of(what, session);
  return token.size() == expected.size() &&
         std::memcmp(token.data(), expected.data(), token.size()) == 0;
}

}  // namespace

GuestCopy::GuestCopy(Platform platform, std::uint64_t pages, std::uint64_t host_key)
    : platform_(platform),
      key_(host_key),
      map_(pages),
      dirty_(pages),
      raw_(pages),
      classes_(pages, PageClass::kPrivate),
      log_(pages) {}

void GuestCopy::launch(const History& history) {
  classes_ = history.classes;
  steps_ = history.steps;
  for (std::uint64_t page = 0; page < pages(); ++page) {
    map_.convert(GfnRange{Gfn{page}, 1}, classes_[page]);
    raw_[page] = history.values[page];
    if (classes_[page] == PageClass::kPrivate) raw_[page] ^= pad(page);
  }
  firmware_ = Firmware::kRuns;
  running_ = true;
}

std::uint64_t GuestCopy::seen_by_guest(std::uint64_t page) const {
  return classes_[page] == PageClass::kPrivate ? raw_[page] ^ pad(page) : raw_[page];
}

bool GuestCopy::equals(const History& history) const {
  if (steps_ != history.steps || classes_ != history.classes) return false;
  for (std::uint64_t page = 0; page < pages(); ++page) {
    if (seen_by_guest(page) != history.values[page]) return false;
    if (map_.class_of(Gfn{page}) != history.classes[page]) return false;
  }
  return true;
}

void GuestCopy::step(History& history, std::uint64_t page, bool converts, bool redirties) {
  steps_ = ++history.steps;
  if (converts) {
    const PageClass now =
        classes_[page] == PageClass::kShared ? PageClass::kPrivate : PageClass::kShared;
    const std::uint64_t kept = seen_by_guest(page);
    const GfnRange range{Gfn{page}, 1};
    if (redirties) {
      convert_pages(map_, dirty_, range, now);
    } else {
      map_.convert(range, now);
    }
    classes_[page] = history.classes[page] = now;
    raw_[page] = now == PageClass::kPrivate ? kept ^ pad(page) : kept;
    return;
  }
  const std::uint64_t plain = history.steps * 1000 + page;
  history.values[page] = plain;
  raw_[page] = classes_[page] == PageClass::kPrivate ? plain ^ pad(page) : plain;
  if (tracking_) log_[page] = true;
}

void GuestCopy::start_tracking() {
  tracking_ = true;
  log_.assign(log_.size(), false);
}

void GuestCopy::harvest() {
  for (std::uint64_t page = 0; page < pages(); ++page) {
    if (log_[page]) dirty_.mark(Gfn{page});
    log_[page] = false;
  }
}

Result<void> GuestCopy::begin_export() {
  if (firmware_ != Firmware::kRuns) return fail(ErrorClass::kLocalFault, "it cannot be exported");
  firmware_ = Firmware::kSending;
  return {};
}

Result<Bytes> GuestCopy::seal_export(std::uint64_t session) {
  session_ = session;
  if (platform_ != Platform::kTdx) return Bytes{};
  firmware_ = Firmware::kSealed;
  return token_of(kStartToken, session);
}

Result<void> GuestCopy::release() {
  running_ = false;
  firmware_ = platform_ == Platform::kNone ? Firmware::kGone : Firmware::kSent;
  return {};
}

Result<void> GuestCopy::cancel(ByteView abort_token) {
  if (firmware_ == Firmware::kSent || firmware_ == Firmware::kGone) {
    return fail(ErrorClass::kLocalFault, "nothing leads back from here");
  }
  if (firmware_ == Firmware::kSealed && !is_token(abort_token, kAbortToken, session_)) {
    return fail(ErrorClass::kPolicy, "the platform needs the destination's abort token");
  }
  firmware_ = Firmware::kRuns;
  return {};
}

Result<void> GuestCopy::begin_import() {
  firmware_ = Firmware::kReceiving;
  return {};
}

Result<void> GuestCopy::seal_import(ByteView token) {
  if (platform_ == Platform::kTdx) {
    std::uint64_t word = 0;
    if (token.size() != sizeof(word)) return fail(ErrorClass::kMalformed, "no start token");
    std::memcpy(&word, token.data(), sizeof(word));
    session_ = (word ^ kStartToken) * 0xf1de83e19937733dULL;  // the factor's inverse
    SEALIFT_ASSERT(is_token(token, kStartToken, session_));
  }
  firmware_ = Firmware::kImported;
  return {};
}

Result<void> GuestCopy::commit() {
  if (firmware_ != Firmware::kImported && firmware_ != Firmware::kRuns) {
    return fail(ErrorClass::kLocalFault, "it has not arrived");
  }
  firmware_ = Firmware::kRuns;
  return {};
}

Bytes GuestCopy::abort() {
  const bool has_token = platform_ == Platform::kTdx && firmware_ == Firmware::kImported;
  running_ = false;
  firmware_ = Firmware::kGone;
  return has_token ? token_of(kAbortToken, session_) : Bytes{};
}

bool GuestCopy::viable() const {
  switch (firmware_) {
    case Firmware::kRuns:
    case Firmware::kSending:
    case Firmware::kImported:
      return true;
    default:
      return false;
  }
}

Result<void> GuestCopy::resume() {
  const bool committed = platform_ != Platform::kTdx || firmware_ != Firmware::kImported;
  if (!viable() || !committed)
    return fail(ErrorClass::kLocalFault, "the platform refuses to enter");
  running_ = true;
  return {};
}

// What is in the vCPUs, and here also what the guest keeps in its page tables.
Bytes GuestCopy::save_state() const {
  Bytes state(sizeof(steps_));
  std::memcpy(state.data(), &steps_, sizeof(steps_));
  for (const PageClass cls : classes_) state.push_back(static_cast<std::byte>(cls));
  return state;
}

Result<void> GuestCopy::load_state(ByteView state) {
  if (state.size() != sizeof(steps_) + classes_.size()) {
    return fail(ErrorClass::kMalformed, "state of {} bytes", state.size());
  }
  std::memcpy(&steps_, state.data(), sizeof(steps_));
  for (std::size_t page = 0; page < classes_.size(); ++page) {
    classes_[page] = static_cast<PageClass>(state[sizeof(steps_) + page]);
  }
  return {};
}

}  // namespace sealift::sim
