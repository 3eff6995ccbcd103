// MemoryController: the modelled host's physical memory and the key slots of its ASIDs.
//
// MODEL CHOICE: a host byte at virtual address V has system physical address V + base, where `base`
// is random for each host and above 2^47, so that addresses of two hosts differ and none is a plain
// pointer; bit 51 is the C-bit. Memory exists for the firmware only where some VM has registered
// it.
//
// Owner:   one SoftSevHost. Threads: any, at once; its own lock is never held while bytes are
//          ciphered and is not the mailbox's. Failure: see each call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <shared_mutex>
#include <vector>

#include "engine/types.h"
#include "vmm_glue/model/sev/memory_cipher.h"
#include "vmm_glue/private_memory.h"
#include "vmm_glue/sev/random.h"

namespace sealift::sev {

inline constexpr std::uint64_t kCBit = 1ULL << 51;

class MemoryController {
 public:
  // ASIDs are 1..asids.
  MemoryController(RandomSource& random, std::uint32_t asids);

  // One range may be registered more than once, and is forgotten as often.
  void add_region(std::uint64_t address, std::uint64_t bytes);
  void remove_region(std::uint64_t address, std::uint64_t bytes);  // REQUIRES: added before

  std::uint64_t physical(const std::byte* host) const;
  // Null when any byte of the range is outside registered memory.
  std::byte* host(std::uint64_t spa, std::uint64_t bytes) const;

  void load_key(std::uint32_t asid, std::shared_ptr<const MemoryCipher> key);
  void drop_key(std::uint32_t asid);

  // What a vCPU of this ASID sees through its C-bit mapping. Asserts when the ASID has no key or
  // when the address is outside registered memory: a modelled vCPU has no business there.
  void load(std::uint32_t asid, const std::byte* host, MutableBytes out) const;
  void store(std::uint32_t asid, std::byte* host, ByteView in) const;

 private:
  struct Region {
    std::uint64_t first = 0;
    std::uint64_t end = 0;
    friend bool operator==(const Region&, const Region&) = default;
  };
  bool is_registered(std::uint64_t address, std::uint64_t bytes) const;
  std::shared_ptr<const MemoryCipher> key_for(std::uint32_t asid, std::uint64_t address,
                                              std::uint64_t bytes) const;

  std::uint64_t base_ = 0;  // constant after construction
  mutable std::shared_mutex mutex_;
  std::vector<Region> regions_;                            // guarded by mutex_
  std::vector<std::shared_ptr<const MemoryCipher>> keys_;  // by ASID, guarded by mutex_
};

// A guest's memory through its own key. Threads and failure: as PrivateMemory says.
class GuestView final : public PrivateMemory {
 public:
  GuestView(const MemoryController& memory, std::uint32_t asid) : memory_(memory), asid_(asid) {}
  void load(const std::byte* host, MutableBytes out) const override {
    memory_.load(asid_, host, out);
  }
  void store(std::byte* host, ByteView in) override { memory_.store(asid_, host, in); }

 private:
  const MemoryController& memory_;
  const std::uint32_t asid_;
};

}  // namespace sealift::sev
