#include "transport/address.h"

#include <gmock/gmock.h>

#include <string>

namespace sealift {
namespace {

using testing::HasSubstr;

TEST(Address, WhatIsParsedIsWrittenBackTheSame) {
  for (const char* text : {"tcp:127.0.0.1:4444", "tcp:host-1.example:0", "tcp:[::1]:65535",
                           "unix:/run/sealift.sock", "unix:relative"}) {
    const auto address = parse_address(text);
    ASSERT_TRUE(address) << address.error().detail;
    EXPECT_EQ(to_string(*address), text);
    EXPECT_EQ(*parse_address(to_string(*address)), *address);
  }
  EXPECT_EQ(parse_address("tcp:[::1]:80")->host, "::1");
}

TEST(Address, RefusesWithTheReason) {
  const struct {
    std::string text, reason;
  } cases[] = {
      {"", "is not one of tcp:HOST:PORT"},
      {"127.0.0.1:80", "is not one of"},
      {"http://a:1", "is not one of"},
      {"tcp:a", "has no port"},
      {"tcp:[::1]", "has no port"},
      {"tcp:a:", "port \"\" is not a number"},
      {"tcp:a:65536", "port \"65536\" is not a number from 0 to 65535"},
      {"tcp:a:-1", "port \"-1\""},
      {"tcp:a:80x", "port \"80x\""},
      {"tcp:a:99999999999999999999", "is not a number"},
      {"tcp::80", "has no host"},
      {"tcp:[]:80", "has no host"},
      {"tcp:::1:80", "IPv6 host is written in brackets"},
      {"tcp:a b:80", "is not a host name"},
      {"unix:", "has no path"},
      {"unix:" + std::string(108, 'p'),
       "the path has 108 bytes and a unix socket path at most 107"},
      {std::string("unix:a\0b", 8), "holds a zero byte"},
  };
  for (const auto& one : cases) {
    const auto address = parse_address(one.text);
    ASSERT_FALSE(address) << one.text;
    EXPECT_EQ(address.error().cls, ErrorClass::kUsage);
    EXPECT_THAT(address.error().detail, HasSubstr(one.reason));
  }
  EXPECT_TRUE(parse_address("unix:" + std::string(107, 'p')));
}

}  // namespace
}  // namespace sealift
