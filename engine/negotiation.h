// Negotiation: whether two Hellos fit together. Pure functions, the same on both sides, so that
// `migrate check`, the source and the destination give the same answer. Rules: docs/spec/wire.md,
// "Negotiation".
#pragma once

#include "engine/memory_layout.h"
#include "engine/records.h"
#include "engine/result.h"

namespace sealift {

struct Negotiated {
  std::uint16_t version = 0;
  std::uint64_t features = 0;
  std::uint32_t batch_pages_max = 0;
  std::uint8_t streams = 1;
};

// kMalformed for a Hello no honest peer sends; kRefused, naming both values, for one that does not
// fit.
Result<Negotiated> negotiate(const Hello& local, const Hello& peer);

}  // namespace sealift
