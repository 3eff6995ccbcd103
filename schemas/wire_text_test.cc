#include "schemas/wire_text.h"

#include <gtest/gtest.h>

#include "engine/limits.h"

namespace sealift {
namespace {

using namespace std::string_view_literals;

TEST(WireText, AcceptsUtf8) {
  for (const std::string_view text :
       {""sv, "plain"sv, "caf\xc3\xa9"sv, "\xe2\x82\xac"sv, "\xf0\x9f\x90\xa7"sv, "\xc2\xa0"sv,
        "\xed\x9f\xbf"sv, "\xee\x80\x80"sv, "\xf4\x8f\xbf\xbf"sv, "~"sv}) {
    EXPECT_TRUE(is_wire_text(text)) << text;
    EXPECT_EQ(to_wire_text(text), text);
  }
}

TEST(WireText, RefusesWhatIsNotUtf8AndControlCharacters) {
  for (const std::string_view text : {"\x80"sv,
                                      "\xbf"sv,
                                      "\xc3"sv,
                                      "\xc3("sv,
                                      "\xc0\xaf"sv,
                                      "\xc1\xbf"sv,
                                      "\xe2\x82"sv,
                                      "\xe0\x9f\xbf"sv,
                                      "\xed\xa0\x80"sv,
                                      "\xed\xbf\xbf"sv,
                                      "\xf0\x8f\xbf\xbf"sv,
                                      "\xf4\x90\x80\x80"sv,
                                      "\xf5\x80\x80\x80"sv,
                                      "\xff"sv,
                                      "\0"sv,
                                      "\n"sv,
                                      "\x1b[2J"sv,
                                      "\x7f"sv,
                                      "\xc2\x80"sv,
                                      "\xc2\x9b"sv,
                                      "a\0b"sv}) {
    EXPECT_FALSE(is_wire_text(text));
    EXPECT_TRUE(is_wire_text(to_wire_text(text)));
  }
}

TEST(WireText, CutsBetweenCharacters) {
  const std::string longer(limits::kTextBytesMax - 1, 'x');
  EXPECT_EQ(to_wire_text(longer + "\xc3\xa9"), longer);
  EXPECT_EQ(to_wire_text(longer + "yz"), longer + "y");
  EXPECT_EQ(to_wire_text("a\tb\r\nc\x01"), "a b  c?");
}

}  // namespace
}  // namespace sealift
