// Each rule of the verdict by name: what makes it refuse, warn and agree, and what it says.
#include "vmm_glue/sev/verdict.h"

#include <gtest/gtest.h>

#include <functional>

#include "vmm_glue/sev/test_certificates.h"
#include "vmm_glue/sev/test_support.h"

namespace sealift::sev {
namespace {

using Level = PlatformFinding::Level;

HostCard card_of(const MadeChain& made) {
  HostCard card;
  card.api_minor = 24;
  card.build = 7;
  card.flags = kStatusFlagEs;
  card.c_bit_position = 51;
  card.phys_addr_reduction = 5;
  card.memlock_limit_bytes = kMemlockUnlimited;
  card.moves_vmsa = true;
  card.pdh = made.pdh_bytes();
  card.chain = made.platform_bytes();
  card.amd_certs = made.amd_bytes();
  return card;
}

Bytes real_chain_file(const std::string& cpu) {
  return joined(
      {real_file(cpu + "-pek.cert"), real_file(cpu + "-oca.cert"), real_file(cpu + "-cek.cert")});
}

// Two hosts that fit, and a guest that may go from one to the other.
struct Scene {
  MadeChain here;
  MadeChain there;
  GuestFacts guest{
      .policy = kPolicyNoDebug | 24u << 24, .memory_bytes = 1u << 30, .vcpus = 4, .es = false};
  HostCard source = card_of(here);
  HostCard destination = card_of(there);
};

const PlatformFinding& named(const PlatformFindings& findings, const std::string& name) {
  for (const PlatformFinding& finding : findings) {
    if (finding.name == name) return finding;
  }
  ADD_FAILURE() << name;
  return findings.front();
}

struct Case {
  const char* what;
  const char* name;  // the finding that is asked for
  Level level;
  const char* says;  // part of its text
  std::function<void(Scene&)> change;
};

void same_owner(Scene& s) {
  s.there.own(s.here.oca_key);
  s.destination = card_of(s.there);
  s.guest.policy |= kPolicyDomain;
}
void make_es(Scene& s) {
  s.guest.es = true;
  s.guest.policy |= kPolicyEs;
}
void unsign_cek(Scene& s) {
  s.there.cek.slots = {};
  s.destination = card_of(s.there);
}
void break_pdh(Scene& s) {
  s.there.pdh.api_minor ^= 0x40;
  s.destination = card_of(s.there);
}

const Case kCases[] = {
    {"both real", "modelled", Level::kOk, "both hosts", [](Scene&) {}},
    {"both modelled", "modelled", Level::kWarning, "of both hosts is a software model",
     [](Scene& s) { s.source.modelled = s.destination.modelled = true; }},
    {"from a model to hardware", "modelled", Level::kWarning, "of the source is a software model",
     [](Scene& s) { s.source.modelled = true; }},
    {"from hardware to a model", "modelled", Level::kRefuse, "the destination's firmware is a soft",
     [](Scene& s) { s.destination.modelled = true; }},

    {"may be sent", "nosend", Level::kOk, "lets the guest be sent", [](Scene&) {}},
    {"NOSEND", "nosend", Level::kRefuse, "policy 0x18000009 has NOSEND",
     [](Scene& s) { s.guest.policy |= kPolicyNoSend; }},

    {"policy in words", "policy", Level::kOk, "policy 0x18000001: NODBG, API 0.24 or later",
     [](Scene&) {}},
    {"reserved bits", "policy", Level::kRefuse, "reserved bits 0x40",
     [](Scene& s) { s.guest.policy |= 0x40; }},

    {"equal versions", "api", Level::kOk, "its firmware is 0.24 build 7, its PEK says 0.24",
     [](Scene&) {}},
    {"firmware too old", "api", Level::kRefuse, "API 0.24 or later at the destination",
     [](Scene& s) { s.destination.api_minor = 23; }},
    {"a newer major version", "api", Level::kOk, "",
     [](Scene& s) { s.destination.api_major = 1, s.destination.api_minor = 0; }},
    {"major counts before minor", "api", Level::kRefuse, "API 1.0",
     [](Scene& s) { s.guest.policy = 1u << 16; }},
    {"old PEK", "api", Level::kRefuse, "make a new PEK there",
     [](Scene& s) {
       s.there.own(s.there.oca_key, 23, 24);
       s.destination = card_of(s.there);
     }},
    {"old PDH", "api", Level::kRefuse, "its PDH 0.23",
     [](Scene& s) {
       s.there.own(s.there.oca_key, 24, 23);
       s.destination = card_of(s.there);
     }},
    {"unreadable certificates", "api", Level::kRefuse, "cannot be read",
     [](Scene& s) { s.destination.chain[0] ^= std::byte{1}; }},

    {"no chain asked for", "chain", Level::kOk, "asks for no chain", [](Scene&) {}},
    {"no chain asked for or given", "chain", Level::kOk, "asks for no chain",
     [](Scene& s) { s.destination.amd_certs.clear(); }},
    {"no chain asked for, unsigned CEK", "chain", Level::kOk, "asks for no chain", unsign_cek},
    {"no chain asked for, a wrong one", "chain", Level::kWarning,
     "PDH signed by PEK: the signature", break_pdh},
    {"unreadable PDH", "chain", Level::kRefuse,
     "The PDH certificate's key is not a point on P-384.",
     [](Scene& s) { s.destination.pdh[20] ^= std::byte{1}; }},
    {"not a PDH", "chain", Level::kRefuse, "The PDH has the certificates PEK",
     [](Scene& s) { s.destination.pdh = bytes_of(s.there.pek); }},
    {"SEV, root of our own", "chain", Level::kWarning, "none of those AMD has published",
     [](Scene& s) { s.guest.policy |= kPolicySev; }},
    {"SEV, unsigned CEK", "chain", Level::kRefuse, "kdsintf.amd.com",
     [](Scene& s) {
       s.guest.policy |= kPolicySev;
       unsign_cek(s);
     }},
    {"SEV, no AMD certificates", "chain", Level::kRefuse, "no ARK certificate",
     [](Scene& s) {
       s.guest.policy |= kPolicySev;
       s.destination.amd_certs.clear();
     }},
    {"SEV, wrong PDH", "chain", Level::kRefuse, "PDH signed by PEK: the signature is wrong",
     [](Scene& s) {
       s.guest.policy |= kPolicySev;
       break_pdh(s);
     }},
    {"SEV, a real platform", "chain", Level::kOk, "AMD's root key of Rome",
     [](Scene& s) {
       s.guest.policy |= kPolicySev;
       s.destination.pdh = real_file("rome-pdh.cert");
       s.destination.chain = real_chain_file("rome");
       s.destination.amd_certs = joined({real_file("rome-ask.cert"), real_file("rome-ark.cert")});
     }},

    {"no domain asked for", "domain", Level::kOk, "does not ask", [](Scene&) {}},
    {"one owner", "domain", Level::kOk, "the same owner", same_owner},
    {"two owners", "domain", Level::kRefuse, "import one OCA on both",
     [](Scene& s) { s.guest.policy |= kPolicyDomain; }},
    {"one owner, wrong PDH", "domain", Level::kRefuse, "PDH signed by PEK: the signature is wrong",
     [](Scene& s) {
       same_owner(s);
       break_pdh(s);
     }},
    {"one owner, own chain unreadable", "domain", Level::kRefuse, "OCA keys differ",
     [](Scene& s) {
       same_owner(s);
       s.source.chain[0] ^= std::byte{1};
     }},
    {"unreadable owner", "domain", Level::kRefuse, "cannot be read",
     [](Scene& s) { s.destination.chain[0] ^= std::byte{1}; }},

    {"plain SEV", "es", Level::kOk, "SEV without ES",
     [](Scene& s) { s.source.moves_vmsa = s.destination.moves_vmsa = false; }},
    {"SEV-ES", "es", Level::kOk, "4 vCPUs", make_es},
    {"SEV-ES without its policy bit", "es", Level::kOk, "", [](Scene& s) { s.guest.es = true; }},
    {"the bit without SEV-ES", "es", Level::kRefuse, "do not fit",
     [](Scene& s) { s.guest.policy |= kPolicyEs; }},
    {"a platform without ES", "es", Level::kRefuse, "not set up for it (flags 0x1)",
     [](Scene& s) {
       make_es(s);
       s.destination.flags = kStatusFlagExternallyOwned;
     }},
    {"the source's kernel", "es", Level::kRefuse, "the kernel of the source cannot",
     [](Scene& s) {
       make_es(s);
       s.source.moves_vmsa = false;
     }},
    {"the destination's kernel", "es", Level::kRefuse, "the kernel of the destination cannot",
     [](Scene& s) {
       make_es(s);
       s.destination.moves_vmsa = false;
     }},
    {"KVM of today", "es", Level::kRefuse, "answers EINVAL to SEND_UPDATE_VMSA",
     [](Scene& s) {
       make_es(s);
       s.source.moves_vmsa = s.destination.moves_vmsa = false;
     }},

    {"one C-bit", "c-bit", Level::kOk, "C-bit at 51", [](Scene&) {}},
    {"two generations", "c-bit", Level::kRefuse, "at 47, the destination has it at 51",
     [](Scene& s) { s.source.c_bit_position = 47; }},
    {"fewer addresses there", "c-bit", Level::kRefuse, "5 bits at the source and 6 at the dest",
     [](Scene& s) { s.destination.phys_addr_reduction = 6; }},
    {"more addresses there", "c-bit", Level::kWarning, "learned at its boot",
     [](Scene& s) { s.destination.phys_addr_reduction = 4; }},

    {"no limit", "memlock", Level::kOk, "1073745920 bytes", [](Scene&) {}},
    {"just enough", "memlock", Level::kOk, "",
     [](Scene& s) {
       s.source.memlock_limit_bytes = s.destination.memlock_limit_bytes =
           s.guest.memory_bytes + kMemlockSlackBytes;
     }},
    {"one byte less there", "memlock", Level::kRefuse, "at the destination is 1073745919",
     [](Scene& s) {
       s.destination.memlock_limit_bytes = s.guest.memory_bytes + kMemlockSlackBytes - 1;
     }},
    {"one byte less here", "memlock", Level::kRefuse, "at the source is 1073745919",
     [](Scene& s) {
       s.source.memlock_limit_bytes = s.guest.memory_bytes + kMemlockSlackBytes - 1;
     }},
    {"a number that would wrap", "memlock", Level::kRefuse, "18446744073709551615 bytes",
     [](Scene& s) {
       s.guest.memory_bytes = UINT64_MAX;
       s.destination.memlock_limit_bytes = 1u << 20;
     }},
};

TEST(SevVerdict, EveryRule) {
  for (const Case& one : kCases) {
    Scene scene;
    one.change(scene);
    const PlatformFindings findings = judge(scene.source, scene.guest, scene.destination);
    const PlatformFinding& finding = named(findings, one.name);
    EXPECT_EQ(finding.level, one.level) << one.what << ": " << finding.text;
    EXPECT_NE(finding.text.find(one.says), std::string::npos) << one.what << ": " << finding.text;
    EXPECT_EQ(finding.text.find('\n'), std::string::npos);
    if (one.level == Level::kRefuse) {
      EXPECT_TRUE(refuses(findings)) << one.what;
    }
  }
}

// A rule refuses for its own reason only: each case that refuses by one name leaves the others be.
TEST(SevVerdict, OneReasonDoesNotBecomeAnother) {
  for (const Case& one : kCases) {
    Scene scene;
    one.change(scene);
    for (const PlatformFinding& finding : judge(scene.source, scene.guest, scene.destination)) {
      const std::string name = finding.name;
      const bool certificates = name == "api" || name == "chain" || name == "domain";
      const std::string asked = one.name;
      const bool related = asked == "api" || asked == "chain" || asked == "domain";
      if (finding.level == Level::kRefuse && name != asked) {
        EXPECT_TRUE(certificates && related) << one.what << ": " << name << " " << finding.text;
      }
    }
  }
}

TEST(SevVerdict, NamesComeOnceAndInOrder) {
  const std::vector<std::string> order = {"modelled", "nosend", "policy", "api",    "chain",
                                          "domain",   "es",     "c-bit",  "memlock"};
  for (const bool readable : {true, false}) {
    Scene scene;
    if (!readable) scene.destination.pdh.clear();
    std::vector<std::string> names;
    const auto findings = judge(scene.source, scene.guest, scene.destination);
    for (const PlatformFinding& finding : findings) names.push_back(finding.name);
    EXPECT_EQ(names, order);
    EXPECT_EQ(refuses(findings), !readable);
  }
}

TEST(SevVerdict, TextHasALineForEach) {
  const Scene scene;
  const std::string text = text_of(judge(scene.source, scene.guest, scene.destination));
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 9);
  EXPECT_NE(text.find("ok       nosend: the policy lets the guest be sent\n"), std::string::npos);
}

TEST(SevVerdict, PolicyInWords) {
  EXPECT_EQ(policy_words(0), "0x00000000: API 0.0 or later");
  EXPECT_EQ(policy_words(0x3301007f),
            "0x3301007f: NODBG, NOKS, ES, NOSEND, DOMAIN, SEV, reserved 0x40, API 1.51 or later");
}

}  // namespace
}  // namespace sealift::sev
