@0xb8e4f90a6c2d7d13;
# Records that carry the guest's memory: SharedPages, LivePages, PrivatePages, Conversions, EpochBegin, EpochEnd,
# EpochAck. Order, limits and meaning are in docs/spec/wire.md. How these structs change: see session.capnp; one rule more holds here.
#
# A receiver does not guess at pages. An encoding or operation number it does not know makes the record malformed, so
# a new number is used only after a feature bit of Hello said that both sides know it.
#
# Page bytes are not in these messages. They are the payload of the frame: raw, without padding, in the order of the
# entries. What authenticates them is in the meta, so that a payload that firmware has encrypted can travel outside
# TLS while its addresses and its packet headers travel inside.

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("sealift::wire");

using Gfn = UInt64;
# Index of a guest page: guest physical address divided by Hello.pageBytes, without C-bit or shared bit.

using Epoch = UInt32;
# Number of a round. 0 is the initial page map, pages travel in 1, 2, … up to the last. It only grows. Its lifetime is
# the session.

struct GfnRange {
  first @0 :Gfn;
  pages @1 :UInt64;
  # first + pages is not above 2^32; pages is not 0.
}

struct SharedPages {
  # Source: pages the host can read. Payload: pageBytes for each entry with encoding 2, in order of the entries.

  epoch @0 :Epoch;

  gfns @1 :List(Gfn);
  # 1 to the negotiated batchPagesMax entries.

  encodings @2 :Data;
  # One byte for each gfn: 1 all zero, nothing in the payload; 2 raw.
}

struct LivePages {
  # Source, streams other than 0, with feature bit 4: pages the host can read, sent from the memory of a guest that may
  # run and write them meanwhile. Payload: pageBytes for each page of `raw`, in order. The frame's checksum leaves the
  # payload out (wire.md, "Frames").

  epoch @0 :Epoch;

  zero @1 :List(GfnRange);
  # All zero, nothing in the payload.

  raw @2 :List(GfnRange);
  # 1 to the negotiated batchPagesMax pages in both lists together.
}

struct PrivatePages {
  # Source: pages as the platform's firmware exported them. The receiver hands them to its firmware and learns from
  # that whether they are genuine. Payload: pageBodyBytes for each entry with op 1 or 3, in order of the entries.
  # Entries with op 1 and 5 are pages: they count in EpochEnd and Finish, and each gfn has at most one in an epoch.

  epoch @0 :Epoch;

  gfns @1 :List(Gfn);
  # 1 to the negotiated batchPagesMax entries, of any ops. For op 3 the number is the platform's own.

  ops @2 :Data;
  # One byte for each gfn:
  #   1 import: the page's first or newer content;
  #   2 cancel: forget what came earlier for this page;
  #   3 platform metadata, no guest page;
  #   4 nothing: the entry failed at the source and only keeps its place in what batchAuth authenticates;
  #   5 import empty: the page exists and has no content yet.

  pageAuthBytes @3 :UInt32;
  # Bytes of pageAuth for each entry. SEV: 52, the packet header. 0 where pages have none.

  pageBodyBytes @4 :UInt32;
  # Bytes of payload for each entry with op 1 or 3.

  batchAuth @5 :Data;
  # Authenticates the list as a whole (TDX: the MBMD). Empty where the platform has none.

  pageAuth @6 :Data;
  # pageAuthBytes for each entry, of every op, in order.
}

struct Conversions {
  # Source: ranges whose class the guest changed, before every page of the same epoch; a page travels by the class that
  # was announced. In epoch 0: the page map at the start, as what differs from all pages private, before every page of
  # epoch 1. An entry says what the range is now, so applying a record twice changes nothing. Within a record no page is
  # in two ranges. At most 4096 ranges in both lists together; more conversions take more records.

  epoch @0 :Epoch;
  toShared @1 :List(GfnRange);
  toPrivate @2 :List(GfnRange);
}

struct EpochBegin {
  # Source, stream 0, in a session of several streams: the epoch's Conversions have all come, its pages may be applied on
  # every stream.

  epoch @0 :Epoch;
}

struct EpochEnd {
  # Source, once for each epoch from 1 on and each stream: nothing more of this epoch comes on this stream.

  epoch @0 :Epoch;

  sharedPages @1 :UInt64;
  privatePages @2 :UInt64;
  # Pages sent on this stream in this epoch: entries of SharedPages, and of PrivatePages those with op 1 or 5. A
  # receiver that counted otherwise refuses the session.

  token @3 :Data;
  # The platform's epoch token (TDX). On stream 0 only; empty where the platform has none.
}

struct EpochAck {
  # Destination: every page of the epoch has been applied. One for each epoch, in order.

  epoch @0 :Epoch;
}
