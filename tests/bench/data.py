#!/usr/bin/env python3
"""The data path: two migrate-agents against raw TCP and, where it is installed, QEMU, all in one run over loopback.

`tests/bench/data.py --bin BUILD/tools` prints a table, with --json one object. The guests are idle and write nothing;
times are from the request to the end, connection and set-up included. What it leaves out: a network, two hosts, NUMA.
CPU seconds are of whole processes: of ours also the modelled or KVM guest, of QEMU also its main loop. The memory that
is resident at a warm destination of QEMU's is a file and not counted.
"""
import argparse
import json
import multiprocessing
import os
import pathlib
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "e2e"))

MIB = 1 << 20


def cpu_s(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def sink(listener, count):
    def drain(connection):
        buffer = bytearray(MIB)
        while connection.recv_into(buffer):
            pass

    workers = [multiprocessing.Process(target=drain, args=(listener.accept()[0],)) for _ in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def pour(port, mib):
    with socket.create_connection(("127.0.0.1", port)) as out:
        block = os.urandom(MIB)
        for _ in range(mib):
            out.sendall(block)


def raw_tcp_gib_s(streams, mib):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        reader = multiprocessing.Process(target=sink, args=(listener, streams))
        reader.start()
        begin = time.monotonic()
        writers = [multiprocessing.Process(target=pour, args=(listener.getsockname()[1], mib // streams))
                   for _ in range(streams)]
        for worker in writers:
            worker.start()
        for worker in [*writers, reader]:
            worker.join()
        return mib / 1024 / (time.monotonic() - begin)


def ours(bench, row, certs):
    from agents import Agent, MIGRATE  # pylint: disable=import-outside-toplevel
    guest = ["platform=none", f"backend={bench.backend}", f"memory={row['mib']}M", "workload=idle"]
    source = [*row["guest"], *(["image=" + row["image"]] if row["image"] else [])]
    plain = [] if certs else ["--insecure-plain-tcp"]
    agents = []
    try:
        for name, role, words in (("A", "source", source), ("B", "destination", row["destination"])):
            host = certs and f"{certs}/{'a' if role == 'source' else 'b'}"
            agents.append(Agent(f"{bench.folder}/{name}.log", name, role, host, *plain, *guest, *words,
                                control=f"unix:{bench.folder}/{name}.sock"))
        before = [cpu_s(agent.process.pid) for agent in agents]
        begun = [resident_bytes(agent) for agent in agents]
        streams = ["--streams", str(bench.streams)] if bench.streams > 1 else []
        done = subprocess.run([MIGRATE, "start", "--to", agents[1].listen, "--json", "--no-verify", *streams,
                               "--agent", agents[0].control], capture_output=True, text=True, timeout=300, check=False)
        if done.returncode != 0:
            raise RuntimeError(done.stderr)
        report = json.loads(done.stdout)
        used = [cpu_s(agent.process.pid) - at for agent, at in zip(agents, before)]
        return {"total_s": report["total_ms"] / 1000, "downtime_ms": report["downtime"]["total_ms"],
                "cpu_source_s": used[0], "cpu_destination_s": used[1],
                "source_grew_mib": (resident_bytes(agents[0]) - begun[0]) >> 20,
                "resident_destination_mib": resident_bytes(agents[1]) >> 20}
    finally:
        for agent in agents:
            agent.stop()


def resident_bytes(agent):
    from agents import AgentTest  # pylint: disable=import-outside-toplevel
    return AgentTest.resident_bytes(agent)


def write_file(path, mib, data_mib, block):
    """A sparse file of `mib` whose first `data_mib` are written."""
    with open(path, "wb") as out:
        for _ in range(data_mib):
            out.write(block())
        out.truncate(mib * MIB)


def rows_of(bench):
    mib, sparse = bench.mib, bench.sparse_mib
    warm = ["prefault=on"]
    fresh = ["prefault=off"]
    noise = lambda: os.urandom(MIB)  # noqa: E731
    zeros = lambda: bytes(MIB)  # noqa: E731
    rows = [
        ("random, destination warm", mib, mib - 16, ["prefault=on"], warm, noise, mib, True),
        ("random, destination fresh", mib, mib - 16, ["prefault=on"], fresh, noise, mib, False),
        ("zeros, destination fresh", mib, 0, ["prefault=on", "populated=2"], fresh, zeros, mib, False),
        (f"{sparse} MiB of which 5 % were ever touched", sparse, 0, ["prefault=off", "populated=5"], fresh, noise,
         sparse // 20, False),
    ]
    if bench.backend == "model":
        rows = rows[1:]  # modelled guests take memory on touch only: there is no warm destination
    for name, size, image_mib, guest, destination, block, data_mib, is_warm in rows:
        yield {"name": name, "mib": size, "image_mib": image_mib, "guest": guest, "destination": destination,
               "block": block, "data_mib": data_mib, "warm": is_warm}


def measure(bench, row, certs):
    import qemu  # pylint: disable=import-outside-toplevel
    shm = tempfile.mkdtemp(prefix="sealift-bench-", dir="/dev/shm")
    result = {"row": row["name"], "mib": row["mib"], "sealift": [], "qemu": []}
    try:
        row["image"] = f"{shm}/image" if row["image_mib"] else ""
        if row["image"]:
            write_file(row["image"], row["image_mib"], row["image_mib"], row["block"])
        for _ in range(bench.repeats):
            result["sealift"].append(ours(bench, row, None))
        if certs and row["image"]:
            result["sealift_tls"] = [ours(bench, row, certs) for _ in range(bench.repeats)]
        if row["image"]:
            os.unlink(row["image"])
        if not qemu.QEMU:
            result["qemu_skipped"] = "qemu-system-x86_64 is not installed"
            return result
        write_file(f"{shm}/source", row["mib"], row["data_mib"], row["block"])
        for _ in range(bench.repeats):
            if row["warm"]:
                write_file(f"{shm}/warm", row["mib"], row["mib"], lambda: bytes(MIB))
            result["qemu"].append(qemu.migrate(shm, row["mib"], f"{shm}/source", max(bench.streams, 2), cpu_s,
                                               f"{shm}/warm" if row["warm"] else None))
        return result
    finally:
        shutil.rmtree(shm, ignore_errors=True)


def middle(runs, key):
    return statistics.median(run[key] for run in runs) if runs else float("nan")


def table(report):
    lines = [f"{report['machine']}; streams {report['streams']}; raw TCP {report['raw_tcp_gib_s']:.2f} GiB/s; "
             f"median of {report['repeats']}", "",
             f"{'':44}{'GiB/s of RAM':>28}{'x':>7}{'CPU s/GiB a+b':>18}{'resident b, MiB':>18}{'downtime ms':>14}",
             f"{'':44}{'Sealift':>14}{'QEMU':>14}{'':7}{'Sealift':>9}{'QEMU':>9}{'Sealift':>9}{'QEMU':>9}"
             f"{'Sealift':>8}{'QEMU':>6}"]
    for row in report["rows"]:
        for name, runs in (("", row["sealift"]), (", TLS", row.get("sealift_tls", []))):
            if not runs:
                continue
            gib, peer = row["mib"] / 1024, row["qemu"] if not name else []
            speed, other = (gib / max(middle(r, "total_s"), 0.001) for r in (runs, peer))
            cpu = [(middle(r, "cpu_source_s") + middle(r, "cpu_destination_s")) / gib for r in (runs, peer)]
            kept = [middle(r, "resident_destination_mib") for r in (runs, peer)]
            down = [middle(r, "downtime_ms") for r in (runs, peer)]
            lines.append(f"{row['row'] + name:44}{speed:14.2f}{other:14.2f}{speed / other:7.2f}{cpu[0]:9.2f}{cpu[1]:9.2f}"
                         f"{kept[0]:9.0f}{kept[1]:9.0f}{down[0]:8.1f}{down[1]:6.0f}")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default=os.environ.get("SEALIFT_BIN"), help="BUILD/tools")
    parser.add_argument("--backend", choices=("model", "kvm"), default="kvm" if os.access("/dev/kvm", os.W_OK) else "model")
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--sparse-mib", type=int, default=8192)
    parser.add_argument("--streams", type=int, default=1, help="of ours; QEMU gets at least 2 (multifd)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: whether it works, not how fast it is")
    parser.add_argument("--json", action="store_true")
    bench = parser.parse_args()
    if not bench.bin:
        parser.error("--bin, or SEALIFT_BIN, says where the programs are")
    os.environ["SEALIFT_BIN"] = bench.bin
    if bench.quick:
        bench.mib, bench.sparse_mib, bench.repeats = 64, 256, 1
    bench.folder = tempfile.mkdtemp(prefix="sealift-bench-")
    try:
        certs = f"{bench.folder}/certs"
        from agents import MIGRATE  # pylint: disable=import-outside-toplevel
        subprocess.run([MIGRATE, "certs", "--dir", certs, "--host", "a", "--host", "b", "--name", "127.0.0.1"],
                       stdout=subprocess.DEVNULL, check=True)
        report = {"machine": f"{os.cpu_count()} CPUs, {platform.release()}, load {os.getloadavg()[0]:.1f}",
                  "streams": bench.streams, "repeats": bench.repeats, "backend": bench.backend,
                  "raw_tcp_gib_s": raw_tcp_gib_s(bench.streams, bench.mib * 2), "rows": []}
        for row in rows_of(bench):
            report["rows"].append(measure(bench, row, certs))
    finally:
        shutil.rmtree(bench.folder, ignore_errors=True)
    print(json.dumps(report, indent=1) if bench.json else table(report))
    for row in report["rows"]:
        if not row["sealift"]:
            sys.exit(f"no figure for {row['row']}")


if __name__ == "__main__":
    main()
