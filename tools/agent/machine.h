// Machine: one guest with everything below it: the VM, and its platform's firmware context.
//
// Owner:   the agent. The PlatformHost outlives its machines.
// Threads: as Vm and the platform drivers say. Failure: as they say.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "engine/private_path.h"
#include "engine/result.h"
#include "tools/agent/guest_spec.h"
#include "tools/agent/sev_settings.h"
#include "vmm_glue/vmm/vm.h"

namespace sealift {

// What this host can run a guest on, decided once when the agent starts.
struct BackendDecision {
  Backend backend = Backend::kModel;
  std::string why;  // for people: "KVM: …" or why it is not
};
Result<BackendDecision> decide_backend(BackendChoice choice, Platform platform);

// Told each secret that a test needs to open a captured stream. Empty: none leaves the process.
using RevealSecret = std::function<void(std::string_view name, ByteView secret)>;

struct PlatformConfig {
  Platform platform = Platform::kNone;
  Backend backend = Backend::kModel;
  SevSettings sev = {};
  RevealSecret reveal = {};
};

// The platform side of a host: for SEV the software platform behind the ioctl line. One for each
// agent, so that its identity stays the same from `migrate check` to `migrate start`.
class PlatformHost {
 public:
  virtual ~PlatformHost() = default;
  virtual Platform platform() const = 0;
  // One line for people: what is real and what is modelled.
  virtual std::string describe() const = 0;
  // What it tells a source before anything moves (docs/spec/wire.md, PlatformCard); empty: nothing.
  virtual Result<Bytes> card() { return Bytes(); }
  static Result<std::unique_ptr<PlatformHost>> make(const PlatformConfig& config);
};

class Machine {
 public:
  virtual ~Machine() = default;
  Machine() = default;
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  virtual Vm& vm() = 0;
  virtual PrivateExporter* exporter() = 0;  // null without a platform
  virtual PrivateImporter* importer() = 0;  // null without a platform

  // A guest launched here, which boots when it is resumed.
  static Result<std::unique_ptr<Machine>> launch(PlatformHost& host, const VmConfig& config);
  // A guest that waits for its memory and state.
  static Result<std::unique_ptr<Machine>> receive(PlatformHost& host, const VmConfig& config);
};

}  // namespace sealift
