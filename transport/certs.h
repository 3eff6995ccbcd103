// Makes the files a TlsContext reads: an authority, and the certificates it issues to hosts.
//
// Threads:  any; each call is independent.
// Failure:  kUsage for a file that exists already, a name or a number that cannot be; kPolicy for
// CA
//           files that do not fit together. What a failed call created is removed again.
// Invariants: no existing file is changed. Private keys are created with mode 0600. Keys are EC
//           P-256; serial numbers are random.
#pragma once

#include <string>
#include <vector>

#include "engine/result.h"

namespace sealift {

inline constexpr int kCaDays = 3650;
inline constexpr int kHostDaysMax = 825;

// dir/ca.pem and dir/ca.key; makes `dir` (0700) when it is missing.
Result<void> make_ca(const std::string& dir);

// out_dir/{ca.pem,host.pem,host.key} for a host known by `names`, each a DNS name or an IP address.
Result<void> make_host_certificate(const std::string& ca_dir, const std::string& out_dir,
                                   const std::vector<std::string>& names, int days);

}  // namespace sealift
