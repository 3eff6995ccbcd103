// Errors of the world are values: an Error has a class, which says how to react, and a detail for
// people.
//
// Threads: plain values. Failure: an ignored Result does not compile. Our own bugs assert instead
// (engine/assert.h).
#pragma once

#include <fmt/core.h>

#include <cstdint>
#include <string>
#include <tl/expected.hpp>
#include <utility>

namespace sealift {

// A class is added only when a caller would react differently. Wire values: append only.
enum class ErrorClass : std::uint16_t {
  kLocalFault = 1,    // this host: ioctl, memory, firmware; the other side is fine
  kPeerFault = 2,     // the peer said it failed; the detail is the peer's own text
  kMalformed = 3,     // bytes that the specification does not allow; the peer is treated as hostile
  kRefused = 4,       // a check said no before anything moved; retrying unchanged cannot help
  kDisconnected = 5,  // the link ended before a terminal record: neither success nor a verdict
  kCancelled = 6,     // the operator asked
  kTimedOut = 7,      // a limit the operator set has passed
  kPolicy = 8,        // attestation, certificate or guest policy said no
  kUsage = 9,         // an option or a configuration value is wrong
};
const char* name_of(ErrorClass cls);

struct Error {
  ErrorClass cls = ErrorClass::kLocalFault;
  std::string detail;  // one sentence with the values in it; never parsed
};

template <class T = void>
class [[nodiscard]] Result : public tl::expected<T, Error> {
 public:
  using tl::expected<T, Error>::expected;
};

using Failure = tl::unexpected<Error>;

inline Failure fail(Error error) { return Failure(std::move(error)); }
template <class... Args>
Failure fail(ErrorClass cls, fmt::format_string<Args...> text, Args&&... args) {
  return Failure(Error{cls, fmt::format(text, std::forward<Args>(args)...)});
}

}  // namespace sealift

#define SEALIFT_CONCAT_INNER(a, b) a##b
#define SEALIFT_CONCAT(a, b) SEALIFT_CONCAT_INNER(a, b)

// SEALIFT_TRY(auto page, read(gfn)); declares `page`, or returns read()'s error from the enclosing
// function.
#define SEALIFT_TRY(declaration, expression) \
  SEALIFT_TRY_INNER(SEALIFT_CONCAT(sealift_try_, __LINE__), declaration, expression)
#define SEALIFT_TRY_INNER(tmp, declaration, expression)     \
  auto tmp = (expression);                                  \
  if (!tmp) return ::sealift::fail(std::move(tmp.error())); \
  declaration = std::move(*tmp)

// SEALIFT_CHECK(write(gfn)); returns the error of a Result<void> from the enclosing function.
#define SEALIFT_CHECK(expression)                               \
  do {                                                          \
    if (auto sealift_check = (expression); !sealift_check)      \
      return ::sealift::fail(std::move(sealift_check.error())); \
  } while (false)
