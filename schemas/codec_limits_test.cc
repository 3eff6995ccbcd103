// What our encoder never writes: messages beyond each limit, built with the generated code.
#include <gtest/gtest.h>

#include <cstring>
#include <functional>

#include "engine/limits.h"
#include "schemas/capnp_compat.h"  // before any capnp header
#include "schemas/codec.h"
#include "schemas/pages.capnp.h"
#include "schemas/record_type.h"
#include "schemas/session.capnp.h"
#include "schemas/state.capnp.h"

namespace sealift {
namespace {

constexpr std::size_t kBlobMax = limits::kPlatformBlobBytesMax;

Bytes flat(capnp::MessageBuilder& message) {
  const kj::Array<capnp::word> words = capnp::messageToFlatArray(message);
  Bytes bytes(words.asBytes().size());
  std::memcpy(bytes.data(), words.begin(), bytes.size());
  return bytes;
}

// The error of decoding a `Message` that is valid but for what `spoil` does; empty when decode
// accepts it.
template <class Message>
std::string error_of(RecordType type, const std::function<void(typename Message::Builder)>& spoil,
                     std::size_t payload_bytes = 0) {
  capnp::MallocMessageBuilder message(32768);  // one segment, as the specification wants it
  spoil(message.initRoot<Message>());
  auto result = decode(value(type), 0, flat(message), Bytes(payload_bytes));
  if (result.has_value()) return "";
  EXPECT_EQ(result.error().cls, ErrorClass::kMalformed);
  return result.error().detail;
}

std::string text(std::size_t size) { return std::string(size, 'x'); }
kj::StringPtr ptr(const std::string& text) { return {text.data(), text.size()}; }

void fill(wire::Hello::Builder hello) { hello.setPlatform(2); }

TEST(CodecLimits, Hello) {
  using B = wire::Hello::Builder;
  const auto hello = [](const std::function<void(B)>& spoil) {
    return error_of<wire::Hello>(RecordType::kHello, [&](B b) {
      fill(b);
      spoil(b);
    });
  };
  EXPECT_EQ(hello([](B) {}), "");
  const std::string long_text = text(limits::kTextBytesMax + 1);
  EXPECT_EQ(hello([&](B b) { b.setAgentName(ptr(long_text)); }),
            "Hello.agentName has 4097 bytes, more than 4096");
  EXPECT_EQ(hello([&](B b) { b.setBuild(ptr(long_text)); }),
            "Hello.build has 4097 bytes, more than 4096");
  EXPECT_EQ(hello([&](B b) { b.setBackend(ptr(long_text)); }),
            "Hello.backend has 4097 bytes, more than 4096");
  EXPECT_EQ(hello([](B b) { b.setAgentName("a\x1b[2J"); }),
            "Hello.agentName of 5 bytes is not UTF-8 without control characters");
  EXPECT_EQ(hello([](B b) { b.setBackend("\xc3("); }),
            "Hello.backend of 2 bytes is not UTF-8 without control characters");
  EXPECT_EQ(hello([](B b) { b.setPlatform(6); }), "");
  EXPECT_EQ(hello([](B b) { b.setPlatform(0); }), "Hello.platform is 0, known are 1 to 6");
  EXPECT_EQ(hello([](B b) { b.setPlatform(7); }), "Hello.platform is 7, known are 1 to 6");
  EXPECT_EQ(hello([](B b) { b.setVcpus(65); }), "Hello.vcpus is 65, more than 64");
  EXPECT_EQ(hello([](B b) { b.initMemory(65); }), "Hello.memory has 65 ranges, more than 64");
  EXPECT_EQ(hello([](B b) { b.initMemory(1); }),
            "Hello.memory range 0 (gfn 0x0, 0 pages) is empty or ends beyond gfn 0x100000000");
}

TEST(CodecLimits, Ranges) {
  using B = wire::Conversions::Builder;
  const auto one = [](std::uint64_t first, std::uint64_t pages) {
    return error_of<wire::Conversions>(RecordType::kConversions, [&](B b) {
      auto list = b.initToPrivate(2);
      list[0].setPages(1);
      list[1].setFirst(first);
      list[1].setPages(pages);
    });
  };
  EXPECT_EQ(one(0xffffffff, 1), "");
  EXPECT_EQ(one(0xffffffff, 2),
            "Conversions.toPrivate range 1 (gfn 0xffffffff, 2 pages) is empty or ends beyond gfn "
            "0x100000000");
  EXPECT_NE(one(0x100000000, 1), "");
  EXPECT_NE(one(~std::uint64_t{0}, 1), "");
  EXPECT_NE(one(1, ~std::uint64_t{0}), "");  // wraps to 0
  EXPECT_NE(one(5, 0), "");
  const auto counts = [](unsigned int shared, unsigned int priv) {
    return error_of<wire::Conversions>(RecordType::kConversions, [&](B b) {
      auto to_shared = b.initToShared(shared);
      for (auto range : to_shared) range.setPages(1);
      auto to_private = b.initToPrivate(priv);
      for (auto range : to_private) range.setPages(1);
    });
  };
  EXPECT_EQ(counts(4096, 0), "");
  EXPECT_EQ(counts(4097, 0), "Conversions.toShared has 4097 ranges, more than 4096");
  EXPECT_EQ(counts(4000, 97), "Conversions.toPrivate has 97 ranges, more than 96");
}

TEST(CodecLimits, SharedPages) {
  using B = wire::SharedPages::Builder;
  const auto pages = [](unsigned int gfns, unsigned int encodings, std::size_t payload,
                        const std::function<void(B)>& spoil) {
    return error_of<wire::SharedPages>(
        RecordType::kSharedPages,
        [&](B b) {
          b.initGfns(gfns);
          auto data = b.initEncodings(encodings);
          std::memset(data.begin(), 2, data.size());
          spoil(b);
        },
        payload);
  };
  const auto nothing = [](B) {};
  EXPECT_EQ(pages(2, 2, 8192, nothing), "");
  EXPECT_EQ(pages(0, 0, 0, nothing), "SharedPages.gfns has 0 entries, outside 1 to 512");
  EXPECT_EQ(pages(513, 513, 0, nothing), "SharedPages.gfns has 513 entries, outside 1 to 512");
  EXPECT_EQ(pages(2, 1, 4096, nothing), "SharedPages.encodings has 1 entries for 2 gfns");
  EXPECT_EQ(pages(2, 2, 8191, nothing),
            "SharedPages has a payload of 8191 bytes, its entries make 8192");
  EXPECT_EQ(pages(2, 2, 0, nothing), "SharedPages has a payload of 0 bytes, its entries make 8192");
  EXPECT_EQ(pages(1, 1, limits::kFramePayloadBytesMax + 1, nothing),
            "SharedPages has a payload of 4194305 bytes, more than 4194304");
  EXPECT_EQ(pages(2, 2, 8192, [](B b) { b.getEncodings()[1] = 0; }),
            "SharedPages.encodings entry 1 is 0, known are 1 to 2");
  EXPECT_EQ(pages(2, 2, 8192, [](B b) { b.getEncodings()[1] = 3; }),
            "SharedPages.encodings entry 1 is 3, known are 1 to 2");
  EXPECT_EQ(pages(2, 2, 8192, [](B b) { b.getGfns().set(1, 0x100000000); }),
            "SharedPages.gfns entry 1 is gfn 0x100000000, not below 0x100000000");
}

TEST(CodecLimits, PrivatePages) {
  using B = wire::PrivatePages::Builder;
  const auto pages = [](std::size_t payload, const std::function<void(B)>& spoil) {
    return error_of<wire::PrivatePages>(
        RecordType::kPrivatePages,
        [&](B b) {
          b.initGfns(5);
          auto ops = b.initOps(5);
          for (unsigned int i = 0; i < 5; ++i) ops[i] = static_cast<kj::byte>(i + 1);
          b.setPageAuthBytes(52);
          b.initPageAuth(260);
          b.setPageBodyBytes(4096);
          spoil(b);
        },
        payload);
  };
  const auto nothing = [](B) {};
  EXPECT_EQ(pages(8192, nothing), "");
  EXPECT_EQ(pages(12288, nothing),
            "PrivatePages has a payload of 12288 bytes, its entries make 8192");
  EXPECT_EQ(pages(8192, [](B b) { b.initGfns(0); }),
            "PrivatePages.gfns has 0 entries, outside 1 to 512");
  EXPECT_EQ(pages(8192, [](B b) { b.initGfns(513); }),
            "PrivatePages.gfns has 513 entries, outside 1 to 512");
  EXPECT_EQ(pages(8192, [](B b) { b.initOps(4); }), "PrivatePages.ops has 4 entries for 5 gfns");
  EXPECT_EQ(pages(8192, [](B b) { b.getOps()[2] = 0; }),
            "PrivatePages.ops entry 2 is 0, known are 1 to 5");
  EXPECT_EQ(pages(8192, [](B b) { b.getOps()[2] = 6; }),
            "PrivatePages.ops entry 2 is 6, known are 1 to 5");
  for (const unsigned int entry : {0U, 1U, 3U, 4U}) {  // all but the metadata entry
    EXPECT_EQ(
        pages(8192, [&](B b) { b.getGfns().set(entry, 0x100000000); }),
        fmt::format("PrivatePages.gfns entry {} is gfn 0x100000000, not below 0x100000000", entry));
  }
  EXPECT_EQ(pages(8192, [](B b) { b.getGfns().set(2, ~std::uint64_t{0}); }), "");
  EXPECT_EQ(pages(8192, [](B b) { b.setPageAuthBytes(129); }),
            "PrivatePages.pageAuthBytes is 129, more than 128");
  EXPECT_EQ(pages(8192, [](B b) { b.initPageAuth(259); }),
            "PrivatePages.pageAuth has 259 bytes, 5 entries of 52 make 260");
  EXPECT_EQ(pages(8192, [](B b) { b.initBatchAuth(4097); }),
            "PrivatePages.batchAuth has 4097 bytes, more than 4096");
  EXPECT_EQ(pages(8192, [](B b) { b.setPageBodyBytes(4097); }),
            "PrivatePages has a payload of 8192 bytes, its entries make 8194");
  EXPECT_EQ(pages(8192, [](B b) { b.setPageBodyBytes(0xffffffff); }),
            "PrivatePages.pageBodyBytes is 4294967295, more than 4194304");
  const auto no_bodies = [](B b) {
    b.getOps()[0] = 2;
    b.getOps()[2] = 4;
    b.setPageBodyBytes(limits::kFramePayloadBytesMax);
  };
  EXPECT_EQ(pages(0, no_bodies), "");
  EXPECT_EQ(pages(4096, no_bodies), "PrivatePages has a payload of 4096 bytes, its entries make 0");
}

TEST(CodecLimits, SessionRecords) {
  EXPECT_EQ(
      error_of<wire::SessionStart>(RecordType::kSessionStart, [](auto b) { b.setStreams(0); }),
      "SessionStart.streams is 0, outside 1 to 65");
  EXPECT_EQ(
      error_of<wire::SessionStart>(RecordType::kSessionStart, [](auto b) { b.setStreams(66); }),
      "SessionStart.streams is 66, outside 1 to 65");
  const std::string long_text = text(limits::kTextBytesMax + 1);
  EXPECT_EQ(error_of<wire::SessionStart>(RecordType::kSessionStart,
                                         [&](auto b) { b.setGuestName(ptr(long_text)); }),
            "SessionStart.guestName has 4097 bytes, more than 4096");
  EXPECT_EQ(
      error_of<wire::PlatformCard>(RecordType::kPlatformCard, [](auto b) { b.initCard(65537); }),
      "PlatformCard.card has 65537 bytes, more than 65536");
  EXPECT_EQ(error_of<wire::Claim>(RecordType::kClaim, [](auto b) { b.initMigration(15); }),
            "Claim.migration has 15 bytes instead of 16");
  EXPECT_EQ(error_of<wire::Claim>(RecordType::kClaim,
                                  [](auto b) {
                                    b.initMigration(16);
                                    b.setGeneration(~0ULL);
                                  }),
            "Claim.generation 18446744073709551615 has no successor");
  for (const RecordType type : {RecordType::kInquiry, RecordType::kAnswer}) {
    const auto word = [&](const std::function<void(wire::RightWord::Builder)>& spoil) {
      return error_of<wire::RightWord>(type, [&](auto b) {
        b.initMigration(16);
        b.initPageMapSha256(32);
        b.initMemorySha256(32);
        b.initMac(32);
        spoil(b);
      });
    };
    EXPECT_EQ(word([](auto) {}), "");
    EXPECT_EQ(word([](auto b) { b.initMigration(17); }),
              "RightWord.migration has 17 bytes instead of 16");
    EXPECT_EQ(word([](auto b) { b.setGeneration(~0ULL); }),
              "RightWord.generation 18446744073709551615 has no successor");
    EXPECT_EQ(word([&](auto b) { b.setGuest(ptr(long_text)); }),
              "RightWord.guest has 4097 bytes, more than 4096");
    EXPECT_EQ(word([&](auto b) { b.setSource(ptr(long_text)); }),
              "RightWord.source has 4097 bytes, more than 4096");
    EXPECT_EQ(word([&](auto b) { b.setDestination(ptr(long_text)); }),
              "RightWord.destination has 4097 bytes, more than 4096");
    EXPECT_EQ(word([](auto b) { b.initPageMapSha256(31); }),
              "RightWord.pageMapSha256 has 31 bytes instead of 32");
    EXPECT_EQ(word([](auto b) { b.initMemorySha256(0); }),
              "RightWord.memorySha256 has 0 bytes instead of 32");
    EXPECT_EQ(word([](auto b) { b.initMac(33); }), "RightWord.mac has 33 bytes instead of 32");
    EXPECT_EQ(word([](auto b) { b.setRecord(10); }), "RightWord.record is 10, more than 9");
    EXPECT_EQ(word([](auto b) { b.setProven(10); }), "RightWord.proven is 10, more than 9");
  }
  EXPECT_EQ(error_of<wire::SessionAccept>(RecordType::kSessionAccept,
                                          [](auto b) { b.initIdentity(kBlobMax + 1); }),
            "SessionAccept.identity has 65537 bytes, more than 65536");
  EXPECT_EQ(error_of<wire::PlatformStart>(RecordType::kPlatformStart,
                                          [](auto b) { b.initStart(kBlobMax + 1); }),
            "PlatformStart.start has 65537 bytes, more than 65536");
  EXPECT_EQ(
      error_of<wire::EpochEnd>(RecordType::kEpochEnd, [](auto b) { b.initToken(kBlobMax + 1); }),
      "EpochEnd.token has 65537 bytes, more than 65536");
  const auto abort = [](const std::function<void(wire::Abort::Builder)>& spoil) {
    return error_of<wire::Abort>(RecordType::kAbort, spoil);
  };
  EXPECT_EQ(abort([](auto b) { b.setErrorClass(9); }), "");
  EXPECT_EQ(abort([](auto b) { b.setErrorClass(0); }), "Abort.errorClass is 0, known are 1 to 9");
  EXPECT_EQ(abort([](auto b) { b.setErrorClass(10); }), "Abort.errorClass is 10, known are 1 to 9");
  EXPECT_EQ(abort([&](auto b) {
              b.setErrorClass(1);
              b.setDetail(ptr(long_text));
            }),
            "Abort.detail has 4097 bytes, more than 4096");
  EXPECT_EQ(abort([](auto b) {
              b.setErrorClass(1);
              b.initAbortToken(kBlobMax + 1);
            }),
            "Abort.abortToken has 65537 bytes, more than 65536");
}

TEST(CodecLimits, StateAndFinish) {
  const auto vcpu = [](const std::function<void(wire::State::Builder)>& spoil, std::size_t size) {
    return error_of<wire::State>(RecordType::kVcpuState, spoil, size);
  };
  EXPECT_EQ(vcpu([](auto b) { b.setIndex(63); }, limits::kStateBlobBytesMax), "");
  EXPECT_EQ(vcpu([](auto) {}, limits::kStateBlobBytesMax + 1),
            "size of the state payload is 1048577, more than 1048576");
  EXPECT_EQ(vcpu([](auto b) { b.setIndex(64); }, 0), "VcpuState.index is 64, more than 63");
  EXPECT_EQ(error_of<wire::State>(RecordType::kDeviceState, [](auto b) { b.setIndex(64); }), "");
  const auto platform = [](const std::function<void(wire::State::Builder)>& spoil,
                           std::size_t size) {
    return error_of<wire::State>(RecordType::kPlatformState, spoil, size);
  };
  EXPECT_EQ(platform([](auto b) { b.setIndex(~0U); }, limits::kStateBlobBytesMax), "");
  EXPECT_EQ(platform([](auto) {}, limits::kStateBlobBytesMax + 1),
            "size of the state payload is 1048577, more than 1048576");
  const std::string long_text = text(limits::kTextBytesMax + 1);
  EXPECT_EQ(platform([&](auto b) { b.setName(ptr(long_text)); }, 0),
            "State.name has 4097 bytes, more than 4096");
  EXPECT_EQ(vcpu([](auto b) { b.setName("x\n"); }, 0),
            "State.name of 2 bytes is not UTF-8 without control characters");
  const auto finish = [](const std::function<void(wire::Finish::Builder)>& spoil) {
    return error_of<wire::Finish>(RecordType::kFinish, [&](wire::Finish::Builder b) {
      b.initPageMapDigest(32);
      spoil(b);
    });
  };
  EXPECT_EQ(finish([](auto b) { b.setStateItems(4096); }), "");
  EXPECT_EQ(finish([](auto b) { b.setStateItems(4097); }),
            "Finish.stateItems is 4097, more than 4096");
  EXPECT_EQ(finish([](auto b) { b.initPageMapDigest(31); }),
            "Finish.pageMapDigest has 31 bytes, not 32");
  EXPECT_EQ(finish([](auto b) { b.initPageMapDigest(33); }),
            "Finish.pageMapDigest has 33 bytes, not 32");
  EXPECT_EQ(finish([](auto b) { b.initToken(kBlobMax + 1); }),
            "Finish.token has 65537 bytes, more than 65536");
}

TEST(CodecLimits, AMessageThatPointsOutsideItself) {
  Bytes meta(24);
  meta[4] = std::byte{2};
  meta[8] = std::byte{0xf0};  // the root struct begins 60 words behind its pointer
  meta[12] = std::byte{1};
  auto result = decode(value(RecordType::kEpochAck), 0, meta, {});
  ASSERT_FALSE(result.has_value());
  EXPECT_EQ(result.error().cls, ErrorClass::kMalformed);
  EXPECT_EQ(result.error().detail.rfind("the meta of EpochAck is not a valid message: ", 0), 0U)
      << result.error().detail;
}

// A newer peer's struct has fields that this side does not know; an older one's lacks some.
TEST(CodecLimits, NewerAndOlderStructsAreRead) {
  capnp::MallocMessageBuilder longer(1024);
  longer.initRoot<wire::Finish>().setEpochs(7);
  auto ack = decode(value(RecordType::kEpochAck), 0, flat(longer), {});
  ASSERT_TRUE(ack.has_value()) << ack.error().detail;
  EXPECT_EQ(std::get<EpochAck>(**ack).epoch, 7U);
  capnp::MallocMessageBuilder shorter(1024);
  shorter.initRoot<wire::Running>().setResumeNs(5);
  auto ready = decode(value(RecordType::kReady), 0, flat(shorter), {});
  ASSERT_TRUE(ready.has_value()) << ready.error().detail;
  EXPECT_EQ(std::get<Ready>(**ready), (Ready{5, 0}));
}

}  // namespace
}  // namespace sealift
