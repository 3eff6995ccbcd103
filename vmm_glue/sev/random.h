// RandomSource: where keys, nonces and IVs come from. A test or a simulation passes its own.
//
// Owner: the caller; outlives its user. Threads: one caller at a time. Failure: none; a system that
// has no random numbers cannot protect a guest, so SystemRandom asserts.
#pragma once

#include "engine/types.h"

namespace sealift::sev {

class RandomSource {
 public:
  virtual ~RandomSource() = default;
  virtual void fill(MutableBytes out) = 0;
};

// OpenSSL's generator. Threads: any.
class SystemRandom final : public RandomSource {
 public:
  void fill(MutableBytes out) override;
};

}  // namespace sealift::sev
