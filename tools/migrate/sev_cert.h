// `migrate sev cert`: shows and verifies SEV certificates from files. No agent is asked.
//
// Threads: one. Failure: a file that cannot be read is kExitUsage; bytes that are no certificates
// and chains that do not hold are kExitPolicy.
#pragma once

#include <string>
#include <vector>

namespace sealift {

struct SevCertOptions {
  std::vector<std::string> files;  // each one certificate or several, one after the other
  bool partial = false;            // verify: parents that were not given are no failure
  bool json = false;
};

int run_sev_cert_show(const SevCertOptions& options);
int run_sev_cert_verify(const SevCertOptions& options);

}  // namespace sealift
