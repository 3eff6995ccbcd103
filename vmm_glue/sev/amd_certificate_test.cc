// Every field of every certificate format, on certificates that AMD and real platforms have made.
#include "vmm_glue/sev/amd_certificate.h"

#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "vmm_glue/sev/test_certificates.h"
#include "vmm_glue/sev/test_support.h"

namespace sealift::sev {
namespace {

enum class Answer : std::uint8_t { kParse, kForm, kSignature, kGood };
const char* name_of(Answer answer) {
  constexpr const char* kNames[] = {"does not parse", "bad form", "bad signature", "good"};
  return kNames[static_cast<int>(answer)];
}
Answer answer_of(SignatureVerdict verdict) {
  return verdict == SignatureVerdict::kGood      ? Answer::kGood
         : verdict == SignatureVerdict::kBadForm ? Answer::kForm
                                                 : Answer::kSignature;
}

struct Field {
  const char* name;
  std::size_t at;
  std::size_t bytes;
  Answer flipped;  // the answer when any of its bits is wrong
};

std::vector<Field> amd_fields(std::size_t n, bool is_ark) {
  return {{"version", 0, 4, Answer::kParse},
          // An ARK's two ids are one; an ASK's own id is only a signed byte.
          {"key id", 4, 16, is_ark ? Answer::kForm : Answer::kSignature},
          {"certifying key id", 20, 16, Answer::kForm},
          {"usage", 36, 4, Answer::kParse},
          {"reserved", 40, 16, Answer::kParse},
          {"exponent bits", 56, 4, Answer::kParse},
          {"modulus bits", 60, 4, Answer::kParse},
          {"exponent", 64, n, Answer::kParse},
          {"modulus", 64 + n, n, Answer::kSignature},
          {"signature", 64 + 2 * n, n, Answer::kSignature}};
}

// `slot`: which one the parent has signed; `rsa`: bytes of its RSA signature, 0 for an EC one.
std::vector<Field> sev_fields(int slot, bool other_used, std::size_t rsa) {
  std::vector<Field> out = {
      {"version", 0, 4, Answer::kParse},       {"api major", 4, 1, Answer::kSignature},
      {"api minor", 5, 1, Answer::kSignature}, {"reserved", 6, 2, Answer::kParse},
      {"usage", 8, 4, Answer::kParse},         {"algorithm", 12, 4, Answer::kParse},
      {"curve", 16, 4, Answer::kParse},        {"Qx", 20, 48, Answer::kParse},
      {"Qx padding", 68, 24, Answer::kParse},  {"Qy", 92, 48, Answer::kParse},
      {"Qy padding", 140, 24, Answer::kParse}, {"key padding", 164, 880, Answer::kParse}};
  for (int i = 0; i < 2; ++i) {
    const std::size_t at = 1044 + 520 * static_cast<std::size_t>(i);
    out.push_back({i == 0 ? "slot 1 usage" : "slot 2 usage", at, 4, Answer::kForm});
    if (i != slot) {  // an unused slot is to be empty; another parent's is that parent's business
      const Answer answer = other_used ? Answer::kGood : Answer::kForm;
      out.push_back({"other slot's algorithm", at + 4, 4, answer});
      out.push_back({"other slot's signature", at + 8, 512, answer});
      continue;
    }
    out.push_back({"slot algorithm", at + 4, 4, Answer::kForm});
    if (rsa != 0) {
      out.push_back({"RSA signature", at + 8, rsa, Answer::kSignature});
      out.push_back({"RSA signature padding", at + 8 + rsa, 512 - rsa, Answer::kForm});
      continue;
    }
    out.push_back({"r", at + 8, 48, Answer::kSignature});
    out.push_back({"r padding", at + 8 + 48, 24, Answer::kForm});
    out.push_back({"s", at + 8 + 72, 48, Answer::kSignature});
    out.push_back({"s padding", at + 8 + 72 + 48, 24, Answer::kForm});
    out.push_back({"signature padding", at + 8 + 144, 368, Answer::kForm});
  }
  return out;
}

using Check = std::function<Answer(ByteView)>;

// A modulus that is even or too short is no key; the rest of a modulus is a signed number.
Answer expected(const Field& field, std::size_t byte, unsigned bit) {
  if (std::string(field.name) != "modulus") return field.flipped;
  const bool lowest = byte == 0 && bit == 0;
  const bool highest = byte + 1 == field.bytes && bit == 7;
  return lowest || highest ? Answer::kParse : field.flipped;
}

// `every_bit`, or one bit of each byte, another one in each.
void flip_fields(const std::string& what, const Bytes& good, const std::vector<Field>& fields,
                 bool every_bit, const Check& check) {
  ASSERT_EQ(check(good), Answer::kGood) << what;
  std::size_t covered = 0;
  for (const Field& field : fields) {
    ASSERT_EQ(field.at, covered) << what << ": no gap before " << field.name;
    covered += field.bytes;
    for (std::size_t byte = 0; byte < field.bytes; ++byte) {
      for (unsigned bit = 0; bit < 8; ++bit) {
        if (!every_bit && bit != byte % 8) continue;
        Bytes bad = good;
        bad[field.at + byte] ^= std::byte(1u << bit);
        const Answer answer = check(bad);
        ASSERT_EQ(answer, expected(field, byte, bit))
            << what << ", " << field.name << ", byte " << byte << ", bit " << bit << ": "
            << name_of(answer) << " instead of " << name_of(expected(field, byte, bit));
      }
    }
  }
  ASSERT_EQ(covered, good.size()) << what;
}

template <class Child, class Parent>
Check check_against(const Parent& parent) {
  return [parent](ByteView bytes) {
    const auto child = Child::parse(bytes);
    if (!child) {
      EXPECT_EQ(child.error().cls, ErrorClass::kPolicy);
      return Answer::kParse;
    }
    return answer_of(check_signature(*child, parent));
  };
}

AmdCertificate amd(const std::string& name) { return must(AmdCertificate::parse(real_file(name))); }
SevCertificate sev(const std::string& name) { return must(SevCertificate::parse(real_file(name))); }

constexpr const char* kCpus[] = {"naples", "rome", "milan", "genoa", "turin"};

TEST(AmdCertificate, RealOnesVerify) {
  for (const std::string cpu : kCpus) {
    const AmdCertificate ark = amd(cpu + "-ark.cert");
    const AmdCertificate ask = amd(cpu + "-ask.cert");
    EXPECT_EQ(ark.bits(), cpu == "naples" ? 2048u : 4096u);
    EXPECT_EQ(ark.usage, KeyUsage::kArk);
    EXPECT_EQ(ask.usage, KeyUsage::kAsk);
    EXPECT_EQ(check_signature(ark, ark), SignatureVerdict::kGood) << cpu;
    EXPECT_EQ(check_signature(ask, ark), SignatureVerdict::kGood) << cpu;
    EXPECT_EQ(check_signature(ark, ask), SignatureVerdict::kBadForm) << cpu;
    EXPECT_EQ(check_signature(ask, ask), SignatureVerdict::kBadForm) << cpu;
    EXPECT_EQ(ark.encode(), real_file(cpu + "-ark.cert"));
    EXPECT_EQ(ask.encode(), real_file(cpu + "-ask.cert"));
  }
  EXPECT_EQ(to_hex(amd("naples-ark.cert").key_id), "1bb987c359494606b174945601c9ea5b");
  EXPECT_EQ(to_hex(amd("turin-ask.cert").key_id), "15051693f7304d65a527b4a7f3f7cb77");
}

TEST(AmdCertificate, TheRootWithoutSignatureIsRefusedInWords) {
  const auto bad = AmdCertificate::parse(real_file("naples-ark.bad"));
  ASSERT_FALSE(bad);
  EXPECT_EQ(bad.error().detail, "An AMD certificate has 576 bytes instead of 832 or 1600.");
  const auto split = parse_certificates(real_file("naples-ark.bad"));
  ASSERT_FALSE(split);
  EXPECT_EQ(split.error().detail,
            "The certificate at offset 0 has 832 bytes of which 576 are there: its signature is "
            "missing.");
}

TEST(AmdCertificate, RealCeksVerify) {
  for (const std::string cpu : {"naples", "rome"}) {
    const SevCertificate cek = sev(cpu + "-cek.cert");
    EXPECT_EQ(check_signature(cek, amd(cpu + "-ask.cert")), SignatureVerdict::kGood) << cpu;
    EXPECT_EQ(check_signature(cek, amd(cpu + "-ark.cert")), SignatureVerdict::kBadForm) << cpu;
    EXPECT_EQ(check_signature(sev(cpu + "-pek.cert"), amd(cpu + "-ask.cert")),
              SignatureVerdict::kBadForm);
  }
  // Of another size, then of the same size: the algorithm tells, or the mathematics.
  EXPECT_EQ(check_signature(sev("rome-cek.cert"), amd("naples-ask.cert")),
            SignatureVerdict::kBadForm);
  EXPECT_EQ(check_signature(sev("rome-cek.cert"), amd("milan-ask.cert")),
            SignatureVerdict::kBadSignature);
}

TEST(AmdCertificate, AnotherGenerationsRootIsNotTheParent) {
  EXPECT_EQ(check_signature(amd("milan-ask.cert"), amd("rome-ark.cert")),
            SignatureVerdict::kBadForm);  // its ids do not agree
  AmdCertificate renamed = amd("rome-ark.cert");
  renamed.key_id = amd("milan-ark.cert").key_id;
  EXPECT_EQ(check_signature(amd("milan-ask.cert"), renamed), SignatureVerdict::kBadSignature);
}

// A second root that the first one has signed is no root.
TEST(AmdCertificate, ARootSignsItself) {
  const RsaKey& key = test_rsa_key(kRsaSmallBits, 0);
  AmdCertificate ark = unsigned_amd_certificate(KeyUsage::kArk, key.public_key(), {}, {});
  AmdCertificate second = ark;
  second.key_id[0] = std::byte{2};
  sign_certificate(second, key);
  EXPECT_EQ(check_signature(second, ark), SignatureVerdict::kBadForm);
  EXPECT_EQ(check_signature(second, second), SignatureVerdict::kBadForm);
}

TEST(AmdCertificate, MadeOnesVerifyInBothSizes) {
  for (const std::size_t bits : {kRsaSmallBits, kRsaLargeBits}) {
    const RsaKey& key = test_rsa_key(bits, 0);
    AmdCertificate ark = unsigned_amd_certificate(KeyUsage::kArk, key.public_key(), {}, {});
    EXPECT_EQ(check_signature(ark, ark), SignatureVerdict::kBadForm) << "not signed yet";
    sign_certificate(ark, key);
    EXPECT_EQ(check_signature(ark, ark), SignatureVerdict::kGood);
    AmdCertificate ask =
        unsigned_amd_certificate(KeyUsage::kAsk, key.public_key(), {std::byte{1}}, {});
    sign_certificate(ask, key);
    EXPECT_EQ(check_signature(ask, ark), SignatureVerdict::kGood);
    EXPECT_EQ(must(AmdCertificate::parse(ask.encode())), ask);
    MadeChain made;
    made.cek.slots = {};
    sign_certificate(made.cek, 1, key);
    EXPECT_EQ(check_signature(made.cek, ask), SignatureVerdict::kGood);
    sign_certificate(made.cek, 0, key);
    EXPECT_EQ(check_signature(made.cek, ask), SignatureVerdict::kBadForm) << "two slots";
  }
}

TEST(AmdCertificate, EveryBitOfTheSmallFormat) {
  const AmdCertificate ark = amd("naples-ark.cert");
  flip_fields("naples ASK", real_file("naples-ask.cert"), amd_fields(256, false), true,
              check_against<AmdCertificate>(ark));
  flip_fields("naples ARK", real_file("naples-ark.cert"), amd_fields(256, true), true,
              [](ByteView bytes) {
                const auto child = AmdCertificate::parse(bytes);
                return child ? answer_of(check_signature(*child, *child)) : Answer::kParse;
              });
}

TEST(AmdCertificate, EveryByteOfTheLargeFormat) {
  for (const std::string cpu : {"rome", "milan", "genoa", "turin"}) {
    flip_fields(cpu + " ASK", real_file(cpu + "-ask.cert"), amd_fields(512, false), false,
                check_against<AmdCertificate>(amd(cpu + "-ark.cert")));
    flip_fields(cpu + " ARK", real_file(cpu + "-ark.cert"), amd_fields(512, true), false,
                [](ByteView bytes) {
                  const auto child = AmdCertificate::parse(bytes);
                  return child ? answer_of(check_signature(*child, *child)) : Answer::kParse;
                });
  }
}

TEST(SevCertificateFields, EveryByteOfRealPlatforms) {
  for (const std::string cpu : {"naples", "rome"}) {
    const std::size_t rsa = cpu == "naples" ? 256 : 512;
    flip_fields(cpu + " CEK", real_file(cpu + "-cek.cert"), sev_fields(0, false, rsa), false,
                check_against<SevCertificate>(amd(cpu + "-ask.cert")));
    flip_fields(cpu + " PEK by OCA", real_file(cpu + "-pek.cert"), sev_fields(0, true, 0), false,
                check_against<SevCertificate>(sev(cpu + "-oca.cert")));
    flip_fields(cpu + " PEK by CEK", real_file(cpu + "-pek.cert"), sev_fields(1, true, 0), false,
                check_against<SevCertificate>(sev(cpu + "-cek.cert")));
    flip_fields(cpu + " PDH", real_file(cpu + "-pdh.cert"), sev_fields(0, false, 0), false,
                check_against<SevCertificate>(sev(cpu + "-pek.cert")));
    flip_fields(cpu + " OCA", real_file(cpu + "-oca.cert"), sev_fields(0, false, 0), false,
                [](ByteView bytes) {
                  const auto child = SevCertificate::parse(bytes);
                  return child ? answer_of(check_signature(*child, *child)) : Answer::kParse;
                });
  }
}

TEST(SevCertificateFields, EveryBitOfOne) {
  flip_fields("rome PEK", real_file("rome-pek.cert"), sev_fields(0, true, 0), true,
              check_against<SevCertificate>(sev("rome-oca.cert")));
}

TEST(SevCertificateFields, EveryTruncationIsRefused) {
  for (const char* const name : {"rome-pdh.cert", "rome-cek.cert"}) {
    const Bytes good = real_file(name);
    for (std::size_t size = 0; size < good.size(); ++size) {
      ASSERT_FALSE(SevCertificate::parse(ByteView(good).first(size))) << name << " " << size;
    }
  }
  for (const char* const name : {"naples-ark.cert", "rome-ask.cert"}) {
    const Bytes good = real_file(name);
    for (std::size_t size = 0; size < good.size(); ++size) {
      ASSERT_FALSE(AmdCertificate::parse(ByteView(good).first(size))) << name << " " << size;
    }
  }
}

}  // namespace
}  // namespace sealift::sev
