// MemoryCipher: one memory key of the modelled memory controller, AES-128 in XEX mode.
//
// A 16-byte block at system physical address A is E1(plain ^ T) ^ T with T = E2(A): the same bytes
// at another address, or under another key, decrypt to garbage. MODEL CHOICE: AMD publishes neither
// mode nor tweak of its DRAM encryption; any tweakable cipher shows software the same behaviour.
// With `encrypts` false the cipher is the identity. That is for a model beside a real KVM guest,
// whose memory no engine encrypts: such a run proves nothing about pages that travel the wrong way.
//
// Owner:   shared; the key is erased when its last user goes.
// Threads: any, at once; no lock is held across a page. Blocks that are partly written are read,
//          changed and written again, so two writers of one block may lose one write
//          (private_memory.h allows it).
// Failure: none. REQUIRES: addresses and sizes are multiples of 8; `spa` is the address of `host`,
//          and whole 16-byte blocks around the range may be touched.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "engine/types.h"
#include "vmm_glue/sev/random.h"

namespace sealift::sev {

class MemoryCipher {
 public:
  static constexpr std::size_t kBlockBytes = 16;

  MemoryCipher(RandomSource& random, bool encrypts);
  ~MemoryCipher();
  MemoryCipher(const MemoryCipher&) = delete;
  MemoryCipher& operator=(const MemoryCipher&) = delete;

  void load(std::uint64_t spa, const std::byte* host, MutableBytes out) const;
  void store(std::uint64_t spa, std::byte* host, ByteView in) const;

 private:
  struct Slot;
  class SlotLease;
  std::unique_ptr<Slot[]> slots_;  // null: the identity
};

}  // namespace sealift::sev
