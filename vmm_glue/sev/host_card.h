// HostCard: what a SEV host says of itself before anything moves. Public values only.
//
// Spec:    docs/spec/wire.md, "SEV host card", version 1.
// Plain values: no ownership, no threads. Failure: read_host_card() is kLocalFault; a card with
// another version, or whose lengths do not fit, gives kMalformed before anything is copied. The
// certificates in it are not looked at: verdict.h does.
#pragma once

#include <cstdint>
#include <optional>

#include "engine/result.h"
#include "engine/types.h"
#include "vmm_glue/abi/sev_abi.h"
#include "vmm_glue/sev/command.h"

namespace sealift::sev {

inline constexpr std::uint32_t kHostCardVersion = 1;
inline constexpr std::size_t kHostCardHeaderBytes = 40;
inline constexpr std::uint64_t kMemlockUnlimited = UINT64_MAX;

struct HostCard {
  std::uint8_t api_major = 0;  // PLATFORM_STATUS
  std::uint8_t api_minor = 0;
  std::uint8_t build = 0;
  std::uint32_t flags = 0;                // kStatusFlagExternallyOwned, kStatusFlagEs
  std::uint8_t c_bit_position = 0;        // CPUID 0x8000001f EBX[5:0]
  std::uint8_t phys_addr_reduction = 0;   // CPUID 0x8000001f EBX[11:6], bits
  std::uint64_t memlock_limit_bytes = 0;  // kMemlockUnlimited also with CAP_IPC_LOCK
  bool moves_vmsa = false;                // the kernel has SEND_ and RECEIVE_UPDATE_VMSA
  bool modelled = false;                  // the firmware is software
  // The policy it takes a guest with; another one would be refused at the start. Empty: any.
  std::optional<std::uint32_t> expected_policy;
  Bytes pdh;        // kCertificateBytes
  Bytes chain;      // kChainBytes: PEK, OCA, CEK
  Bytes amd_certs;  // ASK, ARK; may be empty
  friend bool operator==(const HostCard&, const HostCard&) = default;
};
// REQUIRES: the lengths named above, amd_certs at most kFirmwareBlobBytesMax.
Bytes encode(const HostCard& card);
Result<HostCard> decode_host_card(ByteView bytes);

// Versions, flags and certificates as the firmware gives them, and what this process may pin. The
// rest is the caller's: what CPUID says, moves_vmsa, modelled, AMD's certificates and a CEK that
// AMD has signed.
Result<HostCard> read_host_card(const SevVm& vm);

}  // namespace sealift::sev
