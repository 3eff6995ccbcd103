#include "vmm_glue/sev/random.h"

#include <openssl/rand.h>

#include "engine/assert.h"

namespace sealift::sev {

void SystemRandom::fill(MutableBytes out) {
  auto* bytes = reinterpret_cast<unsigned char*>(out.data());
  SEALIFT_ASSERT(RAND_bytes(bytes, static_cast<int>(out.size())) == 1);
}

}  // namespace sealift::sev
