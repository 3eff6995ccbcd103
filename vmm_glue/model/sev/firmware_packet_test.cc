// What a packet, a session and a debugger can and cannot do to a guest.
#include <gtest/gtest.h>

#include "vmm_glue/model/sev/firmware_test_support.h"
#include "vmm_glue/sev/attestation_report.h"

namespace sealift::sev {
namespace {

using enum MailboxCommand;

class SevFirmwarePackets : public testing::Test {
 protected:
  SevFirmwarePackets() { bench.init(true); }
  std::uint32_t receiving(std::uint32_t policy = 0) {
    return bench.guest({.policy = policy, .state = GuestState::kReceiveUpdate});
  }
  Bytes seen(std::uint32_t handle, std::uint64_t gfn) {
    Bytes out(kPageBytes);
    bench.memory.load(bench.firmware.find(handle)->asid, bench.ram.page(gfn).data(), out);
    return out;
  }
  MailboxUpdate send_buffer(std::uint32_t handle, std::uint64_t gfn) {
    return {.handle = handle,
            .hdr_address = bench.room(kPacketHeaderBytes),
            .hdr_len = kPacketHeaderBytes,
            .guest_address = bench.page(gfn),
            .guest_len = kPageBytes,
            .trans_address = bench.room(kPageBytes),
            .trans_len = kPageBytes};
  }

  FirmwareBench bench;
  const Bytes plain = Bytes(kPageBytes, std::byte{0x42});
};

// Every bit of header and data that the MAC covers; run() sees that memory stays.
TEST_F(SevFirmwarePackets, AnyFlippedBitIsABadMeasurement) {
  const std::uint32_t handle = receiving();
  const MailboxUpdate good = bench.packet(handle, PacketContext::kData, 0, Bytes(32));
  const auto flip = [&](std::uint64_t address, std::size_t bit) {
    *(reinterpret_cast<std::byte*>(address) + bit / 8) ^= std::byte(1u << (bit % 8));
  };
  for (std::size_t bit = 0; bit < 8 * kPacketHeaderBytes; ++bit) {
    flip(good.hdr_address, bit);
    EXPECT_EQ(bench.run(kReceiveUpdateData, MailboxUpdate(good)), Status::kBadMeasurement) << bit;
    flip(good.hdr_address, bit);
  }
  for (std::size_t bit = 0; bit < 8 * 32; ++bit) {
    flip(good.trans_address, bit);
    EXPECT_EQ(bench.run(kReceiveUpdateData, MailboxUpdate(good)), Status::kBadMeasurement) << bit;
    flip(good.trans_address, bit);
  }
  MailboxUpdate shorter = good;
  shorter.guest_len = shorter.trans_len = 16;
  EXPECT_EQ(bench.run(kReceiveUpdateData, shorter), Status::kBadMeasurement);
  EXPECT_EQ(bench.run(kReceiveUpdateData, MailboxUpdate(good)), Status::kSuccess);
}

TEST_F(SevFirmwarePackets, CompressionIsRefusedOnlyWhenItIsAuthentic) {
  const std::uint32_t handle = receiving();
  for (const std::uint32_t flags : {1u, 2u, 0x80000000u}) {
    MailboxUpdate packet = bench.packet(handle, PacketContext::kData, 0, plain, flags);
    EXPECT_EQ(bench.run(kReceiveUpdateData, packet), Status::kUnsupported);
    *(reinterpret_cast<std::byte*>(packet.hdr_address) + 20) ^= std::byte{1};
    EXPECT_EQ(bench.run(kReceiveUpdateData, packet), Status::kBadMeasurement);
  }
}

// A weakness of the protocol that the driver has to live with: nothing in a packet says where it
// belongs, or when.
TEST_F(SevFirmwarePackets, AnOldPacketIsTakenAgainAndAnywhere) {
  const std::uint32_t handle = receiving();
  MailboxUpdate old = bench.packet(handle, PacketContext::kData, 0, plain);
  MailboxUpdate fresh =
      bench.packet(handle, PacketContext::kData, 0, Bytes(kPageBytes, std::byte{9}));
  ASSERT_EQ(bench.run(kReceiveUpdateData, fresh), Status::kSuccess);
  ASSERT_EQ(bench.run(kReceiveUpdateData, old), Status::kSuccess);
  EXPECT_EQ(seen(handle, 0), plain);
  old.guest_address = bench.page(6);
  ASSERT_EQ(bench.run(kReceiveUpdateData, old), Status::kSuccess);
  EXPECT_EQ(seen(handle, 6), plain);
}

TEST_F(SevFirmwarePackets, APacketOfOneKindIsNoneOfTheOther) {
  const std::uint32_t handle = receiving(kPolicyEs);
  MailboxUpdate data = bench.packet(handle, PacketContext::kData, 0, plain);
  MailboxUpdate vmsa = bench.packet(handle, PacketContext::kVmsa, 0, plain);
  EXPECT_EQ(bench.run(kReceiveUpdateVmsa, data), Status::kBadMeasurement);
  EXPECT_EQ(bench.run(kReceiveUpdateData, vmsa), Status::kBadMeasurement);
  EXPECT_EQ(bench.run(kReceiveUpdateVmsa, vmsa), Status::kSuccess);
  EXPECT_EQ(seen(handle, 0), plain);
}

TEST_F(SevFirmwarePackets, AVmsaTravels) {
  const std::uint32_t handle =
      bench.guest({.policy = kPolicyEs, .state = GuestState::kLaunchUpdate});
  std::copy(plain.begin(), plain.end(), bench.ram.page(4).begin());
  MailboxLaunchUpdate vmsa{.handle = handle, .address = bench.page(4), .len = kVmsaBytes};
  ASSERT_EQ(bench.run(kLaunchUpdateVmsa, vmsa), Status::kSuccess);
  EXPECT_NE(Bytes(bench.ram.page(4).begin(), bench.ram.page(4).end()), plain);
  EXPECT_EQ(seen(handle, 4), plain);
  for (const MailboxCommand step : {kLaunchMeasure, kLaunchFinish, kSendStart}) {
    Bytes buffer = bench.good_buffer(step, handle);
    ASSERT_EQ(bench.run_bytes(step, buffer), Status::kSuccess);
  }
  MailboxUpdate sent = send_buffer(handle, 4);
  ASSERT_EQ(bench.run(kSendUpdateVmsa, sent), Status::kSuccess);
  EXPECT_NE(FirmwareBench::kernel_bytes(sent.trans_address, kPageBytes), plain);
}

// A cancelled session is over: the next has other keys, and what the first sent no longer opens.
TEST_F(SevFirmwarePackets, CancelThenAnotherSession) {
  FirmwareBench receiver;
  receiver.init();
  const Bytes pdh = receiver.certificates().pdh;
  const Bytes own = bench.certificates().pdh;
  const std::uint32_t handle = bench.guest({});
  std::uint32_t incoming = 0;
  std::vector<MailboxUpdate> packets;
  for (int round = 0; round < 2; ++round) {
    MailboxSendStart start = bench.send_start_to(pdh, handle);
    ASSERT_EQ(bench.run(kSendStart, start), Status::kSuccess);
    const Bytes session = FirmwareBench::kernel_bytes(start.session_address, kSessionBytes);
    packets.push_back(send_buffer(handle, 0));
    ASSERT_EQ(bench.run(kSendUpdateData, packets.back()), Status::kSuccess);
    MailboxStart receive{.policy = start.policy,
                         .pdh_address = receiver.kernel(own),
                         .pdh_len = kCertificateBytes,
                         .session_address = receiver.kernel(session),
                         .session_len = kSessionBytes};
    ASSERT_EQ(receiver.run(kReceiveStart, receive), Status::kSuccess);
    incoming = receive.handle;
    if (round == 0) {
      ASSERT_EQ(bench.on(kSendCancel, handle), Status::kSuccess);
      EXPECT_EQ(bench.run(kSendUpdateData, send_buffer(handle, 0)), Status::kInvalidGuestState);
    }
  }
  ASSERT_EQ(receiver.activate(incoming, 100), Status::kSuccess);
  for (MailboxUpdate& packet : packets) {
    packet.handle = incoming;
    packet.guest_address = receiver.page(0);
  }
  EXPECT_EQ(receiver.run(kReceiveUpdateData, packets[0]), Status::kBadMeasurement);
  EXPECT_EQ(receiver.run(kReceiveUpdateData, packets[1]), Status::kSuccess);
}

TEST_F(SevFirmwarePackets, ASessionIsForOnePolicyAndOnePdh) {
  MailboxStart start = bench.start_with_session(bench.peer, kPolicyNoDebug);
  start.policy = 0;
  EXPECT_EQ(bench.run(kReceiveStart, start), Status::kBadMeasurement);
  start.policy = kPolicyNoDebug;
  ASSERT_EQ(bench.run(kPdhGen), Status::kSuccess);
  EXPECT_EQ(bench.run(kReceiveStart, start), Status::kBadMeasurement);
  start = bench.start_with_session(bench.peer, kPolicyNoDebug);
  EXPECT_EQ(bench.run(kReceiveStart, start), Status::kSuccess);
}

TEST_F(SevFirmwarePackets, LengthQueriesAnswerWithTheLengthAndNothingElse) {
  const std::uint32_t running = bench.guest({});
  const std::uint32_t sending = bench.guest({.state = GuestState::kSendUpdate});
  const std::uint32_t launching = bench.guest({.state = GuestState::kLaunchUpdate});
  MailboxSendStart start{.handle = running};
  EXPECT_EQ(bench.run(kSendStart, start), Status::kInvalidLength);
  EXPECT_EQ(start.session_len, kSessionBytes);
  EXPECT_EQ(start.policy, 0u);
  for (const MailboxCommand id : {kSendUpdateData}) {
    MailboxUpdate update{.handle = sending, .trans_len = 7};
    EXPECT_EQ(bench.run(id, update), Status::kInvalidLength);
    EXPECT_EQ(update.hdr_len, kPacketHeaderBytes);
    EXPECT_EQ(update.trans_len, 7u);  // left as it came
  }
  MailboxLaunchMeasure measure{.handle = launching};
  EXPECT_EQ(bench.run(kLaunchMeasure, measure), Status::kInvalidLength);
  EXPECT_EQ(measure.len, kMeasurementBytes);
  MailboxAttestation report{.handle = running};
  EXPECT_EQ(bench.run(kAttestation, report), Status::kInvalidLength);
  EXPECT_EQ(report.len, kAttestationBytes);
  // No query: a length that is only wrong is not corrected.
  MailboxUpdate odd = send_buffer(sending, 0);
  odd.guest_len = 4088;
  const MailboxUpdate before = odd;
  EXPECT_EQ(bench.run(kSendUpdateData, odd), Status::kInvalidLength);
  EXPECT_EQ(std::memcmp(&odd, &before, sizeof(odd)), 0);
}

TEST_F(SevFirmwarePackets, LengthsAndAddresses) {
  const std::uint32_t sending = bench.guest({.state = GuestState::kSendUpdate});
  struct Row {
    std::uint32_t guest_len, trans_len;
    Status status;
  };
  for (const Row row :
       {Row{0, 4096, Status::kInvalidLength}, Row{8, 4096, Status::kInvalidLength},
        Row{4096, 4095, Status::kInvalidLength}, Row{16400, 16400, Status::kInvalidLength},
        Row{16384, 16384, Status::kSuccess}, Row{16, 16, Status::kSuccess}}) {
    MailboxUpdate update = send_buffer(sending, 0);
    update.guest_len = row.guest_len;
    update.trans_len = row.trans_len;
    update.trans_address = bench.room(16400);
    EXPECT_EQ(bench.run(kSendUpdateData, update), row.status) << row.guest_len;
  }
  const auto spoiled = [&](auto change) {
    MailboxUpdate update = send_buffer(sending, 0);
    change(update);
    return bench.run(kSendUpdateData, update);
  };
  EXPECT_EQ(spoiled([](MailboxUpdate& u) { u.guest_address += 8; }), Status::kInvalidAddress);
  EXPECT_EQ(spoiled([](MailboxUpdate& u) { u.guest_address += 7 * 4096 + 16; }),
            Status::kInvalidAddress);
  EXPECT_EQ(spoiled([](MailboxUpdate& u) { u.guest_address = 4096; }), Status::kInvalidAddress);
  EXPECT_EQ(spoiled([](MailboxUpdate& u) { u.hdr_address = 0; }), Status::kInvalidAddress);
  EXPECT_EQ(spoiled([](MailboxUpdate& u) { u.hdr_address = u.trans_address + 4095; }),
            Status::kInvalidAddress);
  EXPECT_EQ(spoiled([](MailboxUpdate& u) { u.trans_address = u.hdr_address + 51; }),
            Status::kInvalidAddress);
  EXPECT_EQ(spoiled([](MailboxUpdate& u) { u.hdr_address = u.trans_address + 4096; }),
            Status::kSuccess);
  const auto inside = reinterpret_cast<std::uint64_t>(bench.ram.page(0).data()) + 64;
  EXPECT_EQ(spoiled([&](MailboxUpdate& u) { u.hdr_address = inside; }), Status::kInvalidAddress);
}

TEST_F(SevFirmwarePackets, TheDebuggerOfAGuestThatAllowsIt) {
  const std::uint32_t open = bench.guest({});
  bench.memory.store(100, bench.ram.page(0).data(), plain);
  MailboxDbg read{.handle = open,
                  .source_address = bench.page(0),
                  .destination_address = bench.room(kPageBytes),
                  .len = kPageBytes};
  ASSERT_EQ(bench.run(kDbgDecrypt, read), Status::kSuccess);
  EXPECT_EQ(FirmwareBench::kernel_bytes(read.destination_address, kPageBytes), plain);
  const Bytes other(32, std::byte{0x99});
  MailboxDbg write{.handle = open,
                   .source_address = bench.kernel(other),
                   .destination_address = bench.page(0) + 16,
                   .len = 32};
  ASSERT_EQ(bench.run(kDbgEncrypt, write), Status::kSuccess);
  Bytes expected = plain;
  std::copy(other.begin(), other.end(), expected.begin() + 16);
  EXPECT_EQ(seen(open, 0), expected);
  read.destination_address = reinterpret_cast<std::uint64_t>(bench.ram.page(0).data());
  EXPECT_EQ(bench.run(kDbgDecrypt, read), Status::kInvalidAddress);  // onto itself
}

TEST_F(SevFirmwarePackets, TheSecretsMacHasTheMeasurementFromApi017On) {
  for (const std::uint8_t minor : {std::uint8_t{16}, std::uint8_t{17}}) {
    FirmwareBench old({.version = {.api_major = 0, .api_minor = minor, .build = 1}});
    old.init();
    const std::uint32_t handle = old.guest({.state = GuestState::kLaunchSecret});
    const Digest measure = old.firmware.find(handle)->launch->measure;
    MailboxUpdate bare = old.packet(handle, PacketContext::kSecret, 0, plain);
    MailboxUpdate bound = old.packet(handle, PacketContext::kSecret, 0, plain, 0, measure);
    const bool binds = minor >= 17;
    EXPECT_EQ(old.run(kLaunchSecret, bare), binds ? Status::kBadMeasurement : Status::kSuccess);
    EXPECT_EQ(old.run(kLaunchSecret, bound), binds ? Status::kSuccess : Status::kBadMeasurement);
    MailboxUpdate flagged = old.packet(handle, PacketContext::kSecret, 0, plain, 1,
                                       binds ? ByteView(measure) : ByteView());
    EXPECT_EQ(old.run(kLaunchSecret, flagged), Status::kUnsupported);
  }
}

TEST_F(SevFirmwarePackets, TheReportIsOfThePekAndOfEveryByte) {
  const std::uint32_t handle = bench.guest({.policy = kPolicyNoDebug});
  Bytes request = bench.good_buffer(kAttestation, handle);
  ASSERT_EQ(bench.run_bytes(kAttestation, request), Status::kSuccess);
  std::uint64_t address = 0;
  std::memcpy(&address, request.data() + 8, sizeof(address));
  AttestationBytes report{};
  std::memcpy(report.data(), reinterpret_cast<const void*>(address), report.size());
  const Bytes chain = bench.certificates().chain;
  const auto pek_of = [](ByteView certificates) {
    return *EcPublicKey::from_point(
        must(SevCertificate::parse(certificates.first(kCertificateBytes))).key);
  };
  const auto opened = open_attestation(report, pek_of(chain));
  ASSERT_TRUE(opened.has_value());
  EXPECT_EQ(opened->policy, kPolicyNoDebug);
  EXPECT_EQ(opened->launch_digest, *bench.firmware.find(handle)->launch_digest);
  for (std::size_t at = 0; at < report.size(); ++at) {
    AttestationBytes bad = report;
    bad[at] ^= std::byte{1};
    EXPECT_FALSE(open_attestation(bad, pek_of(chain))) << "byte " << at;
  }
  FirmwareBench other;
  other.init();
  EXPECT_FALSE(open_attestation(report, pek_of(other.certificates().chain)));
}

// The launch digest does not travel with a guest.
TEST_F(SevFirmwarePackets, AGuestThatWasReceivedHasNoReport) {
  const std::uint32_t handle = receiving();
  ASSERT_EQ(bench.on(kReceiveFinish, handle), Status::kSuccess);
  Bytes request = bench.good_buffer(kAttestation, handle);
  EXPECT_EQ(bench.run_bytes(kAttestation, request), Status::kUnsupported);
}

}  // namespace
}  // namespace sealift::sev
