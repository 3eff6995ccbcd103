// SharedBytes: the shared pages of a VM's RAM, for the exit decoders.
//
// Owner:   the VM, with all it refers to. Threads, Failure: as GuestBytes.
#pragma once

#include "engine/dirty_set.h"
#include "engine/memory_layout.h"
#include "engine/page_map.h"
#include "vmm_glue/exits/guest_bytes.h"
#include "vmm_glue/vmm/guest_memory.h"

namespace sealift {

class SharedBytes final : public GuestBytes {
 public:
  SharedBytes(const GuestMemory& memory, const MemoryLayout& layout, const PageMap& map,
              DirtySet& dirty)
      : memory_(memory), layout_(layout), map_(map), dirty_(dirty) {}
  bool read(Gpa gpa, MutableBytes out) const override;
  bool write(Gpa gpa, ByteView in) override;

 private:
  bool is_shared_ram(Gpa gpa, std::size_t bytes) const;

  const GuestMemory& memory_;
  const MemoryLayout& layout_;
  const PageMap& map_;
  DirtySet& dirty_;
};

}  // namespace sealift
