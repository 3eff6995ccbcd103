// GuestContext: what the modelled firmware keeps for one guest.
//
// Owner: Firmware, by handle. Threads: under the mailbox mutex. Failure: none.
// Invariants
//   I1  `packets` exists exactly in SEND_UPDATE and RECEIVE_UPDATE; `launch` exactly in the two
//       LAUNCH states. Leaving those states erases the keys (erase_channel()).
//   I2  `asid` is 0 or an ASID whose key slot holds `memory`.
//   I3  `launch_digest` exists once LAUNCH_MEASURE has run here; it does not travel.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "vmm_glue/abi/sev_abi.h"
#include "vmm_glue/model/sev/memory_cipher.h"
#include "vmm_glue/sev/crypto.h"

namespace sealift::sev {

struct LaunchContext {
  Block tik{};  // of the guest owner's session, or random where there is none
  std::unique_ptr<PacketCipher> secrets;  // null without a session: nobody can send a secret
  Sha256 digest;
  Digest measure{};  // once measured

  ~LaunchContext() { erase_secret(tik); }
};

struct GuestContext {
  std::uint32_t handle = 0;
  std::uint32_t policy = 0;
  std::uint32_t asid = 0;
  GuestState state = GuestState::kUninit;
  std::shared_ptr<const MemoryCipher> memory;
  std::unique_ptr<PacketCipher> packets;
  std::unique_ptr<LaunchContext> launch;
  std::optional<Digest> launch_digest;

  void erase_channel() {
    packets.reset();
    launch.reset();
  }
};

}  // namespace sealift::sev
