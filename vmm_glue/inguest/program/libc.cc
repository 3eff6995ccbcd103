// What libsodium's objects ask a C library for. The first ones are used; the others belong to code
// that comes with the archive's members and that the program never reaches.
#include <cstddef>

extern "C" {

void* memcpy(void* to, const void* from, std::size_t bytes) {
  void* const begin = to;
  asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes) : : "memory");
  return begin;
}

void* memset(void* to, int value, std::size_t bytes) {
  void* const begin = to;
  asm volatile("rep stosb" : "+D"(to), "+c"(bytes) : "a"(value) : "memory");
  return begin;
}

void __explicit_bzero_chk(void* to, std::size_t bytes, std::size_t) { memset(to, 0, bytes); }

// sodium_init() locks out other threads and asks for the page size. There are none, and 4096.
int pthread_mutex_lock(void*) { return 0; }
int pthread_mutex_unlock(void*) { return 0; }
long sysconf(int) { return 4096; }

// Without an IDT an exception is a triple fault, and that is an exit the VMM reports.
[[noreturn, gnu::nothrow]] void program_abort() {
  for (;;) asm volatile("ud2");
}

#define SEALIFT_NEVER_CALLED(name) \
  [[noreturn, gnu::nothrow, gnu::alias("program_abort")]] void name()
SEALIFT_NEVER_CALLED(abort);
SEALIFT_NEVER_CALLED(__stack_chk_fail);
SEALIFT_NEVER_CALLED(__assert_fail);
SEALIFT_NEVER_CALLED(__errno_location);
SEALIFT_NEVER_CALLED(close);
SEALIFT_NEVER_CALLED(fcntl);
SEALIFT_NEVER_CALLED(free);
SEALIFT_NEVER_CALLED(fstat);
SEALIFT_NEVER_CALLED(getrandom);
SEALIFT_NEVER_CALLED(madvise);
SEALIFT_NEVER_CALLED(malloc);
SEALIFT_NEVER_CALLED(mlock);
SEALIFT_NEVER_CALLED(mmap);
SEALIFT_NEVER_CALLED(mprotect);
SEALIFT_NEVER_CALLED(munlock);
SEALIFT_NEVER_CALLED(munmap);
SEALIFT_NEVER_CALLED(open);
SEALIFT_NEVER_CALLED(poll);
SEALIFT_NEVER_CALLED(raise);
SEALIFT_NEVER_CALLED(read);
#undef SEALIFT_NEVER_CALLED
}
