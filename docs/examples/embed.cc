// Sealift inside a VMM. `guest` is the VMM's own GuestPort (engine/guest_port.h: pause, resume, dirty log, state);
// `firmware` its platform's driver (sev::SevExporter and sev::SevImporter, or null for an ordinary guest).
#include "tools/agent/destination_runner.h"
#include "tools/agent/source_runner.h"
#include "tools/agent/wire_channel.h"
#include "transport/connect.h"
#include "vmm_glue/exits/hypercall.h"

using namespace sealift;

// KVM_EXIT_HYPERCALL: the guest announces pages as shared or private. The map follows, and the pages travel again.
void on_hypercall_exit(KvmRun& run, GuestPort& guest) {
  handle_hypercall(run, HypercallForm::kMapGpaRange, guest.layout(), guest.page_map(), guest.dirty());
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
