#include "tools/migrate/sev_cert.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <nlohmann/json.hpp>

#include "journal/record.h"
#include "tools/migrate/commands.h"
#include "tools/migrate/exit_codes.h"
#include "vmm_glue/sev/chain.h"
#include "vmm_glue/sev/crypto.h"

namespace sealift {

using nlohmann::json;

namespace {

struct Found {
  std::string file;
  sev::Certificate certificate;
};

// Enough of a SHA-256 to tell keys apart by eye.
std::string short_hash(std::initializer_list<ByteView> parts) {
  constexpr std::size_t kShownBytes = 8;
  sev::Sha256 sha;
  for (const ByteView part : parts) sha.add(part);
  return hex_text(ByteView(sha.finish()).first(kShownBytes));
}

Result<Bytes> read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text(sev::kCertificatesBytesMax + 1, '\0');
  if (file) file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (!file.eof() && !file.good()) return fail(ErrorClass::kUsage, "{} cannot be read.", path);
  const auto* const first = reinterpret_cast<const std::byte*>(text.data());
  return Bytes(first, first + file.gcount());
}

Result<std::vector<Found>> read_certificates(const std::vector<std::string>& files) {
  std::vector<Found> out;
  for (const std::string& path : files) {
    SEALIFT_TRY(const Bytes bytes, read_file(path));
    auto certificates = sev::parse_certificates(bytes);
    if (!certificates) {
      return fail(certificates.error().cls, "{}: {}", path, certificates.error().detail);
    }
    for (sev::Certificate& one : *certificates) out.push_back({path, std::move(one)});
  }
  return out;
}

json json_of(const sev::SevCertificate& certificate) {
  json slots = json::array();
  for (const sev::SignatureSlot& slot : certificate.slots) {
    json out = {{"signer", sev::name_of(slot.usage)},
                {"usage", static_cast<std::uint32_t>(slot.usage)},
                {"algorithm", sev::name_of(slot.algorithm)}};
    if (slot != sev::SignatureSlot{}) out["signature_sha256"] = short_hash({slot.bytes});
    slots.push_back(std::move(out));
  }
  return {{"kind", sev::name_of(certificate.usage)},
          {"format", "SEV"},
          {"version", 1},
          {"bytes", sev::kCertificateBytes},
          {"api", fmt::format("{}.{}", certificate.api_major, certificate.api_minor)},
          {"usage", static_cast<std::uint32_t>(certificate.usage)},
          {"algorithm", sev::name_of(certificate.algorithm)},
          {"curve", "P-384"},
          {"key_sha256", short_hash({certificate.key.x, certificate.key.y})},
          {"slots", std::move(slots)}};
}

json json_of(const sev::AmdCertificate& certificate) {
  json out = {{"kind", sev::name_of(certificate.usage)},
              {"format", "AMD"},
              {"version", 1},
              {"bytes", certificate.encode().size()},
              {"usage", static_cast<std::uint32_t>(certificate.usage)},
              {"key_id", hex_text(certificate.key_id)},
              {"certifying_key_id", hex_text(certificate.certifying_id)},
              {"bits", certificate.bits()},
              {"exponent", sev::kRsaExponent},
              {"key_sha256", short_hash({certificate.modulus})},
              {"signature_sha256", short_hash({certificate.signature})}};
  if (certificate.usage == sev::KeyUsage::kArk) {
    out["amd_root_of"] = sev::known_root(certificate);  // empty: none that AMD has published
  }
  return out;
}

std::string text_of(const json& certificate) {
  const std::string kind = certificate.at("kind");
  std::string text = fmt::format(
      "{}: {} certificate version {}, {} bytes, key usage {:#x}\n", kind,
      certificate.at("format").get<std::string>(), certificate.at("version").get<int>(),
      certificate.at("bytes").get<std::size_t>(), certificate.at("usage").get<std::uint32_t>());
  const std::string key = certificate.at("key_sha256");
  if (certificate.contains("slots")) {
    text += fmt::format("  made by   firmware API {}\n", certificate.at("api").get<std::string>());
    text += fmt::format("  key       {} for {}, SHA-256 {}…\n",
                        certificate.at("curve").get<std::string>(),
                        certificate.at("algorithm").get<std::string>(), key);
    int number = 1;
    for (const json& slot : certificate.at("slots")) {
      const std::string signature = slot.value("signature_sha256", "");
      text += fmt::format("  slot {}    ", number++);
      text += signature.empty() ? std::string("unused\n")
                                : fmt::format("signed by {} (key usage {:#x}), {}, SHA-256 {}…\n",
                                              slot.at("signer").get<std::string>(),
                                              slot.at("usage").get<std::uint32_t>(),
                                              slot.at("algorithm").get<std::string>(), signature);
    }
    return text;
  }
  text += fmt::format("  key id    {}\n  signed by {}, RSA-PSS, SHA-256 {}…\n",
                      certificate.at("key_id").get<std::string>(),
                      certificate.at("certifying_key_id").get<std::string>(),
                      certificate.at("signature_sha256").get<std::string>());
  text += fmt::format("  key       RSA {} bits, exponent {}, SHA-256 {}…\n",
                      certificate.at("bits").get<std::size_t>(),
                      certificate.at("exponent").get<std::uint32_t>(), key);
  if (const auto root = certificate.find("amd_root_of"); root != certificate.end()) {
    const std::string cpu = root->get<std::string>();
    text += cpu.empty() ? std::string("  root      none of those that AMD has published\n")
                        : fmt::format("  root      AMD's root key of {}\n", cpu);
  }
  return text;
}

// A link whose child was not given is nobody's failure.
bool fails(const sev::ChainLink& link, const sev::SevChain& chain, bool partial) {
  switch (link.state) {
    case sev::LinkState::kGood:
      return false;
    case sev::LinkState::kMissing:
      return chain.has(link.child) && !partial;
    case sev::LinkState::kUnsigned:
      return !partial;
    case sev::LinkState::kBadForm:
    case sev::LinkState::kBadSignature:
      break;
  }
  return true;
}

std::string names_of(const sev::SevChain& chain, bool given) {
  using sev::KeyUsage;
  std::string out;
  for (const KeyUsage usage : {KeyUsage::kArk, KeyUsage::kAsk, KeyUsage::kCek, KeyUsage::kOca,
                               KeyUsage::kPek, KeyUsage::kPdh}) {
    if (chain.has(usage) != given) continue;
    out += fmt::format("{}{}", out.empty() ? "" : ", ", sev::name_of(usage));
  }
  return out;
}

}  // namespace

int run_sev_cert_show(const SevCertOptions& options) {
  const auto found = read_certificates(options.files);
  if (!found) return report_error(found.error(), options.json);
  json all = json::array();
  for (const Found& one : *found) {
    json shown = std::visit([](const auto& any) { return json_of(any); }, one.certificate);
    if (!options.json) fmt::print("{}: {}", one.file, text_of(shown));
    shown["file"] = one.file;
    all.push_back(std::move(shown));
  }
  if (options.json) fmt::print("{}\n", json{{"certificates", std::move(all)}}.dump());
  return kExitDone;
}

int run_sev_cert_verify(const SevCertOptions& options) {
  const auto found = read_certificates(options.files);
  if (!found) return report_error(found.error(), options.json);
  sev::SevChain chain;
  for (const Found& one : *found) {
    if (auto added = sev::add_to(chain, one.certificate); !added) {
      return report_error(
          Error{added.error().cls, fmt::format("{}: {}", one.file, added.error().detail)},
          options.json);
    }
  }
  const auto links = sev::verify_chain(chain, sev::ChainScope::kAll);
  const bool complete = sev::all_good(links);
  const bool failed = std::any_of(links.begin(), links.end(), [&](const sev::ChainLink& link) {
    return fails(link, chain, options.partial);
  });
  const std::string missing = names_of(chain, false);
  const std::string verdict =
      failed     ? std::string("does not hold")
      : complete ? std::string("whole chain from ARK and OCA to PDH")
                 : fmt::format("what was given holds together: {}{}", names_of(chain, true),
                               missing.empty() ? "" : fmt::format(" (not given: {})", missing));
  if (options.json) {
    json shown = json::array();
    for (const sev::ChainLink& link : links) {
      shown.push_back({{"child", sev::name_of(link.child)},
                       {"parent", sev::name_of(link.parent)},
                       {"state", sev::name_of(link.state)},
                       {"fails", fails(link, chain, options.partial)},
                       {"text", link.text}});
    }
    fmt::print("{}\n", json{{"links", std::move(shown)},
                            {"complete", complete},
                            {"holds", !failed},
                            {"amd_root_of", chain.ark ? sev::known_root(*chain.ark) : ""},
                            {"verdict", verdict}}
                           .dump());
  } else {
    for (const sev::ChainLink& link : links) {
      const bool silent = link.state == sev::LinkState::kMissing && !chain.has(link.child);
      const char* const mark = fails(link, chain, options.partial)   ? "FAIL"
                               : link.state == sev::LinkState::kGood ? "ok"
                                                                     : "-";
      if (!silent) fmt::print("{:<4} {}\n", mark, link.text);
    }
    fmt::print("{}\n", verdict);
  }
  return failed ? kExitPolicy : kExitDone;
}

}  // namespace sealift
