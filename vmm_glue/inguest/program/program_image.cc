#include "vmm_glue/inguest/program/program_image.h"

#include <cstddef>

// SEALIFT_INGUEST_BIN is the flat binary that inguest/CMakeLists.txt builds from program.cc.
asm(".pushsection .rodata\n"
    ".balign 16\n"
    ".globl sealift_inguest_begin\n"
    "sealift_inguest_begin: .incbin \"" SEALIFT_INGUEST_BIN
    "\"\n"
    ".globl sealift_inguest_end\n"
    "sealift_inguest_end: .byte 0\n"
    ".popsection\n");

extern "C" {
extern const std::byte sealift_inguest_begin[];
extern const std::byte sealift_inguest_end[];
}

namespace sealift::inguest {

ByteView program_image() {
  return {sealift_inguest_begin,
          static_cast<std::size_t>(sealift_inguest_end - sealift_inguest_begin)};
}

}  // namespace sealift::inguest
