#include "vmm_glue/model/sev/firmware_test_support.h"

#include <algorithm>

#include "engine/assert.h"

namespace sealift::sev {
namespace {

constexpr std::size_t kKernelBytes = 1 << 20;
constexpr std::uint32_t kHandlesMax = 64;

EcKey random_key() {
  SystemRandom random;
  return EcKey::generate(random);
}

}  // namespace

void ScriptedRandom::fill(MutableBytes out) {
  if (draws_.empty()) return system_.fill(out);
  ASSERT_EQ(draws_.front().size(), out.size()) << "the firmware draws in another order";
  std::copy(draws_.front().begin(), draws_.front().end(), out.begin());
  draws_.pop_front();
}

Peer::Peer(EcKey private_key)
    : key(std::move(private_key)),
      pdh(unsigned_certificate(KeyUsage::kPdh, key.public_key(), 1, 55).encode()) {}
Peer Peer::random() { return Peer(random_key()); }

const AmdRoot& test_amd_root() {
  static SystemRandom random;
  static const AmdRoot root(random);
  return root;
}

namespace {

// The identity's draws in the order that platform_identity.h gives.
ScriptedRandom& with_pdh(ScriptedRandom& random, const EcNumber* pdh) {
  if (pdh == nullptr) return random;
  SystemRandom system;
  for (const std::size_t bytes : {kEcBytes, kChipIdBytes, kEcBytes, kEcBytes}) {
    Bytes draw(bytes);
    system.fill(draw);
    draw[0] = std::byte{1};  // below the order of the group
    random.script(draw);
  }
  random.script(*pdh);
  return random;
}

}  // namespace

FirmwareBench::FirmwareBench(FirmwareConfig config, const EcNumber* pdh)
    : memory(random, config.asids),
      firmware(config, with_pdh(random, pdh), memory),
      next_sev_asid_(config.sev_asid_min),
      kernel_(kKernelBytes) {
  memory.add_region(reinterpret_cast<std::uint64_t>(ram.all().data()), ram.all().size());
  ram.fill_pattern();
}

struct FirmwareBench::Snapshot {
  struct Guest {
    std::uint32_t handle, policy, asid;
    GuestState state;
    const void *memory, *packets, *launch;
    bool has_digest;
    bool operator==(const Guest&) const = default;
  };
  Bytes status;  // PLATFORM_STATUS
  std::vector<Guest> guests;
  Bytes ram;
  Bytes kernel;
  Bytes pdh;
  Bytes chain;
  bool operator==(const Snapshot&) const = default;
};

FirmwareBench::Snapshot FirmwareBench::snapshot() {
  Snapshot out;
  out.status.resize(sizeof(MailboxPlatformStatus));
  EXPECT_EQ(firmware.command(MailboxCommand::kPlatformStatus, out.status), Status::kSuccess);
  for (std::uint32_t handle = 1; handle < kHandlesMax; ++handle) {
    const GuestContext* guest = firmware.find(handle);
    if (guest == nullptr) continue;
    out.guests.push_back({handle, guest->policy, guest->asid, guest->state, guest->memory.get(),
                          guest->packets.get(), guest->launch.get(),
                          guest->launch_digest.has_value()});
  }
  out.ram.assign(ram.all().begin(), ram.all().end());
  out.kernel.assign(kernel_.begin(), kernel_.begin() + static_cast<std::ptrdiff_t>(kernel_used_));
  if (firmware.state() == PlatformState::kUninit) return out;
  out.pdh.resize(kCertificateBytes);
  out.chain.resize(kChainBytes);
  MailboxPdhCertExport request{.pdh_address = reinterpret_cast<std::uint64_t>(out.pdh.data()),
                               .pdh_len = kCertificateBytes,
                               .chain_address = reinterpret_cast<std::uint64_t>(out.chain.data()),
                               .chain_len = kChainBytes};
  EXPECT_EQ(firmware.command(MailboxCommand::kPdhCertExport,
                             std::as_writable_bytes(std::span(&request, 1))),
            Status::kSuccess);
  return out;
}

namespace {

// Offsets of the lengths that a query asks for; 0: none.
std::array<std::size_t, 2> required_lengths(MailboxCommand id) {
  using enum MailboxCommand;
  switch (id) {
    case kSendStart:
      return {64};
    case kSendUpdateData:
    case kSendUpdateVmsa:
    case kLaunchMeasure:
      return {16};
    case kPdhCertExport:
      return {8, 24};
    case kPekCsr:
    case kGetId:
      return {8};
    case kAttestation:
      return {32};
    default:
      return {};
  }
}

}  // namespace

// Keys of a phase exist exactly in it (guest_context.h).
void FirmwareBench::expect_invariants() const {
  for (std::uint32_t handle = 1; handle < kHandlesMax; ++handle) {
    const GuestContext* guest = firmware.find(handle);
    if (guest == nullptr) continue;
    const GuestState state = guest->state;
    EXPECT_EQ(guest->packets != nullptr,
              state == GuestState::kSendUpdate || state == GuestState::kReceiveUpdate);
    EXPECT_EQ(guest->launch != nullptr,
              state == GuestState::kLaunchUpdate || state == GuestState::kLaunchSecret);
  }
}

Status FirmwareBench::run_bytes(MailboxCommand id, MutableBytes buffer) {
  const Snapshot before = snapshot();
  Bytes expected(buffer.begin(), buffer.end());
  const Status status = firmware.command(id, buffer);
  expect_invariants();
  if (status == Status::kSuccess) return status;
  EXPECT_TRUE(snapshot() == before) << "command " << static_cast<int>(id) << " failed with "
                                    << describe(status) << " and changed something";
  if (status == Status::kInvalidLength) {
    for (const std::size_t at : required_lengths(id)) {
      if (at != 0) std::memcpy(expected.data() + at, buffer.data() + at, 4);
    }
  }
  EXPECT_TRUE(std::equal(expected.begin(), expected.end(), buffer.begin()))
      << "command " << static_cast<int>(id) << " failed with " << describe(status)
      << " and wrote more than a required length";
  return status;
}

void FirmwareBench::init(bool es) {
  ASSERT_EQ(run(MailboxCommand::kInit, MailboxInit{.flags = es ? 1u : 0u}), Status::kSuccess);
}

std::uint64_t FirmwareBench::kernel(ByteView bytes) {
  SEALIFT_ASSERT(bytes.size() <= kernel_.size() - kernel_used_);
  std::byte* at = kernel_.data() + kernel_used_;
  std::copy(bytes.begin(), bytes.end(), at);
  kernel_used_ += bytes.size();
  return reinterpret_cast<std::uint64_t>(at);
}

Bytes FirmwareBench::kernel_bytes(std::uint64_t address, std::size_t bytes) {
  const auto* from = reinterpret_cast<const std::byte*>(address);
  return {from, from + bytes};
}

std::uint32_t FirmwareBench::launched(const BenchGuest& wanted) {
  MailboxStart start{.policy = wanted.policy};
  if (wanted.has_owner) start = start_with_session(peer, wanted.policy);
  EXPECT_EQ(run(MailboxCommand::kLaunchStart, start), Status::kSuccess);
  return start.handle;
}

std::uint32_t FirmwareBench::guest(const BenchGuest& wanted) {
  using enum MailboxCommand;
  std::vector<MailboxCommand> steps;
  std::uint32_t handle = 0;
  if (wanted.state == GuestState::kReceiveUpdate) {
    MailboxStart start = start_with_session(peer, wanted.policy);
    EXPECT_EQ(run(kReceiveStart, start), Status::kSuccess);
    handle = start.handle;
  } else {
    handle = launched(wanted);
    if (wanted.state >= GuestState::kLaunchSecret) steps.push_back(kLaunchMeasure);
    if (wanted.state >= GuestState::kRunning) steps.push_back(kLaunchFinish);
    if (wanted.state >= GuestState::kSendUpdate) steps.push_back(kSendStart);
    if (wanted.state >= GuestState::kSent) steps.push_back(kSendFinish);
  }
  if (wanted.bound) {
    EXPECT_EQ(activate(handle, next_asid(wanted.policy)), Status::kSuccess);
  }
  for (const MailboxCommand step : steps) {
    Bytes buffer = good_buffer(step, handle);
    EXPECT_EQ(run_bytes(step, buffer), Status::kSuccess);
  }
  EXPECT_EQ(firmware.find(handle)->state, wanted.state);
  return handle;
}

MailboxStart FirmwareBench::start_with_session(const Peer& from, std::uint32_t policy,
                                               const SessionSeed& seed) {
  const EcNumber secret = from.key.shared_secret(firmware.pdh_private_key_for_tests().public_key());
  const SessionBytes session = make_session(secret, seed, kKeys, policy);
  return {.policy = policy,
          .pdh_address = kernel(from.pdh),
          .pdh_len = kCertificateBytes,
          .session_address = kernel(session),
          .session_len = kSessionBytes};
}

MailboxSendStart FirmwareBench::send_start_to(ByteView pdh, std::uint32_t handle) {
  return {.handle = handle,
          .pdh_address = kernel(pdh),
          .pdh_len = kCertificateBytes,
          .session_address = room(kSessionBytes),
          .session_len = kSessionBytes};
}

MailboxUpdate FirmwareBench::packet(std::uint32_t handle, PacketContext context, std::uint64_t gfn,
                                    ByteView plain, std::uint32_t flags, ByteView extra) {
  PacketCipher cipher(kKeys);
  Bytes data(plain.size());
  PacketHeader header{.flags = flags, .iv = counting(1), .mac = {}};
  cipher.crypt(header.iv, plain, data);
  header.mac = cipher.mac(context, flags, header.iv, data, extra);
  std::array<std::byte, kPacketHeaderBytes> bytes{};
  write_packet_header(header, bytes);
  const auto length = static_cast<std::uint32_t>(plain.size());
  return {.handle = handle,
          .hdr_address = kernel(bytes),
          .hdr_len = kPacketHeaderBytes,
          .guest_address = page(gfn),
          .guest_len = length,
          .trans_address = kernel(data),
          .trans_len = length};
}

namespace {

template <class T>
Bytes bytes_of(const T& value) {
  const auto bytes = std::as_bytes(std::span(&value, 1));
  return {bytes.begin(), bytes.end()};
}

}  // namespace

Bytes FirmwareBench::good_buffer(MailboxCommand id, std::uint32_t handle) {
  using enum MailboxCommand;
  const Bytes plain(kPageBytes, std::byte{0x5a});
  switch (id) {
    case kActivate: {
      const GuestContext* guest = firmware.find(handle);
      return bytes_of(MailboxActivate{.handle = handle,
                                      .asid = next_asid(guest != nullptr ? guest->policy : 0)});
    }
    case kGuestStatus:
      return bytes_of(MailboxGuestStatus{.handle = handle});
    case kLaunchUpdateData:
    case kLaunchUpdateVmsa:
      return bytes_of(MailboxLaunchUpdate{.handle = handle, .address = page(0), .len = kPageBytes});
    case kLaunchMeasure:
      return bytes_of(MailboxLaunchMeasure{
          .handle = handle, .address = room(kMeasurementBytes), .len = kMeasurementBytes});
    case kLaunchSecret: {
      const GuestContext* guest = firmware.find(handle);
      const bool measured = guest != nullptr && guest->launch != nullptr;
      const Digest measure = measured ? guest->launch->measure : Digest{};
      return bytes_of(packet(handle, PacketContext::kSecret, 0, plain, 0, measure));
    }
    case kAttestation:
      return bytes_of(MailboxAttestation{
          .handle = handle, .address = room(kAttestationBytes), .len = kAttestationBytes});
    case kSendStart:
      return bytes_of(send_start_to(peer.pdh, handle));
    case kSendUpdateData:
    case kSendUpdateVmsa:
      return bytes_of(MailboxUpdate{.handle = handle,
                                    .hdr_address = room(kPacketHeaderBytes),
                                    .hdr_len = kPacketHeaderBytes,
                                    .guest_address = page(0),
                                    .guest_len = kPageBytes,
                                    .trans_address = room(kPageBytes),
                                    .trans_len = kPageBytes});
    case kReceiveUpdateData:
      return bytes_of(packet(handle, PacketContext::kData, 0, plain));
    case kReceiveUpdateVmsa:
      return bytes_of(packet(handle, PacketContext::kVmsa, 0, plain));
    case kDbgDecrypt:
      return bytes_of(MailboxDbg{.handle = handle,
                                 .source_address = page(0),
                                 .destination_address = room(kPageBytes),
                                 .len = kPageBytes});
    case kDbgEncrypt:
      return bytes_of(MailboxDbg{.handle = handle,
                                 .source_address = kernel(plain),
                                 .destination_address = page(0),
                                 .len = kPageBytes});
    default:
      return bytes_of(MailboxHandle{.handle = handle});
  }
}

FirmwareBench::Certificates FirmwareBench::certificates() {
  MailboxPdhCertExport request{.pdh_address = room(kCertificateBytes),
                               .pdh_len = kCertificateBytes,
                               .chain_address = room(kChainBytes),
                               .chain_len = kChainBytes};
  EXPECT_EQ(run(MailboxCommand::kPdhCertExport, request), Status::kSuccess);
  return {.pdh = kernel_bytes(request.pdh_address, kCertificateBytes),
          .chain = kernel_bytes(request.chain_address, kChainBytes)};
}

FirmwareBench::Certificates FirmwareBench::certificates(const AmdRoot& root) {
  Certificates out = certificates();
  const auto cek_bytes = ByteView(out.chain).last(kCertificateBytes);
  const CertificateBytes cek = root.sign(must(SevCertificate::parse(cek_bytes))).encode();
  std::copy(cek.begin(), cek.end(), out.chain.end() - kCertificateBytes);
  return out;
}

}  // namespace sealift::sev
