#include "vmm_glue/sev/host_card.h"

#include <gtest/gtest.h>

#include "vmm_glue/sev/crypto.h"
#include "vmm_glue/sev/test_support.h"

namespace sealift::sev {
namespace {

HostCard a_card() {
  HostCard card;
  card.api_major = 1;
  card.api_minor = 55;
  card.build = 29;
  card.flags = kStatusFlagExternallyOwned | kStatusFlagEs;
  card.c_bit_position = 51;
  card.phys_addr_reduction = 5;
  card.memlock_limit_bytes = 0x0102030405060708;
  card.moves_vmsa = true;
  card.expected_policy = 0x33020001;
  card.pdh = Bytes(kCertificateBytes, std::byte{0xd1});
  card.chain = Bytes(kChainBytes, std::byte{0xc2});
  card.amd_certs = Bytes(1664, std::byte{0xa3});
  return card;
}

TEST(SevHostCard, GoldenBytes) {
  const Bytes bytes = encode(a_card());
  EXPECT_EQ(bytes.size(), kHostCardHeaderBytes + 2084 + 6252 + 1664);
  EXPECT_EQ(to_hex(ByteView(bytes).first(kHostCardHeaderBytes)),
            "01000000"  // version
            "01010000"  // flags
            "01371d33"  // API 1.55, build 29, C-bit 51
            "05050000"  // reduction 5, moves VMSAs and expects a policy, reserved
            "0807060504030201"
            "24080000"    // PDH
            "6c180000"    // chain
            "80060000"    // AMD
            "01000233");  // policy
  EXPECT_EQ(bytes[40], std::byte{0xd1});
  EXPECT_EQ(bytes[40 + 2084], std::byte{0xc2});
  EXPECT_EQ(bytes.back(), std::byte{0xa3});
  Sha256 sha;
  sha.add(bytes);
  EXPECT_EQ(to_hex(sha.finish()),
            "70d01d66dffc3e8539e6c4dad9f8301c8c55b696d44e29bef68b50be2a00e97a");
}

TEST(SevHostCard, RoundTrip) {
  HostCard card = a_card();
  EXPECT_EQ(must(decode_host_card(encode(card))), card);
  card.amd_certs.clear();
  card.modelled = true;
  card.expected_policy.reset();
  card.moves_vmsa = false;
  card.memlock_limit_bytes = kMemlockUnlimited;
  EXPECT_EQ(must(decode_host_card(encode(card))), card);
  card.amd_certs = Bytes(kFirmwareBlobBytesMax);
  EXPECT_EQ(must(decode_host_card(encode(card))), card);
}

TEST(SevHostCard, EveryTruncationAndEveryLengthIsRefused) {
  const Bytes good = encode(a_card());
  for (std::size_t size = 0; size < good.size(); ++size) {
    const auto bad = decode_host_card(ByteView(good).first(size));
    ASSERT_FALSE(bad) << size;
    ASSERT_EQ(bad.error().cls, ErrorClass::kMalformed);
  }
  Bytes longer = good;
  longer.push_back(std::byte{0});
  EXPECT_FALSE(decode_host_card(longer));
}

// Each header bit: refused, or read as another card. Nothing is overlooked.
TEST(SevHostCard, EveryHeaderBitCounts) {
  const HostCard card = a_card();
  const Bytes good = encode(card);
  for (std::size_t bit = 0; bit < kHostCardHeaderBytes * 8; ++bit) {
    Bytes bad = good;
    bad[bit / 8] ^= std::byte(1u << bit % 8);
    const auto decoded = decode_host_card(bad);
    const bool length_or_form = bit / 8 < 4 || bit / 8 == 14 || bit / 8 == 15 ||
                                (bit / 8 >= 24 && bit / 8 < 36) || (bit / 8 == 13 && bit % 8 >= 2);
    ASSERT_EQ(decoded.has_value(), !length_or_form) << "bit " << bit;
    if (decoded) {
      EXPECT_NE(*decoded, card) << "bit " << bit;
      EXPECT_EQ(encode(*decoded), bad);
    }
  }
}

TEST(SevHostCard, AHostSaysWhatItsFirmwareSays) {
  SystemRandom random;
  SoftSevConfig config;
  config.firmware.owner_key = std::make_shared<const EcKey>(EcKey::generate(random));
  SoftSevHost host(config);
  const SevVm vm{host, -1, host.open_sev()};
  const HostCard card = must(read_host_card(vm));
  const SevPlatform platform = must(platform_status(vm));
  const PlatformCertificates certificates = must(export_certificates(vm));
  EXPECT_EQ(card.api_major, platform.api_major);
  EXPECT_EQ(card.api_minor, platform.api_minor);
  EXPECT_EQ(card.build, platform.build);
  EXPECT_EQ(card.flags & kStatusFlagExternallyOwned, kStatusFlagExternallyOwned);
  EXPECT_EQ(card.pdh, certificates.pdh);
  EXPECT_EQ(card.chain, certificates.chain);
  EXPECT_EQ(card.memlock_limit_bytes, memlock_limit_bytes());
  EXPECT_EQ(must(decode_host_card(encode(card))), card);
  for (const std::uint64_t nth : {0u, 1u}) {
    FaultyIoctl faulty(host, nth, FaultyIoctl::When::kBefore, EIO);
    const auto failed = read_host_card({faulty, -1, vm.sev_fd});
    ASSERT_FALSE(failed) << nth;
    EXPECT_EQ(failed.error().cls, ErrorClass::kLocalFault);
  }
}

}  // namespace
}  // namespace sealift::sev
