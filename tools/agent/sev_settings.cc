#include "tools/agent/sev_settings.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>

namespace sealift {
namespace {

struct PolicyWord {
  std::string_view word;
  std::uint32_t bit;
};
constexpr std::array kPolicyWords = {
    PolicyWord{"nodbg", sev::kPolicyNoDebug}, PolicyWord{"noks", sev::kPolicyNoKeySharing},
    PolicyWord{"es", sev::kPolicyEs},         PolicyWord{"nosend", sev::kPolicyNoSend},
    PolicyWord{"domain", sev::kPolicyDomain}, PolicyWord{"sev", sev::kPolicySev}};

template <class Number>
std::optional<Number> parse_whole(std::string_view text, int base) {
  Number number = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), number, base);
  if (status != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

// "1.51" as it stands in the policy word.
std::optional<std::uint32_t> parse_api(std::string_view text) {
  const std::size_t dot = text.find('.');
  if (dot == std::string_view::npos) return std::nullopt;
  const auto major = parse_whole<std::uint8_t>(text.substr(0, dot), 10);
  const auto minor = parse_whole<std::uint8_t>(text.substr(dot + 1), 10);
  if (!major || !minor) return std::nullopt;
  return std::uint32_t{*major} << 16 | std::uint32_t{*minor} << 24;
}

std::optional<std::uint32_t> parse_policy_word(std::string_view word) {
  constexpr std::string_view kApi = "api=";
  if (word.starts_with(kApi)) return parse_api(word.substr(kApi.size()));
  const auto* found = std::find_if(kPolicyWords.begin(), kPolicyWords.end(),
                                   [&](const PolicyWord& known) { return known.word == word; });
  return found == kPolicyWords.end() ? std::nullopt : std::optional(found->bit);
}

}  // namespace

Result<std::uint32_t> parse_sev_policy(std::string_view text) {
  const std::string whole(text);
  if (text == "none") return 0;
  if (text.starts_with("0x")) {
    if (const auto number = parse_whole<std::uint32_t>(text.substr(2), 16)) return *number;
  } else {
    std::uint32_t policy = 0;
    for (bool more = true; more;) {
      const std::size_t comma = text.find(',');
      const auto bits = parse_policy_word(text.substr(0, comma));
      if (!bits) break;
      policy |= *bits;
      more = comma != std::string_view::npos;
      if (!more) return policy;
      text.remove_prefix(comma + 1);
    }
  }
  return fail(ErrorClass::kUsage,
              "sev-policy={} is neither none, nor a hexadecimal number such as 0x33010001, nor "
              "words of nodbg, "
              "noks, es, nosend, domain, sev and api=MAJOR.MINOR with commas between them",
              whole);
}

Result<void> check_sev_settings(const SevSettings& settings, Platform platform) {
  if (platform != Platform::kSev && platform != Platform::kSevEs) {
    if (!settings.given) return {};
    return fail(ErrorClass::kUsage, "the sev- options need platform=sev or sev-es, not {}",
                name_of(platform));
  }
  if (platform == Platform::kSev && (settings.policy & sev::kPolicyEs) != 0) {
    return fail(ErrorClass::kUsage,
                "sev-policy has the SEV-ES bit ({:#x}), and platform=sev has no SEV-ES: use "
                "platform=sev-es",
                settings.policy);
  }
  return {};
}

Result<void> set_sev_key(SevSettings& settings, std::string_view key, std::string_view text) {
  settings.given = true;
  if (key == "sev-policy") {
    SEALIFT_TRY(settings.policy, parse_sev_policy(text));
  } else if (key == "sev-firmware" && (text == "fast" || text == "asp")) {
    settings.slow_firmware = text == "asp";
  } else if (key == "sev-vmsa" && (text == "on" || text == "off")) {
    settings.kernel_moves_vmsa = text == "on";
  } else {
    return fail(ErrorClass::kUsage,
                "{}={} is not known; use sev-policy=WORDS, sev-firmware=fast|asp or "
                "sev-vmsa=on|off",
                key, text);
  }
  return {};
}

}  // namespace sealift
