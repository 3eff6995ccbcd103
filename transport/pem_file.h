// PEM files: read with their permissions checked, created without ever overwriting.
//
// Threads: any. Failure: kUsage for what is wrong with a path, kPolicy for permissions and content.
// Invariants: a private key is only ever read from, or created as, a file of mode 0600 or tighter;
// a key with a passphrase is refused, never asked for on the terminal.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "engine/result.h"
#include "transport/openssl_ptr.h"

namespace sealift {

Result<std::vector<X509Ptr>> read_certificates(const std::string& path);  // at least one
Result<KeyPtr> read_private_key(const std::string& path);

// REQUIRES: the key and certificates are valid objects.
Result<std::string> pem_of(const X509* certificate);
Result<std::string> pem_of(const EVP_PKEY* key);

// Fails when `path` exists; removes what it created when writing fails.
Result<void> create_file(const std::string& path, const std::string& text, mode_t mode);

}  // namespace sealift
