// What the host does to a guest in any phase: ASIDs, the end of a guest, its status, debugging.
#include <algorithm>

#include "vmm_glue/model/sev/firmware.h"
#include "vmm_glue/model/sev/firmware_internal.h"

namespace sealift::sev {

Status Firmware::check_activate(Call& call) const {
  const std::uint32_t asid = call.get<MailboxActivate>().asid;
  const bool is_es = (call.guest->policy & kPolicyEs) != 0;
  if (asid == 0 || asid > config_.asids || is_es != (asid < config_.sev_asid_min)) {
    return Status::kInvalidAsid;
  }
  const bool is_own = call.guest->asid == asid;
  if (asids_[asid] == AsidState::kBound && !is_own) return Status::kAsidOwned;
  if (call.guest->asid != 0) return Status::kActive;
  return asids_[asid] == AsidState::kFree ? Status::kSuccess : Status::kDfFlushRequired;
}

void Firmware::activate(Call& call) {
  GuestContext& guest = guest_of(call);
  guest.asid = call.get<MailboxActivate>().asid;
  asids_[guest.asid] = AsidState::kBound;
  memory_.load_key(guest.asid, guest.memory);
}

Status Firmware::check_deactivate(Call& call) const {
  return call.guest->asid == 0 ? Status::kInactive : Status::kSuccess;
}

void Firmware::deactivate(Call& call) { unbind(guest_of(call)); }

void Firmware::unbind(GuestContext& guest) {
  memory_.drop_key(guest.asid);
  asids_[guest.asid] = AsidState::kNeedsWbinvd;
  guest.asid = 0;
}

Status Firmware::check_decommission(Call& call) const {
  return call.guest->asid != 0 ? Status::kActive : Status::kSuccess;
}

void Firmware::decommission(Call& call) {
  guests_.erase(call.guest->handle);
  if (guests_.empty()) state_ = PlatformState::kInit;
}

void Firmware::guest_status(Call& call) {
  auto out = call.get<MailboxGuestStatus>();
  out.policy = call.guest->policy;
  out.asid = call.guest->asid;
  out.state = static_cast<std::uint8_t>(call.guest->state);
  call.put(out);
}

// Guest memory inside registered memory and aligned to a block of the memory's cipher.
Status Firmware::check_guest_memory(std::uint64_t address, std::uint32_t bytes, Call& call) const {
  call.spa = address & ~kCBit;
  call.memory = memory_.host(call.spa, bytes);
  const bool good = call.memory != nullptr && call.spa % kBlockBytes == 0;
  return good ? Status::kSuccess : Status::kInvalidAddress;
}

Status Firmware::check_dbg(Call& call) const {
  const auto request = call.get<MailboxDbg>();
  if (!fits_a_packet(call, request.len)) return Status::kInvalidLength;
  const bool decrypts = call.id == MailboxCommand::kDbgDecrypt;
  const std::uint64_t guest = decrypts ? request.source_address : request.destination_address;
  const std::uint64_t other = decrypts ? request.destination_address : request.source_address;
  const Status status = check_guest_memory(guest, request.len, call);
  if (status != Status::kSuccess) return status;
  return check_buffers({{call.memory, request.len}, kernel_bytes(other, request.len)});
}

void Firmware::dbg_decrypt(Call& call) {
  const auto request = call.get<MailboxDbg>();
  call.guest->memory->load(call.spa, call.memory,
                           kernel_memory(request.destination_address, request.len));
}

void Firmware::dbg_encrypt(Call& call) {
  const auto request = call.get<MailboxDbg>();
  call.guest->memory->store(call.spa, call.memory,
                            kernel_bytes(request.source_address, request.len));
}

}  // namespace sealift::sev
