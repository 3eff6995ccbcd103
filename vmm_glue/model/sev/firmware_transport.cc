// Packets of memory and VMSAs, and the commands that end a phase.
#include "vmm_glue/model/sev/firmware.h"
#include "vmm_glue/model/sev/firmware_internal.h"

namespace sealift::sev {

bool Firmware::fits_a_packet(const Call& call, std::uint32_t bytes) const {
  if (call.is_vmsa()) return bytes == kVmsaBytes;
  return bytes != 0 && bytes % kBlockBytes == 0 && bytes <= config_.packet_bytes_max;
}

Status Firmware::fits_vmsa(const GuestContext& guest) const {
  return (guest.policy & kPolicyEs) == 0 ? Status::kUnsupported : Status::kSuccess;
}

Status Firmware::check_send_update(Call& call) const {
  auto update = call.get<MailboxUpdate>();
  if (update.hdr_len < kPacketHeaderBytes) {
    update.hdr_len = kPacketHeaderBytes;
    return call.needs_length(update);
  }
  if (!fits_a_packet(call, update.guest_len) || update.trans_len < update.guest_len) {
    return Status::kInvalidLength;
  }
  const Status status = check_guest_memory(update.guest_address, update.guest_len, call);
  if (status != Status::kSuccess) return status;
  return check_buffers({{call.memory, update.guest_len},
                        kernel_bytes(update.hdr_address, kPacketHeaderBytes),
                        kernel_bytes(update.trans_address, update.guest_len)});
}

void Firmware::send_update(Call& call) {
  auto update = call.get<MailboxUpdate>();
  PacketCipher& packets = *guest_of(call).packets;
  const MutableBytes plain = std::span(scratch_).first(update.guest_len);
  const MutableBytes out = kernel_memory(update.trans_address, update.guest_len);
  call.guest->memory->load(call.spa, call.memory, plain);
  PacketHeader header;
  header.iv = random_block();
  packets.crypt(header.iv, plain, out);
  const auto context = call.is_vmsa() ? config_.vmsa_context : PacketContext::kData;
  header.mac = packets.mac(context, header.flags, header.iv, out);
  write_packet_header(
      header, kernel_memory(update.hdr_address, kPacketHeaderBytes).first<kPacketHeaderBytes>());
  update.hdr_len = kPacketHeaderBytes;
  update.trans_len = update.guest_len;
  call.put(update);
}

void Firmware::send_finish(Call& call) {
  guest_of(call).erase_channel();
  guest_of(call).state = GuestState::kSent;
}

void Firmware::to_running(Call& call) {
  guest_of(call).erase_channel();
  guest_of(call).state = GuestState::kRunning;
}

Status Firmware::check_packet(Call& call, PacketCipher& cipher, PacketContext context,
                              ByteView extra) const {
  const auto update = call.get<MailboxUpdate>();
  if (update.hdr_len != kPacketHeaderBytes || update.trans_len != update.guest_len ||
      !fits_a_packet(call, update.guest_len)) {
    return Status::kInvalidLength;
  }
  Status status = check_guest_memory(update.guest_address, update.guest_len, call);
  if (status != Status::kSuccess) return status;
  const ByteView header = kernel_bytes(update.hdr_address, kPacketHeaderBytes);
  const ByteView data = kernel_bytes(update.trans_address, update.trans_len);
  status = check_buffers({{call.memory, update.guest_len}, header, data});
  if (status != Status::kSuccess) return status;
  call.header = parse_packet_header(header.first<kPacketHeaderBytes>());
  if (!cipher.authentic(context, call.header, data, extra)) return Status::kBadMeasurement;
  call.cipher = &cipher;
  const bool is_compressed = call.header.flags != 0;
  return is_compressed ? Status::kUnsupported : Status::kSuccess;
}

Status Firmware::check_receive_update(Call& call) const {
  const auto context = call.is_vmsa() ? config_.vmsa_context : PacketContext::kData;
  return check_packet(call, *call.guest->packets, context);
}

void Firmware::store_packet(Call& call) {
  const auto update = call.get<MailboxUpdate>();
  const MutableBytes plain = std::span(scratch_).first(update.guest_len);
  call.cipher->crypt(call.header.iv, kernel_bytes(update.trans_address, update.trans_len), plain);
  call.guest->memory->store(call.spa, call.memory, plain);
}

}  // namespace sealift::sev
