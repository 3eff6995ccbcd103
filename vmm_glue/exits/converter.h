// Converter: what an accepted page-state announcement does to a VM. Every exit decoder ends here,
// so that the page map, the dirty set and the platform change together or not at all.
//
// Owner:   the VMM; outlives the vCPUs.
// Threads: any vCPU thread; conversions exclude each other.
// Failure: kLater and kFailed say that nothing changed; the decoder tells the guest in its own way.
// Invariants:
//   I1  After kDone the page map has the new class, the whole range is in the dirty set, and the
//       platform's attributes agree. After any other answer all three are as before.
//   I2  The decoder has checked that the range is RAM.
//   I3  Converting pages to the class they have changes nothing but the dirty set.
#pragma once

#include <cstdint>
#include <functional>
#include <utility>

#include "engine/dirty_set.h"
#include "engine/page_map.h"
#include "engine/private_path.h"
#include "engine/types.h"

namespace sealift {

enum class Converted : std::uint8_t {
  kDone = 0,
  kLater = 1,    // the guest is to ask again (PrivateExporter::may_convert)
  kFailed = 2,   // the platform refused
  kAlready = 3,  // settle() only: every page had the class
};

// Asked before anything changes: PrivateExporter::may_convert() of a migration that is under way.
// Empty: always kNow.
using ConvertGate = std::function<ConvertVerdict(GfnRange range, PageClass wish)>;

class Converter {
 public:
  virtual ~Converter() = default;
  virtual Converted convert(GfnRange range, PageClass cls) = 0;
  // convert() unless every page of the range has the class. For an access that found the other
  // class: another vCPU may have converted since, and the two look at the map one after the other.
  // A converter that does not look converts: harmless by I3.
  virtual Converted settle(GfnRange range, PageClass cls) { return convert(range, cls); }
};

inline bool all_pages_are(const PageMap& map, GfnRange range, PageClass cls) {
  for (std::uint64_t i = 0; i < range.pages; ++i) {
    if (map.class_of(range.first + i) != cls) return false;
  }
  return true;
}

// SEV and SEV-ES: the platform asks nothing of the VMM, so bookkeeping is all there is, and a new
// one may be made for each call.
class MapConverter final : public Converter {
 public:
  MapConverter(PageMap& map, DirtySet& dirty, ConvertGate gate = {})
      : map_(map), dirty_(dirty), gate_(std::move(gate)) {}
  Converted convert(GfnRange range, PageClass cls) override {
    if (gate_ && gate_(range, cls) == ConvertVerdict::kLater) return Converted::kLater;
    convert_pages(map_, dirty_, range, cls);
    return Converted::kDone;
  }
  Converted settle(GfnRange range, PageClass cls) override {
    if (all_pages_are(map_, range, cls)) return Converted::kAlready;
    return convert(range, cls);
  }

 private:
  PageMap& map_;
  DirtySet& dirty_;
  ConvertGate gate_;
};

}  // namespace sealift
