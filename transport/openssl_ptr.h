// Owning pointers for OpenSSL objects, and the text of its error queue.
//
// Owner: each pointer frees its object. Threads: plain values; the error queue belongs to the
// thread. Failure: a null pointer is OpenSSL saying no; openssl_reason() tells why.
#pragma once

#include <openssl/bio.h>
#include <openssl/bn.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <memory>
#include <string>

namespace sealift {

template <auto Free>
struct OpensslFree {
  template <class T>
  void operator()(T* object) const {
    Free(object);
  }
};
template <class T, auto Free>
using OpensslPtr = std::unique_ptr<T, OpensslFree<Free>>;

using SslCtxPtr = OpensslPtr<SSL_CTX, &SSL_CTX_free>;
using SslPtr = OpensslPtr<SSL, &SSL_free>;
using BioPtr = OpensslPtr<BIO, &BIO_free_all>;
using BioMethodPtr = OpensslPtr<BIO_METHOD, &BIO_meth_free>;
using X509Ptr = OpensslPtr<X509, &X509_free>;
using KeyPtr = OpensslPtr<EVP_PKEY, &EVP_PKEY_free>;
using BignumPtr = OpensslPtr<BIGNUM, &BN_free>;

// The reason of the oldest error in this thread's queue, and empties the queue.
inline std::string openssl_reason() {
  const unsigned long code = ERR_peek_error();
  const char* reason = code == 0 ? nullptr : ERR_reason_error_string(code);
  ERR_clear_error();
  return reason != nullptr ? reason : "OpenSSL gives no reason";
}

}  // namespace sealift
