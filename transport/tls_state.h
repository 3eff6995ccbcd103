// What a TlsContext holds; shared by the streams made from it. Internal to transport/.
//
// Threads: constant after load(). Owner: shared by the context and its streams. Failure: none here.
#pragma once

#include <string>

#include "transport/openssl_ptr.h"
#include "transport/tls.h"

namespace sealift {

struct TlsState {
  TlsRole role = TlsRole::kClient;
  std::string ca_path;
  SslCtxPtr ctx;
  BioMethodPtr bio_method;  // must outlive every BIO made from it
};

}  // namespace sealift
