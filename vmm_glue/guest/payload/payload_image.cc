#include "vmm_glue/guest/payload/payload_image.h"

#include <cstddef>

// SEALIFT_PAYLOAD_BIN is the flat binary that guest/CMakeLists.txt builds from payload.cc.
asm(".pushsection .rodata\n"
    ".balign 16\n"
    ".globl sealift_payload_begin\n"
    "sealift_payload_begin: .incbin \"" SEALIFT_PAYLOAD_BIN
    "\"\n"
    ".globl sealift_payload_end\n"
    "sealift_payload_end: .byte 0\n"
    ".popsection\n");

extern "C" {
extern const std::byte sealift_payload_begin[];
extern const std::byte sealift_payload_end[];
}

namespace sealift {

ByteView payload_image() {
  return {sealift_payload_begin,
          static_cast<std::size_t>(sealift_payload_end - sealift_payload_begin)};
}

}  // namespace sealift
