// GmemConverter: conversions of guests whose private memory is a guest_memfd (SNP, TDX): attributes
// first, then the side that is no longer used goes back to the host, then the page map.
//
// Spec:    Linux Documentation/virt/kvm/api.rst (KVM_SET_MEMORY_ATTRIBUTES), madvise(2),
//          fallocate(2) on a guest_memfd: mode PUNCH_HOLE | KEEP_SIZE only.
// Owner:   the VMM; map, dirty set, HostIoctl and MemoryDiscard outlive it; so do memory and files.
// Threads: any; one conversion at a time, the gate's question included.
// Failure: kFailed for attributes that KVM refused: nothing changed. Memory that could not be
//          discarded is twice there but never wrong: the conversion is done all the same, and
//          counters() says so.
// Invariants: those of Converter, and:
//   I4  Nothing is discarded before KVM_SET_MEMORY_ATTRIBUTES has succeeded, so no vCPU ever
//       reaches a side that is being taken away; the map changes last, under the same mutex.
//   I5  Devices are not told: a VMM that passes devices through unmaps the shared pages before it
//       calls, and maps them after it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "engine/result.h"
#include "vmm_glue/exits/converter.h"
#include "vmm_glue/host_ioctl.h"

namespace sealift {

// What gives memory back to the host. 0, or -errno.
class MemoryDiscard {
 public:
  virtual ~MemoryDiscard() = default;
  virtual int advise(std::byte* at, std::uint64_t bytes, int advice) = 0;         // madvise(2)
  virtual int punch_hole(int fd, std::uint64_t offset, std::uint64_t bytes) = 0;  // fallocate(2)
};

class KernelDiscard final : public MemoryDiscard {
 public:
  int advise(std::byte* at, std::uint64_t bytes, int advice) override;
  int punch_hole(int fd, std::uint64_t offset, std::uint64_t bytes) override;
};

// What is mapped at the shared side of a slot, which decides how it is given back.
enum class SharedBacking : std::uint8_t {
  kPrivateAnonymous,  // MADV_DONTNEED
  kSharedAnonymous,   // MADV_REMOVE
  kFile,              // a hole in shared_fd (a memfd, a file)
  kPreallocated,      // stays: hugetlb pages that were reserved for it
};

struct GmemSlot {
  std::uint32_t slot = 0;
  GfnRange range;
  SharedBacking backing = SharedBacking::kPrivateAnonymous;
  std::byte* shared = nullptr;      // where range.first is mapped
  int shared_fd = -1;               // kFile
  std::uint64_t shared_offset = 0;  // kFile: of range.first in it, bytes
  int guest_memfd = -1;
  std::uint64_t guest_memfd_offset = 0;  // of range.first in it, bytes
};

struct GmemCounters {
  std::uint64_t conversions = 0;
  std::uint64_t refused_attributes = 0;  // by KVM
  std::uint64_t failed_discards = 0;
  std::string last_error;  // of either kind; empty if there was none
};

class GmemConverter final : public Converter {
 public:
  struct Parts {
    HostIoctl& io;
    int vm_fd;
    MemoryDiscard& discard;
    PageMap& map;
    DirtySet& dirty;
    ConvertGate gate;
  };
  // kUsage for slots that are empty, unaligned, overlap, or lie outside the map.
  static Result<std::unique_ptr<GmemConverter>> make(Parts parts, std::vector<GmemSlot> slots);

  // A range may cover several slots that touch; kFailed if any page of it is in none.
  Converted convert(GfnRange range, PageClass cls) override;
  Converted settle(GfnRange range, PageClass cls) override;

  // Gives KVM the classes of the whole map. Before the guest first runs: KVM begins with everything
  // shared and the map with everything private, or with what a source sent.
  Result<void> apply_map();

  GmemCounters counters() const;

 private:
  struct Piece {
    const GmemSlot* slot;
    GfnRange range;
  };
  GmemConverter(Parts parts, std::vector<GmemSlot> slots)
      : parts_(std::move(parts)), slots_(std::move(slots)) {}
  std::vector<Piece> pieces_of(GfnRange range) const;
  Converted convert_locked(GfnRange range, PageClass cls);
  void discard_other_side(const Piece& piece, PageClass now);
  int discard_shared(const GmemSlot& slot, std::uint64_t at_bytes, std::uint64_t bytes);

  Parts parts_;
  std::vector<GmemSlot> slots_;  // ascending
  mutable std::mutex mutex_;
  GmemCounters counters_;
};

}  // namespace sealift
