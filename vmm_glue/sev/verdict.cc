#include "vmm_glue/sev/verdict.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "vmm_glue/sev/chain.h"

namespace sealift::sev {
namespace {

using Level = PlatformFinding::Level;

struct Api {
  unsigned major = 0;
  unsigned minor = 0;
  friend auto operator<=>(const Api&, const Api&) = default;
};
std::string words_of(Api api) { return fmt::format("{}.{}", api.major, api.minor); }
Api api_of(std::uint32_t policy) { return {policy >> 16 & 0xff, policy >> 24}; }
Api api_of(const SevCertificate& certificate) {
  return {certificate.api_major, certificate.api_minor};
}

PlatformFinding judge_modelled(const HostCard& source, const HostCard& destination) {
  const char* const name = "modelled";
  if (!source.modelled && !destination.modelled) {
    return {Level::kOk, name, "both hosts say that their firmware is AMD's"};
  }
  if (!source.modelled) {
    return {Level::kRefuse, name,
            "the destination's firmware is a software model: it would have the guest's keys in the "
            "host's memory, where this host's hardware keeps them from it"};
  }
  return {Level::kWarning, name,
          fmt::format("the firmware of {} is a software model: it protects nothing from the host",
                      destination.modelled ? "both hosts" : "the source")};
}

PlatformFinding judge_nosend(const GuestFacts& guest) {
  if ((guest.policy & kPolicyNoSend) != 0) {
    return {Level::kRefuse, "nosend",
            fmt::format("the guest's policy {:#010x} has NOSEND: its owner lets it go nowhere",
                        guest.policy)};
  }
  return {Level::kOk, "nosend", "the policy lets the guest be sent"};
}

PlatformFinding judge_policy(const GuestFacts& guest, const HostCard& destination) {
  const std::uint32_t reserved = guest.policy & kPolicyReserved;
  if (reserved != 0) {
    return {
        Level::kRefuse, "policy",
        fmt::format("the guest's policy {:#010x} has reserved bits {:#x}, which firmware refuses",
                    guest.policy, reserved)};
  }
  if (destination.expected_policy && *destination.expected_policy != guest.policy) {
    return {Level::kRefuse, "policy",
            fmt::format("the guest's policy is {}, and the destination expects {}",
                        policy_words(guest.policy), policy_words(*destination.expected_policy))};
  }
  return {Level::kOk, "policy", "policy " + policy_words(guest.policy)};
}

PlatformFinding judge_api(const GuestFacts& guest, const HostCard& destination,
                          const SevChain& chain) {
  const Api wanted = api_of(guest.policy);
  const Api firmware{destination.api_major, destination.api_minor};
  const Api pek = api_of(*chain.pek);
  const Api pdh = api_of(*chain.pdh);
  const std::string values =
      fmt::format("its firmware is {} build {}, its PEK says {}, its PDH {}", words_of(firmware),
                  destination.build, words_of(pek), words_of(pdh));
  if (firmware < wanted) {
    return {Level::kRefuse, "api",
            fmt::format("the policy asks for API {} or later at the destination: {}",
                        words_of(wanted), values)};
  }
  if (std::min(pek, pdh) < wanted) {
    return {
        Level::kRefuse, "api",
        fmt::format("the policy asks for API {} or later in the destination's certificates: {}; "
                    "certificates keep the version of the firmware that made them, so make a "
                    "new PEK there (PEK_GEN)",
                    words_of(wanted), values)};
  }
  return {Level::kOk, "api",
          fmt::format("the policy asks the destination for API {} or later: {}", words_of(wanted),
                      values)};
}

bool is_wrong(const ChainLink& link) {
  return link.state == LinkState::kBadForm || link.state == LinkState::kBadSignature;
}

PlatformFinding judge_chain(const GuestFacts& guest, const SevChain& chain) {
  const auto links = verify_chain(chain, ChainScope::kGenuine);
  if ((guest.policy & kPolicySev) == 0) {
    // Nobody asks for AMD's signatures, but one that is wrong is worth a word.
    if (std::any_of(links.begin(), links.end(), is_wrong)) {
      return {Level::kWarning, "chain",
              "the policy asks for no chain to AMD, but the destination's is wrong: " +
                  text_of_bad(links)};
    }
    return {Level::kOk, "chain",
            "the policy asks for no chain to AMD; the destination's PDH is well formed"};
  }
  if (!all_good(links)) {
    return {Level::kRefuse, "chain",
            "the policy has SEV, so the destination must prove that AMD made it: " +
                text_of_bad(links)};
  }
  const std::string_view cpu = known_root(*chain.ark);
  if (cpu.empty()) {
    return {
        Level::kWarning, "chain",
        "the destination's PDH follows from a root key that is none of those AMD has published; "
        "the source's firmware knows only its own"};
  }
  return {Level::kOk, "chain",
          fmt::format("the destination's PDH follows from AMD's root key of {}", cpu)};
}

PlatformFinding judge_domain(const GuestFacts& guest, const SevChain& own, const SevChain& chain) {
  const char* const name = "domain";
  if ((guest.policy & kPolicyDomain) == 0) {
    return {Level::kOk, name, "the policy does not ask for hosts of one owner"};
  }
  const auto links = verify_chain(chain, ChainScope::kDomain);
  if (!all_good(links)) {
    return {Level::kRefuse, name,
            "the policy has DOMAIN, so the destination's owner must vouch for it: " +
                text_of_bad(links)};
  }
  if (!own.oca || own.oca->key != chain.oca->key) {
    return {Level::kRefuse, name,
            "the policy has DOMAIN, and the hosts have different owners: their OCA keys differ; "
            "import one OCA on both (PEK_CERT_IMPORT)"};
  }
  return {Level::kOk, name, "the policy has DOMAIN, and both hosts have the same owner's OCA key"};
}

PlatformFinding judge_es(const HostCard& source, const GuestFacts& guest,
                         const HostCard& destination) {
  const char* const name = "es";
  if (!guest.es && (guest.policy & kPolicyEs) == 0) {
    return {Level::kOk, name, "SEV without ES: the registers travel as those of any guest"};
  }
  if (!guest.es) {
    return {Level::kRefuse, name,
            "the policy has ES, but the guest's registers are not encrypted: the policy and the "
            "guest do not fit"};
  }
  if ((destination.flags & kStatusFlagEs) == 0) {
    return {Level::kRefuse, name,
            fmt::format("the guest is SEV-ES, and the destination's platform is not set up for it "
                        "(flags {:#x})",
                        destination.flags)};
  }
  if (!source.moves_vmsa || !destination.moves_vmsa) {
    const char* const who = source.moves_vmsa        ? "the destination"
                            : destination.moves_vmsa ? "the source"
                                                     : "both hosts";
    return {
        Level::kRefuse, name,
        fmt::format("the guest is SEV-ES, and the kernel of {} cannot move the encrypted "
                    "registers of its {} vCPUs: KVM of today answers EINVAL to SEND_UPDATE_VMSA "
                    "and RECEIVE_UPDATE_VMSA",
                    who, guest.vcpus)};
  }
  return {
      Level::kOk, name,
      fmt::format("SEV-ES: both kernels move the registers of the guest's {} vCPUs", guest.vcpus)};
}

PlatformFinding judge_c_bit(const HostCard& source, const HostCard& destination) {
  const char* const name = "c-bit";
  if (source.c_bit_position != destination.c_bit_position) {
    return {
        Level::kRefuse, name,
        fmt::format("the guest's page tables have the C-bit at {}, the destination has it at {}",
                    source.c_bit_position, destination.c_bit_position)};
  }
  const std::string values =
      fmt::format("physical addresses lose {} bits at the source and {} at the destination",
                  source.phys_addr_reduction, destination.phys_addr_reduction);
  if (destination.phys_addr_reduction > source.phys_addr_reduction) {
    return {Level::kRefuse, name, "the guest may use addresses the destination lacks: " + values};
  }
  if (destination.phys_addr_reduction < source.phys_addr_reduction) {
    return {Level::kWarning, name, values + "; the guest goes on with what it learned at its boot"};
  }
  return {Level::kOk, name,
          fmt::format("both hosts have the C-bit at {}; {}", source.c_bit_position, values)};
}

PlatformFinding judge_memlock(const HostCard& source, const GuestFacts& guest,
                              const HostCard& destination) {
  const char* const name = "memlock";
  const bool wraps = guest.memory_bytes > UINT64_MAX - kMemlockSlackBytes;
  const std::uint64_t wanted = wraps ? UINT64_MAX : guest.memory_bytes + kMemlockSlackBytes;
  for (const auto& [card, who] : {std::pair(&source, "source"), {&destination, "destination"}}) {
    const std::uint64_t limit = card->memlock_limit_bytes;
    if (limit == kMemlockUnlimited || limit >= wanted) continue;
    return {Level::kRefuse, name,
            fmt::format("KVM pins the guest's memory: it takes {} bytes and {} more, and the limit "
                        "of the agent at the {} is {} (RLIMIT_MEMLOCK; ulimit -l)",
                        guest.memory_bytes, kMemlockSlackBytes, who, limit)};
  }
  return {Level::kOk, name, fmt::format("both agents may pin the {} bytes it takes", wanted)};
}

}  // namespace

std::string policy_words(std::uint32_t policy) {
  constexpr std::pair<std::uint32_t, const char*> kBits[] = {
      {kPolicyNoDebug, "NODBG"}, {kPolicyNoKeySharing, "NOKS"}, {kPolicyEs, "ES"},
      {kPolicyNoSend, "NOSEND"}, {kPolicyDomain, "DOMAIN"},     {kPolicySev, "SEV"}};
  std::string text = fmt::format("{:#010x}: ", policy);
  for (const auto& [bit, word] : kBits) {
    if ((policy & bit) != 0) text += fmt::format("{}, ", word);
  }
  if ((policy & kPolicyReserved) != 0)
    text += fmt::format("reserved {:#x}, ", policy & kPolicyReserved);
  return text + fmt::format("API {} or later", words_of(api_of(policy)));
}

PlatformFindings judge(const HostCard& source, const GuestFacts& guest,
                       const HostCard& destination) {
  PlatformFindings out{judge_modelled(source, destination), judge_nosend(guest),
                       judge_policy(guest, destination)};
  const auto chain = parse_chain(destination.pdh, destination.chain, destination.amd_certs);
  if (chain) {
    out.push_back(judge_api(guest, destination, *chain));
    out.push_back(judge_chain(guest, *chain));
    const auto own = parse_chain(source.pdh, source.chain, {});
    out.push_back(judge_domain(guest, own ? *own : SevChain{}, *chain));
  } else {
    out.push_back({Level::kRefuse, "api", "the destination's certificates cannot be read"});
    out.push_back({Level::kRefuse, "chain", chain.error().detail});
    out.push_back({Level::kRefuse, "domain", "the destination's owner cannot be read"});
  }
  out.push_back(judge_es(source, guest, destination));
  out.push_back(judge_c_bit(source, destination));
  out.push_back(judge_memlock(source, guest, destination));
  return out;
}

std::string text_of(const PlatformFindings& findings) {
  std::string text;
  for (const PlatformFinding& finding : findings) {
    text += fmt::format("{:<8} {}: {}\n", name_of(finding.level), finding.name, finding.text);
  }
  return text;
}

}  // namespace sealift::sev
