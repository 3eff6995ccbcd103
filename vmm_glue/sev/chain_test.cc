#include "vmm_glue/sev/chain.h"

#include <gtest/gtest.h>

#include <random>

#include "vmm_glue/sev/test_certificates.h"
#include "vmm_glue/sev/test_support.h"

namespace sealift::sev {
namespace {

SevChain real_chain(const std::string& cpu) {
  return must(parse_chain(real_file(cpu + "-pdh.cert"),
                          joined({real_file(cpu + "-pek.cert"), real_file(cpu + "-oca.cert"),
                                  real_file(cpu + "-cek.cert")}),
                          joined({real_file(cpu + "-ask.cert"), real_file(cpu + "-ark.cert")})));
}

Bytes full_file(const std::string& cpu) {
  Bytes out;
  for (const char* const kind : {"pdh", "pek", "oca", "cek", "ask", "ark"}) {
    const Bytes one = real_file(cpu + "-" + kind + ".cert");
    out.insert(out.end(), one.begin(), one.end());
  }
  return out;
}

const ChainLink& link_of(const std::vector<ChainLink>& links, KeyUsage child, KeyUsage parent) {
  for (const ChainLink& link : links) {
    if (link.child == child && link.parent == parent) return link;
  }
  ADD_FAILURE() << name_of(child) << " by " << name_of(parent);
  return links.front();
}

TEST(SevChain, RealOnesAreWholeAndTheirRootsKnown) {
  for (const std::string cpu : {"naples", "rome"}) {
    const SevChain chain = real_chain(cpu);
    const auto links = verify_chain(chain, ChainScope::kAll);
    EXPECT_EQ(links.size(), 7u);
    EXPECT_TRUE(all_good(links)) << text_of_bad(links);
    EXPECT_EQ(verify_chain(chain, ChainScope::kDomain).size(), 3u);
    EXPECT_EQ(verify_chain(chain, ChainScope::kGenuine).size(), 5u);
    EXPECT_EQ(links.front().text, cpu == "naples"
                                      ? "ARK signed by ARK: good, AMD's root key of Naples"
                                      : "ARK signed by ARK: good, AMD's root key of Rome");
  }
  const std::pair<const char*, const char*> roots[] = {
      {"milan", "Milan"}, {"genoa", "Genoa"}, {"turin", "Turin"}};
  for (const auto& [file, cpu] : roots) {
    const auto ark = must(AmdCertificate::parse(real_file(std::string(file) + "-ark.cert")));
    EXPECT_EQ(known_root(ark), cpu);
  }
}

TEST(SevChain, ARootOfOurOwnIsGoodAndUnknown) {
  const MadeChain made;
  const auto links = verify_chain(made.chain(), ChainScope::kAll);
  EXPECT_TRUE(all_good(links)) << text_of_bad(links);
  EXPECT_EQ(known_root(made.ark), "");
  EXPECT_EQ(links.front().text,
            "ARK signed by ARK: good, but it is none of the root keys that AMD has published");
}

TEST(SevChain, EachMissingCertificateBreaksItsLinks) {
  const MadeChain made;
  struct Case {
    void (*drop)(SevChain&);
    KeyUsage gone;
    std::size_t links_left;
  };
  const Case cases[] = {{[](SevChain& c) { c.ark.reset(); }, KeyUsage::kArk, 5},
                        {[](SevChain& c) { c.ask.reset(); }, KeyUsage::kAsk, 5},
                        {[](SevChain& c) { c.cek.reset(); }, KeyUsage::kCek, 5},
                        {[](SevChain& c) { c.pek.reset(); }, KeyUsage::kPek, 4},
                        {[](SevChain& c) { c.oca.reset(); }, KeyUsage::kOca, 5},
                        {[](SevChain& c) { c.pdh.reset(); }, KeyUsage::kPdh, 6}};
  for (const Case& one : cases) {
    SevChain chain = made.chain();
    one.drop(chain);
    EXPECT_FALSE(chain.has(one.gone));
    std::size_t good = 0;
    for (const ChainLink& link : verify_chain(chain, ChainScope::kAll)) {
      const bool touched = link.child == one.gone || link.parent == one.gone;
      EXPECT_EQ(link.state, touched ? LinkState::kMissing : LinkState::kGood) << link.text;
      if (touched) {
        const std::string missing = fmt::format("no {} certificate", name_of(one.gone));
        EXPECT_NE(link.text.find(missing), std::string::npos) << link.text;
      }
      good += link.state == LinkState::kGood;
    }
    EXPECT_EQ(good, one.links_left) << name_of(one.gone);
  }
  EXPECT_EQ(verify_chain(SevChain{}, ChainScope::kGenuine).back().text,
            "PDH signed by PEK: no PDH and no PEK certificate");
}

TEST(SevChain, APlatformsUnsignedCekIsNamedWithWhatToDo) {
  MadeChain made;
  made.cek.slots = {};
  for (const bool with_ask : {true, false}) {
    SevChain chain = made.chain();
    if (!with_ask) chain.ask.reset();
    const ChainLink link =
        link_of(verify_chain(chain, ChainScope::kAll), KeyUsage::kCek, KeyUsage::kAsk);
    EXPECT_EQ(link.state, LinkState::kUnsigned);
    EXPECT_NE(link.text.find("kdsintf.amd.com"), std::string::npos) << link.text;
  }
}

TEST(SevChain, CertificatesOfTwoPlatformsDoNotMix) {
  SevChain chain = real_chain("rome");
  chain.pek = real_chain("naples").pek;
  const auto links = verify_chain(chain, ChainScope::kAll);
  EXPECT_EQ(link_of(links, KeyUsage::kPek, KeyUsage::kOca).state, LinkState::kBadSignature);
  EXPECT_EQ(link_of(links, KeyUsage::kPek, KeyUsage::kCek).state, LinkState::kBadSignature);
  EXPECT_EQ(link_of(links, KeyUsage::kPdh, KeyUsage::kPek).state, LinkState::kBadSignature);
  EXPECT_EQ(link_of(links, KeyUsage::kCek, KeyUsage::kAsk).state, LinkState::kGood);
  chain = real_chain("rome");
  chain.ask = real_chain("naples").ask;
  EXPECT_EQ(text_of_bad(verify_chain(chain, ChainScope::kGenuine)),
            "ASK signed by ARK: the form does not fit: signature slots, algorithm or key ids; CEK "
            "signed by ASK: the form does not fit: signature slots, algorithm or key ids");
}

TEST(SevChain, TheHostsPartsHaveTheirOrder) {
  const MadeChain made;
  const Bytes pek = bytes_of(made.pek);
  const Bytes oca = bytes_of(made.oca);
  const Bytes cek = bytes_of(made.cek);
  EXPECT_TRUE(parse_chain(made.pdh_bytes(), made.platform_bytes(), {}));
  EXPECT_FALSE(parse_chain(pek, made.platform_bytes(), {}));
  EXPECT_FALSE(parse_chain(made.pdh_bytes(), joined({pek, oca}), {}));
  EXPECT_FALSE(parse_chain(made.pdh_bytes(), joined({pek, oca, cek, cek}), {}));
  EXPECT_FALSE(parse_chain(made.pdh_bytes(), {}, {}));
  const auto swapped = parse_chain(made.pdh_bytes(), joined({oca, pek, cek}), {});
  ASSERT_FALSE(swapped);
  EXPECT_EQ(swapped.error().detail,
            "The platform's chain has the certificates OCA PEK CEK, not the ones it should have in "
            "their order.");
  EXPECT_FALSE(parse_chain(made.pdh_bytes(), made.platform_bytes(),
                           joined({made.ark.encode(), made.ask.encode()})));
}

TEST(SevChain, TwoDifferentOnesOfAKindAreRefused) {
  SevChain chain = real_chain("rome");
  EXPECT_TRUE(add_to(chain, *real_chain("rome").pek));
  const auto other = add_to(chain, *real_chain("naples").pek);
  ASSERT_FALSE(other);
  EXPECT_EQ(other.error().detail, "There are two different PEK certificates.");
  EXPECT_FALSE(add_to(chain, *real_chain("naples").ark));
}

TEST(Certificates, FilesOfBothFormatsAreSplit) {
  for (const std::string cpu : {"naples", "rome"}) {
    const Bytes file = full_file(cpu);
    const auto all = must(parse_certificates(file));
    std::vector<std::size_t> ends = {0};
    SevChain chain;
    for (const Certificate& one : all) {
      const auto* const amd = std::get_if<AmdCertificate>(&one);
      ends.push_back(ends.back() + (amd ? amd->encode().size() : kCertificateBytes));
      must(add_to(chain, one));
    }
    EXPECT_EQ(all.size(), 6u);
    EXPECT_TRUE(all_good(verify_chain(chain, ChainScope::kAll)));
    for (std::size_t size = 0; size < file.size(); ++size) {
      const bool whole = size > 0 && std::find(ends.begin(), ends.end(), size) != ends.end();
      ASSERT_EQ(parse_certificates(ByteView(file).first(size)).has_value(), whole) << size;
    }
  }
  const Bytes ark = real_file("rome-ark.cert");
  Bytes many;
  while (many.size() + ark.size() <= kCertificatesBytesMax) {
    many.insert(many.end(), ark.begin(), ark.end());
  }
  EXPECT_EQ(must(parse_certificates(many)).size(), many.size() / ark.size());
  many.insert(many.end(), ark.begin(), ark.end());
  EXPECT_FALSE(parse_certificates(many));
  const auto text = parse_certificates(Bytes(3000, std::byte{'x'}));
  ASSERT_FALSE(text);
  EXPECT_EQ(text.error().detail,
            "The 3000 bytes from offset 0 on begin like no certificate of SEV or AMD.");
}

// Whatever is accepted is what was read: no bit is overlooked.
TEST(Certificates, RandomDamageIsRefusedOrReadToTheByte) {
  std::mt19937_64 random(20);
  const Bytes good[] = {full_file("naples"), full_file("rome")};
  std::size_t accepted = 0;
  for (int round = 0; round < 4000; ++round) {
    Bytes bytes = good[round % 2];
    for (std::uint64_t edits = 1 + random() % 4; edits > 0; --edits) {
      const std::size_t at = random() % bytes.size();
      switch (random() % 3) {
        case 0:
          bytes[at] = std::byte(random() & 0xff);
          break;
        case 1:
          bytes.resize(std::max<std::size_t>(at, 1));
          break;
        default:
          std::rotate(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(at), bytes.end());
      }
    }
    const auto certificates = parse_certificates(bytes);
    if (!certificates) {
      ASSERT_FALSE(certificates.error().detail.empty());
      continue;
    }
    ++accepted;
    Bytes again;
    SevChain chain;
    for (const Certificate& one : *certificates) {
      const auto* const amd = std::get_if<AmdCertificate>(&one);
      const Bytes part = amd ? amd->encode() : bytes_of(std::get<SevCertificate>(one));
      again.insert(again.end(), part.begin(), part.end());
      (void)add_to(chain, one);
    }
    ASSERT_EQ(again, bytes);
    if (accepted < 100) (void)verify_chain(chain, ChainScope::kAll);
  }
  EXPECT_GT(accepted, 50u);  // otherwise only the first check was tried
}

}  // namespace
}  // namespace sealift::sev
