// SevChain: the certificates between AMD's root and a platform's PDH, and whether each follows from
// the one above.
//
//     ARK -> ASK -> CEK -> PEK -> PDH      genuine: AMD made the chip
//                   OCA -> PEK -> PDH      domain: the owner of the host vouches for it
//
// Spec:    certificate.h and amd_certificate.h. PDH_CERT_EXPORT gives PEK, OCA, CEK one after the
//          other; AMD publishes ASK, ARK (AMD sev-tool, virtee/sev). The SHA-256 of AMD's five
//          roots are of the files in virtee/sev.
// Plain values: no ownership, no threads. Failure: bytes of others that are no certificates give
// kPolicy; a link that does not hold is a result, with the reason in words.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "engine/result.h"
#include "engine/types.h"
#include "vmm_glue/sev/amd_certificate.h"
#include "vmm_glue/sev/certificate.h"

namespace sealift::sev {

// What is not there is a link that is missing, not an error.
struct SevChain {
  std::optional<AmdCertificate> ark;
  std::optional<AmdCertificate> ask;
  std::optional<SevCertificate> cek;
  std::optional<SevCertificate> pek;
  std::optional<SevCertificate> oca;
  std::optional<SevCertificate> pdh;

  bool has(KeyUsage usage) const;
};

using Certificate = std::variant<SevCertificate, AmdCertificate>;
KeyUsage usage_of(const Certificate& certificate);

// One certificate or several of both formats, one after the other and nothing else.
inline constexpr std::size_t kCertificatesBytesMax = 64u << 10;
Result<std::vector<Certificate>> parse_certificates(ByteView bytes);

// Puts a certificate in its place. kPolicy when another one of the kind is there already.
Result<void> add_to(SevChain& chain, const Certificate& certificate);

// What a host exports: the PDH; PEK, OCA and CEK; ASK and ARK, or nothing. Each in its order.
Result<SevChain> parse_chain(ByteView pdh, ByteView platform_chain, ByteView amd_certs);

enum class LinkState : std::uint8_t {
  kGood,
  kMissing,       // one of the two was not given
  kUnsigned,      // the child has no signature at all, as a CEK that comes from the firmware
  kBadForm,       // INVALID_CERTIFICATE to the firmware
  kBadSignature,  // BAD_SIGNATURE to the firmware
};
const char* name_of(LinkState state);

struct ChainLink {
  KeyUsage child = KeyUsage::kNone;
  KeyUsage parent = KeyUsage::kNone;
  LinkState state = LinkState::kMissing;
  std::string text;  // one line for people: which link, and why
};

enum class ChainScope : std::uint8_t {
  kDomain,   // OCA signs itself and the PEK, the PEK signs the PDH
  kGenuine,  // ARK, ASK, CEK, PEK, PDH
  kAll,      // both
};
// Every link of `scope`, from the roots down. An unknown root is said in the ARK's text and does
// not make the link bad: known_root() tells.
std::vector<ChainLink> verify_chain(const SevChain& chain, ChainScope scope);

bool all_good(const std::vector<ChainLink>& links);
// The texts of the links that are not good, joined by "; ".
std::string text_of_bad(const std::vector<ChainLink>& links);

// The CPU generation whose root key this is ("Milan"), empty for a root that AMD has not published.
std::string_view known_root(const AmdCertificate& ark);

}  // namespace sealift::sev
