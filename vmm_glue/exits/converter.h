// Converter: what an accepted page-state announcement does to a VM. Every exit decoder ends here, so
// that the page map, the dirty set and the platform change together or not at all.
//
// Owner:   the VMM; outlives the vCPUs.
// Threads: any vCPU thread; conversions exclude each other.
// Failure: kFailed says that nothing changed; the decoder tells the guest in its own way.
// Invariants:
//   I1  After kDone the page map has the new class, the whole range is in the dirty set, and the
//       platform's attributes agree. After any other answer all three are as before.
//   I2  The decoder has checked that the range is RAM.
#pragma once

#include <cstdint>

#include "engine/dirty_set.h"
#include "engine/page_map.h"
#include "engine/types.h"

namespace sealift {

enum class Converted : std::uint8_t {
  kDone = 0,
  kLater = 1,   // the guest is to ask again (PrivateExporter::may_convert)
  kFailed = 2,  // the platform refused
};

class Converter {
 public:
  virtual ~Converter() = default;
  virtual Converted convert(GfnRange range, PageClass cls) = 0;
};

// SEV and SEV-ES: the platform asks nothing of the VMM, so bookkeeping is all there is.
class MapConverter final : public Converter {
 public:
  MapConverter(PageMap& map, DirtySet& dirty) : map_(map), dirty_(dirty) {}
  Converted convert(GfnRange range, PageClass cls) override {
    convert_pages(map_, dirty_, range, cls);
    return Converted::kDone;
  }

 private:
  PageMap& map_;
  DirtySet& dirty_;
};

}  // namespace sealift
