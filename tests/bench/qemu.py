"""One migration between two QEMUs of this host, whose guest does not run: what QEMU's own data path does with memory."""
import json
import os
import shutil
import socket
import subprocess
import time

QEMU = shutil.which("qemu-system-x86_64")
LIMIT_S = 120


class Machine:
    def __init__(self, folder, name, mib, backend, incoming):
        self.path = f"{folder}/{name}.qmp"
        command = [QEMU, "-no-user-config", "-nodefaults", "-display", "none", "-S", "-m", str(mib), "-smp", "1",
                   "-machine", "q35,accel=tcg,memory-backend=ram0", "-object", f"{backend},id=ram0,size={mib}M,share=on",
                   "-qmp", f"unix:{self.path},server=on,wait=off"]
        self.process = subprocess.Popen(command + (["-incoming", "defer"] if incoming else []))
        deadline = time.monotonic() + LIMIT_S
        while True:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(LIMIT_S)
            try:
                self.socket.connect(self.path)
                break
            except OSError:
                self.socket.close()
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.kill()
                    raise
                time.sleep(0.02)
        self.lines = self.socket.makefile("r", encoding="utf-8")
        self.lines.readline()
        self.call("qmp_capabilities")

    def call(self, command, **arguments):
        self.socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        while True:
            answer = json.loads(self.lines.readline())
            if "error" in answer:
                raise RuntimeError(f"QEMU: {command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]

    def resident_bytes(self):
        """Of the memory of its guest, which is a memfd."""
        folder = f"/proc/{self.process.pid}/fd"
        return sum(os.stat(f"{folder}/{fd}").st_blocks * 512 for fd in os.listdir(folder)
                   if os.readlink(f"{folder}/{fd}").startswith("/memfd:"))

    def kill(self):
        self.process.kill()
        self.process.wait()


def migrate(folder, mib, source_file, streams, cpu_s, warm=None):
    """`cpu_s(pid)`: CPU seconds of a process. `warm`: a file whose pages are there; otherwise a fresh memfd."""
    machines = []
    try:
        machines.append(Machine(folder, "a", mib, f"memory-backend-file,mem-path={source_file},prealloc=off", False))
        backend = f"memory-backend-file,mem-path={warm},prealloc=on" if warm else "memory-backend-memfd"
        machines.append(Machine(folder, "b", mib, backend, True))
        source, destination = machines
        for machine in machines:
            if streams > 1:
                machine.call("migrate-set-parameters", **{"multifd-channels": streams})
            machine.call("migrate-set-parameters", **{"max-bandwidth": 0})
            machine.call("migrate-set-capabilities", capabilities=[
                {"capability": "multifd", "state": streams > 1}, {"capability": "events", "state": True}])
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            uri = f"tcp:127.0.0.1:{probe.getsockname()[1]}"
        destination.call("migrate-incoming", uri=uri)
        before = [cpu_s(machine.process.pid) for machine in machines]
        source.call("migrate", uri=uri)
        deadline = time.monotonic() + LIMIT_S
        while True:
            info = source.call("query-migrate")
            if info.get("status") in ("completed", "failed") or time.monotonic() > deadline:
                break
            time.sleep(0.01)
        if info.get("status") != "completed":
            raise RuntimeError(f"QEMU: the migration ended {info}")
        time.sleep(0.1)  # QEMU says "completed" before it has added up the time
        info = source.call("query-migrate")
        used = [cpu_s(machine.process.pid) - at for machine, at in zip(machines, before)]
        return {"total_s": info["total-time"] / 1000, "downtime_ms": info["downtime"], "cpu_source_s": used[0],
                "cpu_destination_s": used[1], "resident_destination_mib": destination.resident_bytes() >> 20}
    finally:
        for machine in machines:
            machine.kill()
