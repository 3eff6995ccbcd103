@0xd5a1c36fb07e1f21;
# Records that open and end a migration: Hello, SessionStart, SessionAccept, PlatformStart, SessionReady, Finish,
# Ready, Handover, Running, Abort, KeepAlive. Order, limits and meaning are in docs/spec/wire.md; this file fixes
# the bytes of the meta part of each frame. No interfaces: nothing here calls anything.
#
# "Source" is the side that has the guest, "destination" the side that is to have it. "Sender" and "receiver" are
# the two sides of one record. A session lasts from the source's first Hello to the record or the loss of the link
# that ends it, and no value in these structs means anything after that.
#
# How these structs change: fields are only added, at the end, with a default that means what their absence meant.
# A peer that is older than a field does not see it; a newer peer that gets an older message sees the default. A
# field whose absence would change what happens to the guest's memory or to the right to run is therefore never
# added: it becomes a new record, whose number an old peer refuses. A field is never removed or reused; a retired
# one keeps its line and says what it was.
#
# Text is UTF-8 without control characters, at most 4096 bytes, for people only unless its comment says otherwise.

using Cxx = import "/capnp/c++.capnp";
using Pages = import "pages.capnp";
$Cxx.namespace("sealift::wire");

struct Hello {
  # First record in each direction. The source sends its own first; the destination answers with its own, or with
  # Abort. Each side then holds both and computes the same answer from them (wire.md, "Negotiation"), so nothing
  # more is said about it. A peer that does not see a field here negotiates as if the feature did not exist.

  versionMin @0 :UInt16;
  versionMax @1 :UInt16;
  # Protocol versions the sender can speak, both ends included. Hello itself has the layout of version 1 for ever.

  agentName @2 :Text;
  # What the sender's operator calls it. Appears in the receiver's messages.

  build @3 :Text;
  # Software and version of the sender. Never compared: behaviour is negotiated by version and features only.

  platform @4 :UInt8;
  # 1 none, 2 SEV, 3 SEV-ES, 4 SEV-SNP, 5 TDX, 6 SW-protected. Must be equal on both sides. A value the receiver does
  # not know makes the record malformed.

  checkOnly @5 :Bool;
  # Source only: it asks whether a migration would be accepted, and ends the session after the Hellos.

  streamsMax @6 :UInt8;
  # The most streams the sender can use, at least 1. The smaller of the two numbers is the limit.

  backend @7 :Text;
  # "kvm" or "model". Compared byte by byte; state of one does not load into the other.

  pageBytes @8 :UInt32;
  # Size of the pages that gfns count. Must be equal; 4096 in version 1.

  vcpus @9 :UInt32;
  # vCPUs of the guest (source) or of the guest prepared for it (destination). Must be equal.

  memory @10 :List(Pages.GfnRange);
  # Which gfns are RAM, ascending, with a gap after each range. Must be equal.

  features @11 :UInt64;
  # Bit 0: digest of memory at the hand-over. Bit 1: PlatformCard after the destination's Hello. Bit 2: the sender keeps a
  # journal. Bit 3: Inquiry and Answer. Bit 4: several streams.
  # What both sides offer is used; unknown bits are ignored.

  batchPagesMax @12 :UInt32;
  # The most pages the sender accepts in one batch, at least 1. The smaller of the two numbers is the limit.
}

struct PlatformCard {
  # Destination, right after its Hello, when both Hellos have feature bit 1: what its platform says of itself. The
  # source's platform driver judges it before anything moves (wire.md, "Platform blobs").

  card @0 :Data;
  # At most 65536 bytes.
}

struct Claim {
  # Source, before SessionStart, when both Hellos have feature bit 2: which attempt at which right this is, for the
  # journals of both sides (docs/spec/handover.md).

  migration @0 :Data;
  # 16 bytes, drawn at random.

  generation @1 :UInt64;
  # Fencing number of the guest before the hand-over; less than 2^64 - 1.
}

struct RightWord {
  # Inquiry: source, instead of Claim and SessionStart, when both Hellos have feature bit 3. Answer: destination, to an
  # Inquiry. Both: the sender's last journal record of a migration (docs/spec/journal.md).

  migration @0 :Data;
  # 16 bytes.

  generation @1 :UInt64;
  # Less than 2^64 - 1.

  guest @2 :Text;
  source @3 :Text;
  destination @4 :Text;
  # As the record has them. An answer without a record repeats the question's.

  pageMapSha256 @5 :Data;
  memorySha256 @6 :Data;
  # 32 bytes each; zeros: not known.

  record @7 :UInt8;
  # Kind of the record, 1 to 9; 0: the migration is not in the sender's journal.

  hasGuest @8 :Bool;
  # The sender's process has the guest in its memory; at a destination also: the guest has gone on from there.

  proven @9 :UInt8;
  # Kind of the sender's last record of the migration that has a MAC, 1 to 9; 0: none has.

  mac @10 :Data;
  # 32 bytes: that record's MAC; zeros without one.
}

struct StreamJoin {
  # Source, with feature bit 4: on stream 0 before SessionStart, and as the first frame of each further connection, whose
  # stream the frame's header names. Both say the same secret, so that nobody else's connection becomes a stream.

  secret @0 :Data;
  # 16 bytes, drawn at random for this session.
}

struct SessionStart {
  # Source, after the Hellos agreed: the migration begins. The destination answers with SessionAccept or Abort.

  guestName @0 :Text;
  # What the source's operator calls the guest.

  streams @1 :UInt8;
  # Streams of this session, numbered 0 to streams - 1. At least 1, not above the negotiated limit.

  verify @2 :Bool;
  # Both sides record a digest of the guest's memory at the hand-over. Only with feature bit 0.
}

struct SessionAccept {
  # Destination: it has a guest prepared and its platform opened.

  identity @0 :Data;
  # The platform identity that the source's firmware encrypts for, opaque here; layouts in wire.md, "Platform blobs".
  # Valid for this session. Empty for a platform without firmware.
}

struct PlatformStart {
  # Source: its firmware has started to export for the identity of SessionAccept.

  start @0 :Data;
  # What the destination's firmware needs before the first page. Opaque here; empty for a platform without firmware.
}

struct SessionReady {
  # Destination: its firmware took PlatformStart; pages may come.
}

struct Finish {
  # Source, guest paused: everything has been sent. The totals let the destination refuse a session that lost
  # something, whatever the reason.

  epochs @0 :UInt32;
  # Number of the last epoch. Epoch 0, which has no pages, is not counted.

  sharedPages @1 :UInt64;
  privatePages @2 :UInt64;
  # Pages sent in SharedPages and PrivatePages over all epochs and streams; a page sent in two epochs counts twice.
  # Of PrivatePages only entries with op 1 or 5 count.

  stateItems @3 :UInt32;
  # VcpuState, DeviceState and PlatformState records sent.

  pageMapDigest @4 :Data;
  # 32 bytes: SHA-256 over the final page map (wire.md, "Finish").

  token @5 :Data;
  # The platform's proof that the source has sealed the guest; empty where the platform has none.
}

struct Ready {
  # Destination: all is checked, loaded and sealed; the guest could run here. It does not, and the destination holds
  # no right to run, until Handover.

  loadStateNs @0 :UInt64;
  sealNs @1 :UInt64;
  # Nanoseconds spent, for the report of the migration.
}

struct Handover {
  # Source: the right to run is the destination's. The only record that moves it. Once any byte of it may have left,
  # the source never resumes by itself.
}

struct Running {
  # Destination: the guest runs here. The source may destroy what it has.

  resumeNs @0 :UInt64;
  # Nanoseconds from the arrival of Handover to the first vCPU running.
}

struct Abort {
  # Either side, at any time: the session is over. The sender sends nothing after it. From the destination after
  # Handover it also says that the guest did not run there and never will.

  errorClass @0 :UInt16;
  # 1 local fault, 2 peer fault, 3 malformed, 4 refused, 5 disconnected, 6 cancelled, 7 timed out, 8 policy, 9 usage,
  # from the sender's point of view. A value the receiver does not know makes the record malformed, which ends the
  # session just as well.

  detail @1 :Text;
  # One sentence with the values in it. Shown to people, never parsed.

  abortToken @2 :Data;
  # Destination only: the platform's proof that the guest can never run there; empty where the platform has none.
}

struct KeepAlive {
  # Either side, at any time: the sender is alive. Optional: a receiver that does not know it skips it.
}
