#include "vmm_glue/sev/chain.h"

#include <fmt/format.h>

#include <algorithm>

#include "vmm_glue/sev/crypto.h"
#include "vmm_glue/sev/little_endian.h"

namespace sealift::sev {
namespace {

constexpr auto kBad = ErrorClass::kPolicy;

struct KnownRoot {
  std::string_view cpu;
  std::string_view sha256;
};
constexpr std::array<KnownRoot, 5> kKnownRoots{{
    {"Naples", "dedabca561e1dece8cc00b7bda864cf5f20b95017864408cfe18eaee0dce24b9"},
    {"Rome", "865977b268c16d5b27772b00aaefb4e737ba9499e818ed8e9f65b0cecefbc529"},
    {"Milan", "1246469862b78a7a8625579b0378d1f8e975eb8b82a1623b579d7968a5969888"},
    {"Genoa", "8f4e3fd36589c23f1fe0c8338465bac7e2e066d97fc92f228bbee4fd356fb674"},
    {"Turin", "f6405e5096a6eee1eb7d5df75c49f9b9f7c8357a31c7fff150149d68588a7bf7"},
}};

// Where both formats have what tells them apart.
constexpr std::size_t kSevUsageAt = 8;
constexpr std::size_t kAmdUsageAt = 36;
constexpr std::size_t kAmdModulusBitsAt = 60;
constexpr std::size_t kHeadBytes = 64;

// The length that the certificate at the start of `bytes` has by its head; 0: no certificate.
std::size_t length_by_head(ByteView bytes) {
  if (bytes.size() < kHeadBytes || get_le<std::uint32_t>(bytes, 0) != 1) return 0;
  const KeyUsage sev{get_le<std::uint32_t>(bytes, kSevUsageAt)};
  if (sev == KeyUsage::kOca || sev == KeyUsage::kPek || sev == KeyUsage::kPdh ||
      sev == KeyUsage::kCek) {
    return kCertificateBytes;
  }
  const KeyUsage amd{get_le<std::uint32_t>(bytes, kAmdUsageAt)};
  if (amd != KeyUsage::kArk && amd != KeyUsage::kAsk) return 0;
  const auto bits = get_le<std::uint32_t>(bytes, kAmdModulusBitsAt);
  return bits == kRsaSmallBits ? kAmdSmallBytes : bits == kRsaLargeBits ? kAmdLargeBytes : 0;
}

template <class T>
Result<void> put(std::optional<T>& place, const T& certificate) {
  if (place && *place != certificate) {
    return fail(kBad, "There are two different {} certificates.", name_of(certificate.usage));
  }
  place = certificate;
  return {};
}

bool is_unsigned(const SevCertificate& certificate) {
  return certificate.slots[0] == SignatureSlot{} && certificate.slots[1] == SignatureSlot{};
}
bool is_unsigned(const AmdCertificate& certificate) {
  return std::all_of(certificate.signature.begin(), certificate.signature.end(),
                     [](std::byte b) { return b == std::byte{0}; });
}

std::string_view words_of(LinkState state) {
  switch (state) {
    case LinkState::kGood:
      return "good";
    case LinkState::kUnsigned:
      return "it carries no signature";
    case LinkState::kBadForm:
      return "the form does not fit: signature slots, algorithm or key ids";
    case LinkState::kBadSignature:
      return "the signature is wrong";
    case LinkState::kMissing:
      break;
  }
  return "missing";
}

template <class Child, class Parent>
ChainLink link(KeyUsage child_usage, const std::optional<Child>& child, KeyUsage parent_usage,
               const std::optional<Parent>& parent) {
  ChainLink out{.child = child_usage, .parent = parent_usage, .state = {}, .text = {}};
  const char* const below = name_of(child_usage);
  const char* const above = name_of(parent_usage);
  if (!child || !parent) {
    out.state = LinkState::kMissing;
    out.text = fmt::format("{} signed by {}: no {} certificate", below, above,
                           !child && !parent && child_usage != parent_usage
                               ? fmt::format("{} and no {}", below, above)
                               : std::string(child ? above : below));
    return out;
  }
  switch (check_signature(*child, *parent)) {
    case SignatureVerdict::kGood:
      out.state = LinkState::kGood;
      break;
    case SignatureVerdict::kBadForm:
      out.state = is_unsigned(*child) ? LinkState::kUnsigned : LinkState::kBadForm;
      break;
    case SignatureVerdict::kBadSignature:
      out.state = is_unsigned(*child) ? LinkState::kUnsigned : LinkState::kBadSignature;
      break;
  }
  out.text = fmt::format("{} signed by {}: {}", below, above, words_of(out.state));
  return out;
}

ChainLink root_link(const SevChain& chain) {
  ChainLink out = link(KeyUsage::kArk, chain.ark, KeyUsage::kArk, chain.ark);
  if (out.state != LinkState::kGood) return out;
  const std::string_view cpu = known_root(*chain.ark);
  out.text += cpu.empty() ? std::string(", but it is none of the root keys that AMD has published")
                          : fmt::format(", AMD's root key of {}", cpu);
  return out;
}

ChainLink cek_link(const SevChain& chain) {
  ChainLink out = link(KeyUsage::kCek, chain.cek, KeyUsage::kAsk, chain.ask);
  if (chain.cek && is_unsigned(*chain.cek)) {
    out.state = LinkState::kUnsigned;
    out.text =
        "CEK signed by ASK: it carries no signature, as it comes from the firmware; AMD's key "
        "server "
        "has the signed one (https://kdsintf.amd.com/cek/id/ and the chip's id)";
  }
  return out;
}

}  // namespace

bool SevChain::has(KeyUsage usage) const {
  switch (usage) {
    case KeyUsage::kArk:
      return ark.has_value();
    case KeyUsage::kAsk:
      return ask.has_value();
    case KeyUsage::kCek:
      return cek.has_value();
    case KeyUsage::kPek:
      return pek.has_value();
    case KeyUsage::kOca:
      return oca.has_value();
    case KeyUsage::kPdh:
      return pdh.has_value();
    case KeyUsage::kNone:
      break;
  }
  return false;
}

KeyUsage usage_of(const Certificate& certificate) {
  return std::visit([](const auto& one) { return one.usage; }, certificate);
}

Result<std::vector<Certificate>> parse_certificates(ByteView bytes) {
  if (bytes.empty() || bytes.size() > kCertificatesBytesMax) {
    return fail(kBad, "Certificates have 1 to {} bytes together, and here are {}.",
                kCertificatesBytesMax, bytes.empty() ? "none" : "more");
  }
  std::vector<Certificate> out;
  for (std::size_t at = 0; at < bytes.size();) {
    const ByteView rest = bytes.subspan(at);
    const std::size_t length = length_by_head(rest);
    if (length == 0) {
      return fail(kBad, "The {} bytes from offset {} on begin like no certificate of SEV or AMD.",
                  rest.size(), at);
    }
    if (length > rest.size()) {
      const std::size_t field = (length - kHeadBytes) / 3;
      const bool headless = length != kCertificateBytes && rest.size() == length - field;
      return fail(kBad, "The certificate at offset {} has {} bytes of which {} are there{}.", at,
                  length, rest.size(), headless ? ": its signature is missing" : "");
    }
    if (length == kCertificateBytes) {
      SEALIFT_TRY(SevCertificate one, SevCertificate::parse(rest.first(length)));
      out.emplace_back(std::move(one));
    } else {
      SEALIFT_TRY(AmdCertificate one, AmdCertificate::parse(rest.first(length)));
      out.emplace_back(std::move(one));
    }
    at += length;
  }
  return out;
}

Result<void> add_to(SevChain& chain, const Certificate& certificate) {
  if (const auto* amd = std::get_if<AmdCertificate>(&certificate)) {
    return put(amd->usage == KeyUsage::kArk ? chain.ark : chain.ask, *amd);
  }
  const auto& sev = std::get<SevCertificate>(certificate);
  switch (sev.usage) {
    case KeyUsage::kCek:
      return put(chain.cek, sev);
    case KeyUsage::kPek:
      return put(chain.pek, sev);
    case KeyUsage::kOca:
      return put(chain.oca, sev);
    case KeyUsage::kPdh:
      return put(chain.pdh, sev);
    default:
      return fail(kBad, "A SEV certificate is for {}.", name_of(sev.usage));
  }
}

Result<SevChain> parse_chain(ByteView pdh, ByteView platform_chain, ByteView amd_certs) {
  const auto append = [](SevChain& chain, ByteView bytes, std::initializer_list<KeyUsage> order,
                         const char* what) -> Result<void> {
    SEALIFT_TRY(const auto certificates, parse_certificates(bytes));
    const bool fits =
        std::equal(certificates.begin(), certificates.end(), order.begin(), order.end(),
                   [](const Certificate& one, KeyUsage usage) { return usage_of(one) == usage; });
    if (!fits) {
      std::string found;
      for (const Certificate& one : certificates)
        found += fmt::format(" {}", name_of(usage_of(one)));
      return fail(kBad,
                  "The {} has the certificates{}, not the ones it should have in their order.",
                  what, found);
    }
    for (const Certificate& one : certificates) SEALIFT_CHECK(add_to(chain, one));
    return {};
  };
  SevChain out;
  SEALIFT_CHECK(append(out, pdh, {KeyUsage::kPdh}, "PDH"));
  SEALIFT_CHECK(append(out, platform_chain, {KeyUsage::kPek, KeyUsage::kOca, KeyUsage::kCek},
                       "platform's chain"));
  if (!amd_certs.empty()) {
    SEALIFT_CHECK(append(out, amd_certs, {KeyUsage::kAsk, KeyUsage::kArk}, "chain of AMD"));
  }
  return out;
}

const char* name_of(LinkState state) {
  switch (state) {
    case LinkState::kGood:
      return "good";
    case LinkState::kMissing:
      return "missing";
    case LinkState::kUnsigned:
      return "unsigned";
    case LinkState::kBadForm:
      return "bad form";
    case LinkState::kBadSignature:
      return "bad signature";
  }
  return "invalid state";
}

std::vector<ChainLink> verify_chain(const SevChain& chain, ChainScope scope) {
  std::vector<ChainLink> out;
  if (scope != ChainScope::kDomain) {
    out.push_back(root_link(chain));
    out.push_back(link(KeyUsage::kAsk, chain.ask, KeyUsage::kArk, chain.ark));
    out.push_back(cek_link(chain));
    out.push_back(link(KeyUsage::kPek, chain.pek, KeyUsage::kCek, chain.cek));
  }
  if (scope != ChainScope::kGenuine) {
    out.push_back(link(KeyUsage::kOca, chain.oca, KeyUsage::kOca, chain.oca));
    out.push_back(link(KeyUsage::kPek, chain.pek, KeyUsage::kOca, chain.oca));
  }
  out.push_back(link(KeyUsage::kPdh, chain.pdh, KeyUsage::kPek, chain.pek));
  return out;
}

bool all_good(const std::vector<ChainLink>& links) {
  return std::all_of(links.begin(), links.end(),
                     [](const ChainLink& one) { return one.state == LinkState::kGood; });
}

std::string text_of_bad(const std::vector<ChainLink>& links) {
  std::string text;
  for (const ChainLink& one : links) {
    if (one.state == LinkState::kGood) continue;
    if (!text.empty()) text += "; ";
    text += one.text;
  }
  return text;
}

std::string_view known_root(const AmdCertificate& ark) {
  Sha256 sha;
  sha.add(ark.encode());
  std::string hex;
  for (const std::byte byte : sha.finish()) {
    hex += fmt::format("{:02x}", std::to_integer<unsigned>(byte));
  }
  const auto* const found = std::find_if(kKnownRoots.begin(), kKnownRoots.end(),
                                         [&](const KnownRoot& root) { return root.sha256 == hex; });
  return found == kKnownRoots.end() ? std::string_view() : found->cpu;
}

}  // namespace sealift::sev
