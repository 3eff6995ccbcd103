@0xe07b5a4d9138c6f5;
# Records that carry the guest's state, one item each: VcpuState, DeviceState and PlatformState have the same body. Order,
# limits and meaning are in docs/spec/wire.md. How this struct changes: see session.capnp.

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("sealift::wire");

struct State {
  # Source, guest paused, after the last epoch. Payload: the item's bytes, in the layout that `name` and `version` say.
  # The bytes mean something to the VMM only, in PlatformState to the platform's firmware only; the protocol's version
  # does not change when they do.

  index @0 :UInt32;
  # vCPU number (VcpuState), instance of the device (DeviceState), the platform's own number (PlatformState).

  name @1 :Text;
  # What the item is ("sregs2", "xsave", …). An identifier: compared byte by byte. A destination that does not know it
  # refuses the session; it never drops state in silence.

  version @2 :UInt32;
  # Layout of the payload. A destination that does not know it refuses the session.
}
