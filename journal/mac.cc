#include "journal/mac.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "engine/assert.h"

namespace sealift {

Digest32 record_mac(const SessionKey& key, JournalKind kind, const RightToRun& right) {
  const Bytes input = mac_input(kind, right);
  Digest32 mac{};
  unsigned int bytes = 0;
  const unsigned char* made =
      ::HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()),
             reinterpret_cast<const unsigned char*>(input.data()), input.size(),
             reinterpret_cast<unsigned char*>(mac.data()), &bytes);
  SEALIFT_ASSERT(made != nullptr);
  SEALIFT_ASSERT(bytes == mac.size());
  return mac;
}

bool is_record_mac(const SessionKey& key, JournalKind kind, const RightToRun& right,
                   const Digest32& mac) {
  return ::CRYPTO_memcmp(record_mac(key, kind, right).data(), mac.data(), mac.size()) == 0;
}

}  // namespace sealift
