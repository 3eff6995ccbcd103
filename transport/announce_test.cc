// Frames of announcements, byte by byte, and the texts that ask for them.
#include "transport/announce.h"

#include <gtest/gtest.h>

#include <string>

namespace sealift::test {
namespace {

std::string hex(const AnnounceFrame& frame) {
  std::string text;
  for (const std::byte b : frame) text += fmt::format("{:02x}", static_cast<unsigned>(b));
  return text;
}

std::string frame_of(const char* text) {
  const auto target = parse_announce(text);
  EXPECT_TRUE(target.has_value()) << text;
  return target ? hex(announce_frame(*target)) : std::string();
}

TEST(Announce, WithoutAnAddressItIsRarp) {
  EXPECT_EQ(frame_of("tap0,52:54:00:12:34:56"),
            "ffffffffffff"
            "525400123456"
            "8035"  // to all, RARP
            "0001"
            "0800"
            "06"
            "04"
            "0003"  // request reverse
            "525400123456"
            "00000000"  // by the guest
            "525400123456"
            "00000000" +  // about itself
                std::string(36, '0'));
}

TEST(Announce, WithAnAddressItIsAnArpAnnouncement) {
  EXPECT_EQ(frame_of("tap0,52:54:00:AB:cd:ef,192.0.2.255"),
            "ffffffffffff"
            "525400abcdef"
            "0806"  // to all, ARP
            "0001"
            "0800"
            "06"
            "04"
            "0001"  // request
            "525400abcdef"
            "c00002ff"  // the guest has it
            "000000000000"
            "c00002ff" +  // and asks for the same
                std::string(36, '0'));
}

TEST(Announce, TextsComeBack) {
  for (const char* text :
       {"tap0,52:54:00:12:34:56", "a-name.of_15_ch,02:00:00:00:00:01,10.0.0.1"}) {
    const auto target = parse_announce(text);
    ASSERT_TRUE(target.has_value()) << target.error().detail;
    EXPECT_EQ(to_string(*target), text);
  }
}

TEST(Announce, WhatIsNone) {
  for (const char* text :
       {"", "tap0", "tap0,", ",52:54:00:12:34:56", "tap0,52:54:00:12:34", "tap0,52-54-00-12-34-56",
        "tap0,52:54:00:12:34:5g", "tap0,52:54:00:12:34:+6", "tap0,52:54:00:12:34:56:78",
        "tap0,00:00:00:00:00:00", "tap0,ff:ff:ff:ff:ff:ff", "tap0,01:00:5e:00:00:01",
        "tap0,52:54:00:12:34:56,", "tap0,52:54:00:12:34:56,192.0.2", "tap0,52:54:00:12:34:56,::1",
        "tap0,52:54:00:12:34:56,192.0.2.1,x", "a-name-of-16-chr,52:54:00:12:34:56"}) {
    const auto target = parse_announce(text);
    ASSERT_FALSE(target.has_value()) << text;
    EXPECT_EQ(target.error().cls, ErrorClass::kUsage);
    EXPECT_NE(target.error().detail.find(text), std::string::npos) << target.error().detail;
  }
}

TEST(Announce, AnInterfaceThatIsNotThere) {
  const auto port = AnnouncePort::open(*parse_announce("nothing0,52:54:00:12:34:56"));
  ASSERT_FALSE(port.has_value());
  EXPECT_EQ(port.error().cls, ErrorClass::kUsage);
  EXPECT_NE(port.error().detail.find("no interface nothing0"), std::string::npos)
      << port.error().detail;
}

}  // namespace
}  // namespace sealift::test
