// Owners of OpenSSL objects. Only .cc files of sev/ and model/ include this; headers name the types
// of OpenSSL by forward declaration through these aliases.
#pragma once

#include <memory>

struct bignum_st;
struct ec_group_st;
struct ec_point_st;
struct evp_cipher_ctx_st;
struct evp_mac_ctx_st;
struct evp_md_ctx_st;
struct evp_pkey_st;

namespace sealift::sev {

struct OpensslFree {
  void operator()(bignum_st* object) const;
  void operator()(ec_group_st* object) const;
  void operator()(ec_point_st* object) const;
  void operator()(evp_cipher_ctx_st* object) const;
  void operator()(evp_mac_ctx_st* object) const;
  void operator()(evp_md_ctx_st* object) const;
  void operator()(evp_pkey_st* object) const;
};
template <class T>
using OpensslPtr = std::unique_ptr<T, OpensslFree>;

}  // namespace sealift::sev
