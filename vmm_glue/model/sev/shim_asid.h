// AsidPool: which ASIDs of the host KVM has given out.
//
// Spec:    Linux arch/x86/kvm/svm/sev.c (sev_asid_new, sev_asid_free): SEV-ES guests take the
// lowest
//          free one below `sev_min`, others from it up. One that was given back is reused only
//          after WBINVD and DF_FLUSH, which happen when a range has no other left, and free all
//          that were given back.
// Owner:   one KvmShim. Threads: the host's mailbox mutex is held. Failure: nullopt, all in use.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

namespace sealift::sev {

class AsidPool {
 public:
  // `flush` is WBINVD and DF_FLUSH; false is failure. ASIDs are 1..asids.
  AsidPool(std::uint32_t asids, std::uint32_t sev_min, std::function<bool()> flush);

  std::optional<std::uint32_t> take(bool es);
  void give_back(std::uint32_t asid);  // REQUIRES: taken
  std::uint64_t in_use() const;

 private:
  enum class Use : std::uint8_t { kFree, kTaken, kUnflushed };
  struct Range {
    std::uint32_t first = 0;
    std::uint32_t end = 0;
  };
  std::optional<std::uint32_t> find(const Range& range, Use use) const;
  bool reclaim(const Range& range);

  std::uint32_t sev_min_ = 0;
  std::function<bool()> flush_;
  std::vector<Use> uses_;  // by ASID; [0] is never given out
};

}  // namespace sealift::sev
