#include "vmm_glue/exits/tdx_calls.h"

#include <fmt/core.h>

#include <cstring>
#include <map>
#include <mutex>
#include <span>
#include <utility>

#include "engine/assert.h"

namespace sealift {
namespace {

struct Buffer {
  std::uint64_t gpa = 0;
  std::uint64_t bytes = 0;
  std::uint64_t room() const { return bytes - sizeof(TdxQuoteHeader); }
};

template <class T>
bool write_at(GuestBytes& guest, std::uint64_t gpa, const T& word) {
  return guest.write(Gpa{gpa}, std::as_bytes(std::span(&word, 1)));
}

bool write_status(GuestBytes& guest, const Buffer& buffer, std::uint64_t status) {
  // The guest sees what was written before this: x86 keeps the order of stores.
  return write_at(guest, buffer.gpa + offsetof(TdxQuoteHeader, status), status);
}

bool write_length(GuestBytes& guest, const Buffer& buffer, std::size_t bytes) {
  return write_at(guest, buffer.gpa + offsetof(TdxQuoteHeader, out_bytes),
                  static_cast<std::uint32_t>(bytes));
}

// False when the buffer is not shared RAM any more.
bool write_quote(GuestBytes& guest, const Buffer& buffer, const Result<Bytes>& quote) {
  std::uint64_t status = kTdxQuoteDone;
  if (!quote) {
    status = quote.error().cls == ErrorClass::kRefused ? kTdxQuoteUnavailable : kTdxQuoteError;
  } else if (quote->size() > buffer.room()) {
    status = kTdxQuoteError;
  }
  if (status != kTdxQuoteDone)
    return write_length(guest, buffer, 0) && write_status(guest, buffer, status);
  const Gpa payload{buffer.gpa + sizeof(TdxQuoteHeader)};
  return (quote->empty() || guest.write(payload, *quote)) &&
         write_length(guest, buffer, quote->size()) && write_status(guest, buffer, status);
}

// The address and the size alone.
TdxOutcome check_buffer(const Buffer& buffer) {
  if (buffer.gpa == 0 || buffer.bytes == 0)
    return {kTdxGetQuote, kTdxInvalidOperand, "the buffer's address or size is zero"};
  if (buffer.gpa % kPageBytes != 0 || buffer.bytes % kPageBytes != 0)
    return {kTdxGetQuote, kTdxAlignError, "the buffer is not made of whole pages"};
  if (buffer.bytes > TdxCalls::kQuoteBufferBytesMax)
    return {kTdxGetQuote, kTdxInvalidOperand, "the buffer is above 128 KiB"};
  return {kTdxGetQuote, kTdxSuccess, "quote requested"};
}

// One copy of the buffer, then checks of the copy; `bytes` becomes the report.
TdxOutcome read_report(const GuestBytes& guest, const Buffer& buffer, Bytes& bytes) {
  bytes.resize(buffer.bytes);
  if (!guest.read(Gpa{buffer.gpa}, bytes))
    return {kTdxGetQuote, kTdxInvalidOperand, "the buffer is not shared RAM"};
  TdxQuoteHeader header;
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.version != kTdxQuoteVersion)
    return {kTdxGetQuote, kTdxInvalidOperand, "the buffer's version is not 1"};
  if (header.in_bytes > buffer.room())
    return {kTdxGetQuote, kTdxInvalidOperand, "the report is longer than the buffer"};
  bytes.erase(bytes.begin(), bytes.begin() + sizeof header);
  bytes.resize(header.in_bytes);
  return {kTdxGetQuote, kTdxSuccess, "quote requested"};
}

}  // namespace

struct TdxCalls::State {
  State(GuestBytes& bytes, Notify callback) : guest(bytes), notify(std::move(callback)) {}

  // Reserves a place and tells the guest. `id` is set on SUCCESS.
  TdxOutcome start(const Buffer& buffer, std::uint64_t& id) {
    const std::lock_guard lock(mutex);
    if (in_flight.size() >= kQuotesMax)
      return {kTdxGetQuote, kTdxRetry, "16 quotes are in flight already"};
    if (!write_length(guest, buffer, 0) || !write_status(guest, buffer, kTdxQuoteInFlight))
      return {kTdxGetQuote, kTdxInvalidOperand, "the buffer stopped being shared RAM"};
    id = next_id++;
    in_flight.emplace(id, buffer);
    return {kTdxGetQuote, kTdxSuccess, "quote requested"};
  }

  void complete(std::uint64_t id, const Result<Bytes>& quote) {
    const std::lock_guard lock(mutex);
    const auto found = in_flight.extract(id);
    if (found.empty()) return;  // abandoned
    if (write_quote(guest, found.mapped(), quote) && target && notify) notify(*target);
  }

  mutable std::mutex mutex;
  GuestBytes& guest;  // used by completions only while they are in `in_flight`
  Notify const notify;
  std::map<std::uint64_t, Buffer> in_flight;
  std::uint64_t next_id = 0;
  std::optional<TdxNotify> target;
};

TdxCalls::TdxCalls(GuestBytes& guest, QuoteProvider* provider, Notify notify, TdxCallInfo info)
    : info_(info), provider_(provider), state_(std::make_shared<State>(guest, std::move(notify))) {}

TdxCalls::~TdxCalls() {
  const std::lock_guard lock(state_->mutex);
  state_->in_flight.clear();
}

TdxOutcome TdxCalls::handle(KvmRun& run, std::uint32_t apic_id) {
  SEALIFT_ASSERT(run.exit_reason == kKvmExitTdx);
  const std::uint64_t nr = run.exit.tdx.nr;
  if (run.exit.tdx.flags != 0) return {nr, run.exit.tdx.unknown.ret, "unknown flags"};
  switch (nr) {
    case kTdxGetTdVmCallInfo:
      return get_info(run);
    case kTdxGetQuote:
      return get_quote(run);
    case kTdxSetupEventNotifyInterrupt:
      return setup_notify(run, apic_id);
    default:
      return {nr, run.exit.tdx.unknown.ret, "unknown call"};
  }
}

TdxOutcome TdxCalls::get_info(KvmRun& run) const {
  auto& call = run.exit.tdx.get_tdvmcall_info;
  TdxOutcome out{kTdxGetTdVmCallInfo, kTdxSuccess, "calls listed"};
  call.r11 = call.r12 = call.r13 = call.r14 = 0;
  if (call.leaf == 1) {
    const std::uint64_t ours = state_->notify ? kTdxCallEventNotify : 0;
    call.r11 = (info_.user_r11 & ours) | info_.kernel_r11;
    call.r12 = info_.kernel_r12;  // of what user_r12 may name, we support nothing
  } else {
    out = {kTdxGetTdVmCallInfo, kTdxInvalidOperand, "unknown leaf"};
  }
  call.ret = out.ret;
  return out;
}

TdxOutcome TdxCalls::get_quote(KvmRun& run) {
  auto& call = run.exit.tdx.get_quote;
  const Buffer buffer{call.gpa, call.size};
  TdxOutcome out{kTdxGetQuote, kTdxSubfuncUnsupported, "no quote provider"};
  if (provider_ != nullptr) {
    Bytes report;
    std::uint64_t id = 0;
    out = check_buffer(buffer);
    if (out.ret == kTdxSuccess) out = read_report(state_->guest, buffer, report);
    if (out.ret == kTdxSuccess) out = state_->start(buffer, id);
    if (out.ret == kTdxSuccess)
      provider_->request(std::move(report), [state = state_, id](const Result<Bytes>& quote) {
        state->complete(id, quote);
      });
  }
  call.ret = out.ret;
  return out;
}

TdxOutcome TdxCalls::setup_notify(KvmRun& run, std::uint32_t apic_id) {
  auto& call = run.exit.tdx.setup_event_notify;
  const std::uint64_t vector = call.vector;
  TdxOutcome out{kTdxSetupEventNotifyInterrupt, kTdxSuccess, "vector registered"};
  if (!state_->notify) {
    out = {kTdxSetupEventNotifyInterrupt, kTdxSubfuncUnsupported, "nothing can be injected"};
  } else if (vector < kTdxVectorMin || vector > kTdxVectorMax) {
    out = {kTdxSetupEventNotifyInterrupt, kTdxInvalidOperand, "the vector is outside 32 to 255"};
  } else {
    set_notify_target(TdxNotify{apic_id, static_cast<std::uint8_t>(vector)});
  }
  call.ret = out.ret;
  return out;
}

std::size_t TdxCalls::quotes_in_flight() const {
  const std::lock_guard lock(state_->mutex);
  return state_->in_flight.size();
}

void TdxCalls::abandon_quotes() {
  const std::lock_guard lock(state_->mutex);
  const Result<Bytes> gone = fail(ErrorClass::kRefused, "abandoned");
  for (const auto& [id, buffer] : std::exchange(state_->in_flight, {})) {
    if (write_quote(state_->guest, buffer, gone) && state_->target && state_->notify)
      state_->notify(*state_->target);
  }
}

std::optional<TdxNotify> TdxCalls::notify_target() const {
  const std::lock_guard lock(state_->mutex);
  return state_->target;
}

void TdxCalls::set_notify_target(std::optional<TdxNotify> target) {
  const std::lock_guard lock(state_->mutex);
  state_->target = target;
}

std::string describe(const TdxOutcome& outcome) {
  return fmt::format("TDX call {:#x} answered {:#x}: {}", outcome.nr, outcome.ret, outcome.reason);
}

}  // namespace sealift
