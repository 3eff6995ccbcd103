// Test vectors of session, packet, measurement and secret, end to end through two firmwares whose
// random numbers are scripted. The same values are computed by a Python program of its own from the
// layouts of AMD sev-tool; crypto_test.cc has them one by one.
#include <gtest/gtest.h>

#include "vmm_glue/model/sev/firmware_test_support.h"

namespace sealift::sev {
namespace {

using enum MailboxCommand;
constexpr std::uint32_t kPolicy = 0x33010001;  // NODBG, API 1.51

EcNumber scalar_of(int byte) {
  EcNumber out{};
  out.fill(static_cast<std::byte>(byte));
  return out;
}

std::string sha256_hex(ByteView bytes) {
  Sha256 digest;
  digest.add(bytes);
  return to_hex(digest.finish());
}

Bytes plain_of_vectors() {
  Bytes out(kPageBytes);
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = std::byte((i * 7 + 3) & 0xff);
  return out;
}

// SEND_START of A towards B, then one page.
TEST(SevFirmwareVectors, SessionAndPacket) {
  const EcNumber a = scalar_of(1);
  const EcNumber b = scalar_of(2);
  FirmwareBench sender({}, &a);
  FirmwareBench receiver({}, &b);
  sender.init();
  receiver.init();
  EXPECT_EQ(sender.firmware.pdh_private_key_for_tests().scalar_for_tests(), a);
  const Bytes pdh_a = sender.certificates().pdh;
  const Bytes pdh_b = receiver.certificates().pdh;
  const std::uint32_t handle = sender.guest({.policy = kPolicy});

  for (const int first : {0x10, 0x20, 0x00, 0xf0}) sender.random.script(counting(first));
  MailboxSendStart start = sender.send_start_to(pdh_b, handle);
  ASSERT_EQ(sender.run(kSendStart, start), Status::kSuccess);
  EXPECT_EQ(start.policy, kPolicy);
  const Bytes session = FirmwareBench::kernel_bytes(start.session_address, kSessionBytes);
  EXPECT_EQ(to_hex(ByteView(session).subspan(16, 32)),
            "37454008e9bbe4f17aa4cd78491497eec5e444dcb29072a08d7155e5f5041fe0");
  EXPECT_EQ(to_hex(ByteView(session).subspan(64, 32)),
            "9e854a38477abc65f8a8cb8343977b82c690399cdf32cec4dbfcb33f10301207");
  EXPECT_EQ(to_hex(ByteView(session).subspan(96, 32)),
            "7564ee74f842ee4193b2a149d4043c77bd05b1766d78c961e9a60dcdc53746fd");
  EXPECT_EQ(sha256_hex(session),
            "b0149722724337877f47b80dca0c2e553f99745e7ef2dfbb877b4d9be865d7e8");

  const Bytes plain = plain_of_vectors();
  sender.firmware.find(handle)->memory->store(sender.page(3) & ~kCBit, sender.ram.page(3).data(),
                                              plain);
  sender.random.script(counting(0x40));
  MailboxUpdate update{.handle = handle,
                       .hdr_address = sender.room(kPacketHeaderBytes),
                       .hdr_len = kPacketHeaderBytes,
                       .guest_address = sender.page(3),
                       .guest_len = kPageBytes,
                       .trans_address = sender.room(kPageBytes),
                       .trans_len = kPageBytes};
  ASSERT_EQ(sender.run(kSendUpdateData, update), Status::kSuccess);
  const Bytes header = FirmwareBench::kernel_bytes(update.hdr_address, kPacketHeaderBytes);
  const Bytes data = FirmwareBench::kernel_bytes(update.trans_address, kPageBytes);
  EXPECT_EQ(to_hex(header),
            "00000000404142434445464748494a4b4c4d4e4f"
            "ec4628c644018a8936734c7a9396a24afe570130b32554319a942eeea70a9c4c");
  EXPECT_EQ(sha256_hex(data), "d2cbec03dfaf53ea17c734bbe1eb6cf7c731123039d3dbdda2de890682f27c4f");

  MailboxStart incoming{.policy = start.policy,
                        .pdh_address = receiver.kernel(pdh_a),
                        .pdh_len = kCertificateBytes,
                        .session_address = receiver.kernel(session),
                        .session_len = kSessionBytes};
  ASSERT_EQ(receiver.run(kReceiveStart, incoming), Status::kSuccess);
  ASSERT_EQ(receiver.activate(incoming.handle, 100), Status::kSuccess);
  MailboxUpdate arrived{.handle = incoming.handle,
                        .hdr_address = receiver.kernel(header),
                        .hdr_len = kPacketHeaderBytes,
                        .guest_address = receiver.page(5),
                        .guest_len = kPageBytes,
                        .trans_address = receiver.kernel(data),
                        .trans_len = kPageBytes};
  ASSERT_EQ(receiver.run(kReceiveUpdateData, arrived), Status::kSuccess);
  Bytes seen(kPageBytes);
  receiver.memory.load(100, receiver.ram.page(5).data(), seen);
  EXPECT_EQ(seen, plain);
}

// The context byte of VMSA packets is the model's parameter; 03 has a vector.
TEST(SevFirmwareVectors, VmsaPacket) {
  const Bytes plain = plain_of_vectors();
  for (const auto context : {PacketContext::kVmsa, PacketContext::kData}) {
    FirmwareBench bench({.vmsa_context = context});
    bench.init(true);
    const std::uint32_t handle = bench.guest({.policy = kPolicyEs});
    bench.random.script(counting(0x10));
    bench.random.script(counting(0x20));
    Bytes start = bench.good_buffer(kSendStart, handle);
    ASSERT_EQ(bench.run_bytes(kSendStart, start), Status::kSuccess);
    bench.firmware.find(handle)->memory->store(bench.page(0) & ~kCBit, bench.ram.page(0).data(),
                                               plain);
    // Nonce and wrap_iv were drawn above, unscripted; the IV is the next.
    bench.random.script(counting(0x40));
    MailboxUpdate update{.handle = handle,
                         .hdr_address = bench.room(kPacketHeaderBytes),
                         .hdr_len = kPacketHeaderBytes,
                         .guest_address = bench.page(0),
                         .guest_len = kPageBytes,
                         .trans_address = bench.room(kPageBytes),
                         .trans_len = kPageBytes};
    ASSERT_EQ(bench.run(kSendUpdateVmsa, update), Status::kSuccess);
    const Bytes header = FirmwareBench::kernel_bytes(update.hdr_address, kPacketHeaderBytes);
    EXPECT_EQ(to_hex(ByteView(header).last(32)),
              context == PacketContext::kVmsa
                  ? "d3bbca7e000d6198e36202a1318cfe33cbfb98d341e1f617c1ca7a490c81a816"
                  : "ec4628c644018a8936734c7a9396a24afe570130b32554319a942eeea70a9c4c");
  }
}

// The guest owner's session has the TIK of the vectors; the firmware draws the nonce.
TEST(SevFirmwareVectors, MeasurementSecretAndAttestation) {
  FirmwareBench bench;
  bench.init();
  const TransportKeys keys{.tek = counting(0x10), .tik = counting(0x20)};
  const EcNumber secret =
      bench.peer.key.shared_secret(bench.firmware.pdh_private_key_for_tests().public_key());
  MailboxStart start = bench.start_with_session(bench.peer, kPolicy);
  start.session_address = bench.kernel(make_session(secret, {}, keys, kPolicy));
  ASSERT_EQ(bench.run(kLaunchStart, start), Status::kSuccess);
  ASSERT_EQ(bench.activate(start.handle, 100), Status::kSuccess);

  const Bytes plain = plain_of_vectors();
  std::copy(plain.begin(), plain.end(), bench.ram.page(1).begin());
  MailboxLaunchUpdate launch{.handle = start.handle, .address = bench.page(1), .len = kPageBytes};
  ASSERT_EQ(bench.run(kLaunchUpdateData, launch), Status::kSuccess);
  bench.random.script(counting(0));
  MailboxLaunchMeasure measure{
      .handle = start.handle, .address = bench.room(kMeasurementBytes), .len = kMeasurementBytes};
  ASSERT_EQ(bench.run(kLaunchMeasure, measure), Status::kSuccess);
  EXPECT_EQ(to_hex(FirmwareBench::kernel_bytes(measure.address, kMeasurementBytes)),
            "1f369806faf9c573c379179763c197544ee13e80b4a722b31b7621517a940a96"
            "000102030405060708090a0b0c0d0e0f");

  Bytes data(kPageBytes);
  PacketCipher(keys).crypt(counting(0x40), plain, data);
  const Bytes header = from_hex(
      "00000000404142434445464748494a4b4c4d4e4f"
      "91d8639eaf88cf3e1dfa96e303e185cc3da3910f25e702594eb356969390a041");
  MailboxUpdate packet{.handle = start.handle,
                       .hdr_address = bench.kernel(header),
                       .hdr_len = kPacketHeaderBytes,
                       .guest_address = bench.page(2),
                       .guest_len = kPageBytes,
                       .trans_address = bench.kernel(data),
                       .trans_len = kPageBytes};
  ASSERT_EQ(bench.run(kLaunchSecret, packet), Status::kSuccess);
  Bytes seen(kPageBytes);
  bench.memory.load(100, bench.ram.page(2).data(), seen);
  EXPECT_EQ(seen, plain);

  MailboxAttestation request{
      .handle = start.handle, .address = bench.room(kAttestationBytes), .len = kAttestationBytes};
  request.mnonce[0] = 0x77;
  ASSERT_EQ(bench.run(kAttestation, request), Status::kSuccess);
  const Bytes report = FirmwareBench::kernel_bytes(request.address, kAttestationBytes);
  EXPECT_EQ(to_hex(ByteView(report).first(64)),
            "77000000000000000000000000000000"
            "7486da8f1e13943fae21a0b043f1e99640d7d8ebafb25266478b5cddae1272b5"
            "01000133"
            "02100000"
            "02000000"
            "00000000");
}

}  // namespace
}  // namespace sealift::sev
