// The platform's own commands: its state, its owner, its certificates, its caches.
#include <algorithm>

#include "vmm_glue/model/sev/firmware.h"
#include "vmm_glue/model/sev/firmware_internal.h"

namespace sealift::sev {
namespace {

constexpr std::uint32_t kInitFlagEs = 1u << 0;
constexpr std::uint8_t kFlagExternallyOwned = 1u << 0;
constexpr std::uint16_t kConfigEs = 1u << 0;

// PEK_CSR and GET_ID: one buffer, whose length can be asked for.
Status check_blob(MailboxBlob blob, std::uint32_t needed, auto& call) {
  if (blob.len < needed) {
    blob.len = needed;
    return call.needs_length(blob);
  }
  return check_buffers({kernel_bytes(blob.address, needed)});
}

void put_blob(ByteView bytes, auto& call) {
  auto blob = call.template get<MailboxBlob>();
  write_kernel(bytes, blob.address);
  blob.len = static_cast<std::uint32_t>(bytes.size());
  call.put(blob);
}

}  // namespace

Status Firmware::check_init(Call& call) const {
  const std::uint32_t flags = call.get<MailboxInit>().flags;
  if ((flags & ~kInitFlagEs) != 0) return Status::kInvalidParam;
  return flags != 0 && !config_.es_capable ? Status::kUnsupported : Status::kSuccess;
}

void Firmware::init(Call& call) {
  es_ = call.get<MailboxInit>().flags != 0;
  state_ = PlatformState::kInit;
}

void Firmware::shutdown(Call& /*call*/) {
  for (auto& [handle, guest] : guests_) {
    if (guest.asid != 0) unbind(guest);
  }
  guests_.clear();
  es_ = false;
  state_ = PlatformState::kUninit;
}

void Firmware::platform_reset(Call& /*call*/) { identity_.renew_pek(); }

void Firmware::platform_status(Call& call) {
  auto out = call.get<MailboxPlatformStatus>();
  out.api_major = config_.version.api_major;
  out.api_minor = config_.version.api_minor;
  out.build = config_.version.build;
  out.state = static_cast<std::uint8_t>(state_);
  out.flags = identity_.externally_owned() ? kFlagExternallyOwned : std::uint8_t{0};
  out.config = es_ ? kConfigEs : std::uint16_t{0};
  out.guest_count = static_cast<std::uint32_t>(guests_.size());
  call.put(out);
}

void Firmware::pek_gen(Call& /*call*/) { identity_.renew_pek(); }

Status Firmware::check_pek_csr(Call& call) const {
  return check_blob(call.get<MailboxBlob>(), kCertificateBytes, call);
}

void Firmware::pek_csr(Call& call) { put_blob(identity_.pek_request().encode(), call); }

Status Firmware::check_pek_cert_import(Call& call) const {
  const auto request = call.get<MailboxPekCertImport>();
  if (identity_.externally_owned()) return Status::kAlreadyOwned;
  if (request.pek_len != kCertificateBytes || request.oca_len != kCertificateBytes) {
    return Status::kInvalidLength;
  }
  const ByteView pek_bytes = kernel_bytes(request.pek_address, kCertificateBytes);
  const ByteView oca_bytes = kernel_bytes(request.oca_address, kCertificateBytes);
  if (check_buffers({pek_bytes, oca_bytes}) != Status::kSuccess) return Status::kInvalidAddress;
  const auto pek = SevCertificate::parse(pek_bytes);
  const auto oca = SevCertificate::parse(oca_bytes);
  if (!pek || !oca || pek->usage != KeyUsage::kPek || pek->key != identity_.pek().key) {
    return Status::kInvalidCertificate;
  }
  call.pek = *pek;
  call.oca = *oca;
  return status_of({check_signature(*oca, *oca), check_signature(*pek, *oca)});
}

void Firmware::pek_cert_import(Call& call) { identity_.adopt(*call.pek, *call.oca); }

Status Firmware::check_pdh_cert_export(Call& call) const {
  auto request = call.get<MailboxPdhCertExport>();
  if (request.pdh_len < kCertificateBytes || request.chain_len < kChainBytes) {
    request.pdh_len = kCertificateBytes;
    request.chain_len = kChainBytes;
    return call.needs_length(request);
  }
  return check_buffers({kernel_bytes(request.pdh_address, kCertificateBytes),
                        kernel_bytes(request.chain_address, kChainBytes)});
}

void Firmware::pdh_cert_export(Call& call) {
  auto request = call.get<MailboxPdhCertExport>();
  write_kernel(identity_.pdh().encode(), request.pdh_address);
  write_kernel(identity_.pek().encode(), request.chain_address);
  write_kernel(identity_.oca().encode(), request.chain_address + kCertificateBytes);
  write_kernel(identity_.cek().encode(), request.chain_address + 2 * kCertificateBytes);
  request.pdh_len = kCertificateBytes;
  request.chain_len = kChainBytes;
  call.put(request);
}

void Firmware::pdh_gen(Call& /*call*/) { identity_.renew_pdh(); }

void Firmware::wbinvd() {
  std::replace(asids_.begin(), asids_.end(), AsidState::kNeedsWbinvd, AsidState::kNeedsDfFlush);
}

Status Firmware::check_df_flush(Call& /*call*/) const {
  const auto dirty = std::find(asids_.begin(), asids_.end(), AsidState::kNeedsWbinvd);
  return dirty != asids_.end() ? Status::kWbinvdRequired : Status::kSuccess;
}

void Firmware::df_flush(Call& /*call*/) {
  std::replace(asids_.begin(), asids_.end(), AsidState::kNeedsDfFlush, AsidState::kFree);
}

Status Firmware::check_get_id(Call& call) const {
  return check_blob(call.get<MailboxBlob>(), kChipIdBytes, call);
}

void Firmware::get_id(Call& call) { put_blob(identity_.chip_id(), call); }

void Firmware::nop(Call& /*call*/) {}

}  // namespace sealift::sev
