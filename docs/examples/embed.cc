// Sealift inside a VMM. `guest` is the VMM's own GuestPort (engine/guest_port.h: pause, resume, dirty log, state);
// `firmware` its platform's driver (sev::SevExporter and sev::SevImporter, or null for an ordinary guest).
#include "tools/agent/destination_runner.h"
#include "tools/agent/source_runner.h"
#include "tools/agent/wire_channel.h"
#include "transport/connect.h"
#include "vmm_glue/exits/guest_exits.h"

using namespace sealift;

// After each KVM_RUN of a vCPU: hypercalls, MSRs, memory faults, TDX and SNP requests are answered, and the page map
// follows. False: the guest is over, or the exit is the VMM's own (port I/O, MMIO, HLT).
bool serve_guest(GuestExits& exits, std::uint32_t vcpu, int run_errno, KvmRun& run) {
  const ServedExit served = exits.serve(vcpu, run_errno, run);
  return served.kind == ServedExit::Kind::kServed || served.kind == ServedExit::Kind::kLater;
}

MigrationReport send_guest(GuestPort& guest, PrivateExporter* firmware, const Hello& self, const Address& to,
                           const TlsContext& tls) {
  ConnectOptions options;
  options.tls = &tls;
  auto stream = connect(to, options, CancelToken());
  if (!stream) return MigrationReport{.outcome = Outcome::kSourceRuns, .error = stream.error()};
  WireChannel channel(std::move(*stream), new_session_id());
  Progress progress;  // read it from another thread to show how far it is
  return SourceRunner(SourceConfig{.hello = self}, guest, firmware, channel, progress).run();
}

DestinationReport take_guest(GuestPort& guest, PrivateImporter* firmware, const Hello& self, Incoming connection,
                             const TlsContext& tls) {
  AcceptOptions options;
  options.tls = &tls;
  auto stream = accept_stream(std::move(connection), options, CancelToken());
  if (!stream) return DestinationReport{.outcome = DestinationOutcome::kDiscarded, .error = stream.error()};
  WireChannel channel(std::move(*stream), 0);
  Progress progress;
  DestinationHooks hooks;
  hooks.open_guest = [&] { return Result<IncomingGuest>(IncomingGuest{&guest, firmware}); };
  return DestinationRunner(self, guest.layout(), channel, hooks, progress).run();
}
