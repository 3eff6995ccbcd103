#include "vmm_glue/model/sev/psp_device.h"

#include <cerrno>
#include <cstring>
#include <thread>

#include "engine/assert.h"

namespace sealift::sev {
namespace {

using enum MailboxCommand;
using std::chrono_literals::operator""us;

enum class Packet : std::uint8_t { kNone, kTakenIn, kGivenOut };

Packet packet_of(MailboxCommand id) {
  if (id == kSendUpdateData || id == kSendUpdateVmsa) return Packet::kGivenOut;
  if (id == kReceiveUpdateData || id == kReceiveUpdateVmsa) return Packet::kTakenIn;
  return id == kLaunchSecret ? Packet::kTakenIn : Packet::kNone;
}

// The kernel's copy of the packet is changed, never the caller's.
void flip_bit(const Fault& fault, MutableBytes buffer) {
  MailboxUpdate update;
  SEALIFT_ASSERT(buffer.size() == sizeof(update));
  std::memcpy(&update, buffer.data(), sizeof(update));
  const bool header = fault.kind == Fault::Kind::kFlipHeader;
  const std::uint64_t address = header ? update.hdr_address : update.trans_address;
  const std::uint32_t bytes = header ? update.hdr_len : update.trans_len;
  if (address == 0 || bytes == 0) return;
  const std::uint64_t bit = fault.bit % (std::uint64_t{bytes} * 8);
  reinterpret_cast<std::byte*>(address)[bit / 8] ^= std::byte{1} << (bit % 8);
}

}  // namespace

LatencyProfile LatencyProfile::asp() {
  LatencyProfile out;
  for (const MailboxCommand id :
       {kPdhCertExport, kActivate, kDeactivate, kDecommission, kGuestStatus, kLaunchStart,
        kLaunchUpdateData, kLaunchUpdateVmsa, kLaunchMeasure, kLaunchSecret, kLaunchFinish,
        kAttestation, kSendStart, kSendFinish, kSendCancel, kReceiveStart, kReceiveFinish,
        kDbgDecrypt, kDbgEncrypt}) {
    out[id] = 100us;
  }
  for (const MailboxCommand id :
       {kSendUpdateData, kSendUpdateVmsa, kReceiveUpdateData, kReceiveUpdateVmsa}) {
    out[id] = 2500us;
  }
  return out;
}

std::optional<LatencyProfile> LatencyProfile::parse(std::string_view name) {
  if (name == "fast") return fast();
  if (name == "asp") return asp();
  return std::nullopt;
}

PspDevice::PspDevice(Firmware& firmware, UserMemory& user, LatencyProfile latency, FaultHook fault,
                     bool with_es)
    : firmware_(firmware),
      user_(user),
      latency_(std::move(latency)),
      with_es_(with_es),
      fault_(std::move(fault)) {}

int PspDevice::not_open() { return -EBADF; }

std::uint64_t PspDevice::issued(MailboxCommand id) const {
  const auto found = issued_.find(id);
  return found == issued_.end() ? 0 : found->second;
}

int PspDevice::refusal() const {
  if (health_ == Health::kGone) return -ENODEV;
  return health_ == Health::kDead ? -EBUSY : 0;
}

std::uint32_t PspDevice::run_with(const Fault& fault, MailboxCommand id, MutableBytes buffer) {
  using Kind = Fault::Kind;
  const Packet packet = packet_of(id);
  const bool flips = (fault.kind == Kind::kFlipHeader || fault.kind == Kind::kFlipBody);
  if (fault.kind == Kind::kStatus) return fault.status;
  if (fault.kind == Kind::kNewPdh) firmware_.command(kPdhGen, {});
  if (flips && packet == Packet::kTakenIn) flip_bit(fault, buffer);
  const auto status = static_cast<std::uint32_t>(firmware_.command(id, buffer));
  if (flips && packet == Packet::kGivenOut && status == 0) flip_bit(fault, buffer);
  if (fault.kind == Kind::kCopyOut) user_.fail_next_copy_out();
  return status;
}

int PspDevice::run_bytes(MailboxCommand id, MutableBytes buffer, std::uint32_t& error) {
  if (const int refused = refusal(); refused != 0) return refused;
  const std::uint64_t nth = issued_[id]++;
  const auto slow = latency_.find(id);
  if (slow != latency_.end()) {
    std::this_thread::sleep_for(slow->second);  // tidy: allow (the hardware's own slowness)
  }
  const std::optional<Fault> fault = fault_ ? fault_(id, nth) : std::nullopt;
  if (fault && fault->kind == Fault::Kind::kTimeout) {
    error = 0;
    health_ = Health::kDead;
    return -ETIMEDOUT;
  }
  error = fault ? run_with(*fault, id, buffer)
                : static_cast<std::uint32_t>(firmware_.command(id, buffer));
  return error == 0 ? 0 : -EIO;
}

int PspDevice::flush(std::uint32_t& error) {
  firmware_.wbinvd();
  return run(kDfFlush, error);
}

int PspDevice::init_platform(std::uint32_t& error) {
  if (health_ == Health::kGone) return -ENODEV;
  if (initialised_) return 0;
  constexpr std::uint32_t kFlagEs = 1;
  constexpr std::uint32_t kTmrBytes = 1u << 20;
  constexpr std::uint64_t kTmrAddress = 1u << 20;  // never touched: an address of the right form
  MailboxInit init;
  if (with_es_) init = {.flags = kFlagEs, .tmr_address = kTmrAddress, .tmr_len = kTmrBytes};
  std::uint32_t status = kNoFirmwareCall;
  const MailboxInit again = init;
  int result = run(kInit, init, status);
  // Lost persistent data: the second INIT starts afresh.
  if (status == static_cast<std::uint32_t>(Status::kSecureDataInvalid)) {
    init = again;
    result = run(kInit, init, status);
  }
  error = status;
  if (result != 0) return result;
  initialised_ = true;
  return flush(error);
}

}  // namespace sealift::sev
