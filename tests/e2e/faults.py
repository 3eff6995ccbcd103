"""One run: a migration between two agents, a fault at a named point of one of them, and what must hold afterwards.

The agents are migrate-agent-faulty: told to, it stops itself (SIGSTOP) when it passes a point. Whatever happens there comes
from outside: SIGKILL, a cut link, a disk that is full. Afterwards what died is started anew with the same command line and
the same journal, and `migrate recover` settles what is left.

What proves that the guest never ran twice and never went back: its own count of steps, which is in its memory and thus
travels with it, seen through the agents' status again and again. Once it was seen running at one host, it is never again
seen running at the other (`Witness`); and the count never falls.
"""
import dataclasses
import http.client
import json
import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import time

from agents import BIN, MIGRATE
from relay import FrameRelay, Relay

FAULTY_AGENT = str(BIN / "migrate-agent" / "migrate-agent-faulty")
DUMP = str(BIN / "migrate-dump" / "migrate-dump")
LIMIT_S = 60  # for anything that is waited for: longer than every limit of the agents, short enough for a suite
SILENT_S = 13  # longer than an agent waits for a silent peer
GUEST = "web-1"
# Of a migration, by scenario: some go on until they are cancelled.
FOR_EVER = {"downtime_ms": 0, "rounds_max": 1000}
OPTIONS = {"cancel": FOR_EVER, "cancel-there": FOR_EVER, "cancel-in-round": FOR_EVER,
           "throttle": {**FOR_EVER, "throttle_max_percent": 99}}
# Ends. The last two are exceptions of docs/spec/handover.md.
RUNS_AT_SOURCE = "runs at the source"
RUNS_AT_DESTINATION = "runs at the destination"
LOST_WITH_SOURCE = "lost with the source's process"
DIED_AFTER_TAKEN = "destination died after Taken"
VERDICTS = ("run source", "run destination", "needs a human")
SOURCE_STANDINGS = ("unknown", "not in the journal", "owns", "in doubt", "released", "kept", "ceded")
DESTINATION_STANDINGS = ("unknown", "not in the journal", "incomplete",
                         "a complete copy without the right", "has the right", "discarded")


class Violation(AssertionError):
    """What must never be."""


@dataclasses.dataclass(frozen=True)
class Case:
    """`point` (of either agent, or of a restarted one) is passed in `scenario`; `fault` happens there."""
    point: str
    fault: str
    scenario: str = "move"
    guest: tuple = ("platform=none", "backend=model")

    @property
    def side(self):
        """Where the point is: A is the source, B the destination."""
        if self.scenario == "restart":
            return "B"
        if self.point.startswith("journal."):
            return "B" if self.point.split(".")[1] in ("Offered", "Ready", "Taken", "Discarded") else "A"
        return "A" if self.point.startswith("source.") else "B"

    def __str__(self):
        return f"{self.fault} at {self.point} ({self.scenario}, {' '.join(self.guest)})"


class UnixHttp(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("agent", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Host:
    """One agent, which can be started again and again with the same addresses, journal and guest."""

    def __init__(self, folder, name, role, guest, spin):
        self.name, self.role, self.guest, self.spin = name, role, guest, spin
        self.folder = pathlib.Path(folder, name)
        self.folder.mkdir()
        self.journal = self.folder / "journal"
        self.control = str(self.folder / "control")
        self.log_path = self.folder / "log"
        self.listen = "tcp:127.0.0.1:0"
        self.prefix = ()  # before its command
        self.process = None
        self.stopped = False  # by SIGSTOP

    def launch(self, stop_at=None):
        """None, or what the agent said when it did not start."""
        # A write beyond a limit of size is to fail, as on a broken disk, and not to end the process.
        command = [*self.prefix, "env", "--ignore-signal=XFSZ", FAULTY_AGENT, "--name", self.name, "--role", self.role,
                   "--control", f"unix:{self.control}", "--listen", self.listen, "--insecure-plain-tcp",
                   "--journal", str(self.journal), "--no-inquiry", "memory=8M", *self.guest]
        if self.role == "source":
            command += [f"name={GUEST}", "workload=flipstorm", f"spin={self.spin}"]
        if stop_at:
            command += ["--stop-at", stop_at]
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        self.stopped = False
        ready = self._ready_line()
        if ready is None:
            return None  # stands at its point
        if not ready.startswith("ready "):
            self.process.wait(timeout=LIMIT_S)
            self.process.stdout.close()
            return self.log().splitlines()[-1]
        self.listen = dict(word.split("=", 1) for word in ready.split()[1:])["listen"]
        return None

    def _ready_line(self):
        """The line; empty when the agent ended; None when it stands at its point before it is ready."""
        os.set_blocking(self.process.stdout.fileno(), False)
        line = b""
        for _ in wait("a ready line"):
            line += self.process.stdout.read() or b""
            if line.endswith(b"\n"):
                return line.decode()
            if self.process.poll() is not None:
                return ""
            if self.stands():
                return None
        return None

    def log(self):
        return self.log_path.read_text(encoding="utf-8")

    @property
    def alive(self):
        return self.process is not None and self.process.poll() is None

    def stands(self):
        """Whether it has stopped itself."""
        try:
            stat = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii")
        except OSError:
            return False
        self.stopped = stat.rsplit(")", 1)[1].split()[0] == "T"
        return self.stopped

    def go_on(self):
        self.stopped = False
        self.process.send_signal(signal.SIGCONT)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.stopped = False

    def ask(self, method, path, body=None, timeout=LIMIT_S):
        """Status code and answer; OSError or HTTPException if there is none."""
        connection = UnixHttp(self.control, timeout)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def status(self, timeout=LIMIT_S):
        return self.ask("GET", "/v1/status", timeout=timeout)[1]

    def dump(self):
        """Exit status and text of migrate-dump for the journal of the guest; None without one."""
        path = self.journal / f"{GUEST}.journal"
        if not path.exists():
            return None
        done = subprocess.run([DUMP, str(path)], capture_output=True, text=True, timeout=LIMIT_S, check=False)
        return done.returncode, done.stdout + done.stderr

    def records(self):
        """Kinds of the last migration's records, in order."""
        found = self.dump()
        if found is None:
            return []
        lines = [line.split() for line in found[1].splitlines() if " migration " in line and " sequence " in line]
        last = lines[-1][lines[-1].index("migration") + 1] if lines else None
        return [words[1] for words in lines if words[words.index("migration") + 1] == last]

    def limit_files(self, size):
        """No file of the agent can be written beyond `size` bytes; RLIM_INFINITY: as before."""
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def wait(what, limit=LIMIT_S, every=0.005):
    """for _ in wait("x"): until x is there, then return or break."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        yield
        time.sleep(every)
    raise Violation(f"{what} did not come within {limit} s")


def check_answer(answer, code):
    """What `migrate recover --json` promises in docs/operations.md."""
    if set(answer) != {"migration", "generation", "guest", "source", "destination", "verdict", "reason", "applied"}:
        raise Violation(f"recover --json has other fields than documented: {answer}")
    for side, standings in (("source", SOURCE_STANDINGS), ("destination", DESTINATION_STANDINGS)):
        if set(answer[side]) != {"name", "standing", "has_copy"} or answer[side]["standing"] not in standings:
            raise Violation(f"recover --json says of the {side}: {answer[side]}")
    decided = answer["verdict"] == "forget" and answer["applied"]
    if not decided and (answer["verdict"] not in VERDICTS or not answer["reason"]):
        raise Violation(f"recover --json has no sound verdict: {answer}")
    if (code == 7) != (answer["verdict"] == "needs a human") or (code == 7 and answer["applied"]):
        raise Violation(f"recover --json and exit code {code} differ: {answer}")


class Witness:
    """Looks at both agents and knows where the guest has run, and how far it had come."""

    def __init__(self, hosts):
        self.hosts = hosts
        self.runs_at, self.steps = None, 0
        self.moves = []  # where it was seen running, one after another
        self.states = {}

    def look(self):
        """One agent after the other: what an answer says was so after the question, and thus after the answer before."""
        for host in self.hosts:
            if not host.alive or host.stopped:
                continue
            try:
                status = host.status(timeout=0.3)
            except (OSError, http.client.HTTPException):
                continue  # it is starting or ending, or stopped just now
            self.states[host.name] = status["state"]
            if status.get("vm", {}).get("state") == "running":
                self._runs(host.name, status["vm"]["steps"])

    def _runs(self, name, steps):
        if name != self.runs_at:
            if name in self.moves:
                raise Violation(f"the guest runs at {name} again, after it was seen at {self.runs_at}: {self.moves}")
            self.moves.append(name)
            self.runs_at = name
        if steps < self.steps:
            raise Violation(f"the guest went back at {name}: from step {self.steps} to {steps}")
        self.steps = steps

    def may_move_again(self):
        """From here on a new migration is meant."""
        self.moves = [self.runs_at]

    def new_life(self, name):
        """The guest was lost, which was said; another one, or an older copy that a human chose, runs at `name`."""
        if self.runs_at not in (None, "A"):
            running = [host for host in self.hosts if host.name == self.runs_at and host.alive]
            if running and running[0].status().get("vm", {}).get("state") == "running":
                raise Violation(f"a guest was launched at {name}, and the one at {self.runs_at} still runs")
        self.runs_at, self.steps, self.moves = None, 0, []
        self.look()


class Run:
    """Carries out a case. `.end` says how it ended, in one of the words of ENDS."""

    def __init__(self, case, folder):
        self.case, self.folder = case, pathlib.Path(folder)
        self.folder.mkdir()
        spin = 0 if case.scenario in OPTIONS else 2000  # how long the guest computes between two writes
        self.a = Host(self.folder, "A", "source", case.guest, spin)
        self.b = Host(self.folder, "B", "destination", case.guest, spin)
        self.victim = self.a if case.side == "A" else self.b
        self.other = self.b if case.side == "A" else self.a
        self.witness = Witness((self.b, self.a))
        self.relay = None
        self.recovering = None  # a `migrate recover` that is under way
        self.killed = {}  # name of an agent that was killed: the records it had then
        self.mounted = False
        self.doubt = False  # somebody was in doubt or held a copy before it was settled
        self.human = False  # the verdict was "needs a human"
        self.end = None

    # The fault -----------------------------------------------------------------------------------

    def carry_out(self):
        try:
            self.until_the_point()
            getattr(self, "fault_" + self.case.fault.replace("-", "_"))()
            self._quiet()
            self._settle()
        except Violation as violation:
            raise Violation(f"{self.case}: {violation}\n{self._story()}") from None
        finally:
            self.clean()

    def until_the_point(self):
        if self.case.fault == "full":
            self._mount()
        late = self.case.scenario in ("restart", "cede")  # only the agent that is started again stands at the point
        for host in (self.a, self.b):
            self._launch(host, self.case.point if host is self.victim and not late else None)
        cuts = self.case.scenario in ("recover", "restart", "cede")
        self.witness.look()
        options = dict(OPTIONS.get(self.case.scenario, {}))
        if "ApplyShared" in self.case.point:
            options["streams"] = 0  # shared pages pass there only on the first connection
        if any(step in self.case.point for step in ("StreamJoin", "AwaitStreams", "OpenEpoch")):
            options["streams"] = 2  # only where there are others
        code, answer = self.a.ask("POST", "/v1/migrate", {"to": self._link(), **options})
        if code != 202:
            raise Violation(f"the migration did not begin: {answer}")
        if cuts:
            self._quiet()
            getattr(self, "_then_" + self.case.scenario)()
        trigger = getattr(self, "_trigger_" + self.case.scenario.replace("-", "_"), None)
        for _ in wait(f"the point {self.case.point}"):
            if self.victim.stands():
                if self.relay is not None:
                    self.relay.open()
                return
            self.witness.look()
            if trigger is not None and trigger():
                trigger = None
            over = not cuts and self.witness.states.get("A") not in ("migrating", "running")
            if over and not self.victim.stands():
                raise Violation(f"{self.case.point} was not passed")

    def _link(self):
        """The address of the destination, as the source sees it."""
        if self.case.scenario in ("recover", "restart", "cede"):
            self.relay = FrameRelay(self.b.listen, "Handover")
        else:
            self.relay = Relay(self.b.listen, drip=100_000 if self.case.scenario == "cancel-in-round" else None)
        return self.relay.address

    def _launch(self, host, stop_at=None):
        self.witness.states.pop(host.name, None)
        if said := host.launch(stop_at):
            raise Violation(f"{host.name} did not start: {said}")

    def _then_recover(self):
        self.recovering = self._recover("--apply", wait_for_it=False)

    def _then_restart(self):
        self._kill(self.b)
        self._launch(self.b, self.case.point)

    def _then_cede(self):
        self._kill(self.a)
        self._launch(self.a, self.case.point)
        self._then_recover()

    def _trigger_cancel(self):
        return self._cancel(self.a)

    def _trigger_cancel_in_round(self):
        """The link takes next to nothing, so that the round goes on until it is stopped."""
        return self._progress().get("phase") == "sending a round" and self._cancel(self.a, rounds=0)

    def _trigger_cancel_there(self):
        return self._cancel(self.b)

    def _cancel(self, host, rounds=1):
        """In the live rounds, which would go on for ever."""
        if self._rounds() < rounds:
            return False
        try:
            return host.ask("POST", "/v1/cancel", timeout=1)[0] == 200
        except (OSError, http.client.HTTPException):
            return True  # it stood at its point before it could answer

    def _rounds(self):
        return self._progress().get("rounds_done", 0)

    def _progress(self):
        try:
            return self.a.status(timeout=1).get("progress", {})
        except (OSError, http.client.HTTPException):
            return {}  # it stands at its point, perhaps

    def _kill(self, host):
        if host.alive:
            host.kill()
        self.killed[host.name] = host.records()
        self.witness.states.pop(host.name, None)

    def fault_kill(self):
        self._kill(self.victim)

    def fault_kill_other(self):
        self._kill(self.other)
        self.victim.go_on()

    def fault_kill_both(self):
        self._kill(self.other)
        self._kill(self.victim)

    def fault_stop(self):
        self._watch(0.2)
        self.victim.go_on()

    def fault_silence(self):
        self._watch(SILENT_S)
        self.victim.go_on()

    def fault_cut(self):
        self.relay.cut()
        self._watch(0.2)
        self.victim.go_on()

    def fault_disk(self):
        """From here on no write of this agent to a file succeeds."""
        self.victim.limit_files(0)
        self.victim.go_on()

    def fault_full(self):
        """The file system of its journal is full."""
        self._fill()
        self.victim.go_on()

    def fault_read_only(self):
        """It is killed, and finds its journal read-only when it comes back."""
        self._kill(self.victim)
        if not self.victim.journal.exists():
            return
        for path in self.victim.journal.iterdir():
            path.chmod(0o400)
        self.victim.journal.chmod(0o500)
        if (said := self.victim.launch()) is None:
            raise Violation("an agent started with a journal it cannot write")
        if "journal" not in said:
            raise Violation(f"it does not say why it did not start: {said}")
        self.victim.journal.chmod(0o700)
        for path in self.victim.journal.iterdir():
            path.chmod(0o600)

    def _mount(self):
        self.victim.journal.mkdir(mode=0o700)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,mode=0700", "none", self.victim.journal], check=True)
        self.mounted = True

    def _fill(self):
        with open(self.victim.journal / "ballast", "wb", buffering=0) as ballast:
            try:
                while ballast.write(bytes(4096)):
                    pass
            except OSError:
                pass

    def _watch(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.witness.look()
            time.sleep(0.05)

    # What must hold ------------------------------------------------------------------------------

    def _quiet(self):
        """Until no agent that is alive is in the middle of a migration."""
        for _ in wait("an end of the migration", every=0.02):
            self.witness.look()
            alive = [host for host in (self.a, self.b) if host.alive]
            if all(self.witness.states.get(host.name) not in ("migrating", "receiving") for host in alive):
                break
        self.doubt = any(state in ("in-doubt", "holding") for state in self.witness.states.values())
        for host in (self.a, self.b):
            found = host.dump()
            if found is not None and found[0] != 0:
                raise Violation(f"migrate-dump cannot read the journal of {host.name}: {found[1]}")

    def _heal(self):
        """What was wrong ends, and what died is started again with the same command line. Nobody touches a journal."""
        if self.case.fault == "full":
            (self.victim.journal / "ballast").unlink()
        if self.case.fault == "disk" and self.victim.alive:
            self.victim.limit_files(resource.RLIM_INFINITY)
        if self.recovering is not None:
            self.recovering.communicate(timeout=LIMIT_S)  # it may have failed: it is done again
        for host in (self.a, self.b):
            if not host.alive:
                self._launch(host)
        self._check_relaunch()
        self.witness.look()

    def _check_relaunch(self):
        """A source that was started anew runs a new guest only if the right was here, and nowhere else."""
        if "A" not in self.killed or self.a.status()["state"] != "running":
            return
        if self.killed["A"][-1:] not in ([], ["Kept"]):
            raise Violation(f"A launched its guest again, and its journal ended with {self.killed['A']}")
        self.witness.new_life("A")
        self.end = LOST_WITH_SOURCE

    def _recover(self, *options, wait_for_it=True, peer=True):
        command = [MIGRATE, "recover", "--agent", f"unix:{self.a.control}", "--json", *options]
        if peer:
            command += ["--peer", f"unix:{self.b.control}"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if not wait_for_it:
            return process
        out, err = process.communicate(timeout=LIMIT_S)
        if process.returncode in (0, 7):
            check_answer(json.loads(out), process.returncode)
        return process.returncode, json.loads(out), err

    def _settle(self):
        self._heal()
        code, answer, err = self._recover()
        if code == 3 and "no migration is in the journal" in err:
            if self.a.records() or self.b.records():
                raise Violation(f"recover says {err}, and there are records")
        elif code == 7:
            return self._human(answer)
        elif code == 0:
            self._apply(answer)
        else:
            raise Violation(f"migrate recover ended with {code}: {err}")
        self._one_runs()
        return None

    def _apply(self, before):
        code, answer, err = self._recover("--apply")
        if code == 0 and answer["verdict"] != before["verdict"]:
            raise Violation(f"recover said {before}, and then {answer}")
        if code != 0:
            raise Violation(f"migrate recover --apply ended with {code}: {answer} {err}")

    def _human(self, answer):
        """Only where docs/spec/handover.md, "Exceptions", says so."""
        self.human = True
        taken = "Taken" in self.killed.get("B", [])
        complete = "Ready" in self.b.records() and "B" not in self.killed
        if taken:
            self.end = DIED_AFTER_TAKEN
        elif "A" in self.killed and not complete:
            self.end = LOST_WITH_SOURCE
        else:
            raise Violation(f"recover needs a human without reason: {answer}")
        # What the human says is done, and the agents are of use again.
        in_doubt = self.witness.states["A"] == "in-doubt"
        if not taken or in_doubt:
            code, _, err = self._recover("--decide", "run source" if in_doubt else "forget")
            if code != 0:
                raise Violation(f"what a human decided was not done: {err}")
            self.witness.new_life("A")
            if in_doubt:
                self._goes_on(self.a)

    def _one_runs(self):
        """The guest runs at one host, goes on there, is whole, and can move on to the other one."""
        if self.recovering is not None and self.recovering.poll() is None:
            raise Violation("migrate recover still waits")
        self.witness.look()
        running = [host for host in (self.a, self.b) if self.witness.states[host.name] == "running"]
        if len(running) != 1:
            raise Violation(f"the guest runs at {[host.name for host in running]}: {self.witness.states}")
        winner = running[0]
        loser = self.b if winner is self.a else self.a
        if self.witness.states[loser.name] not in ("empty", "handed-over"):
            raise Violation(f"{loser.name} is {self.witness.states[loser.name]}")
        self._goes_on(winner)
        self.end = self.end or (RUNS_AT_SOURCE if winner is self.a else RUNS_AT_DESTINATION)
        if self.case.fault == "stop" and self.case.scenario == "move" and self.end != RUNS_AT_DESTINATION:
            raise Violation("nothing was wrong, and the guest did not arrive")
        self.witness.may_move_again()
        code, answer = winner.ask("POST", "/v1/migrate", {"to": loser.listen})
        if code != 202:
            raise Violation(f"the guest cannot move on from {winner.name}: {answer}")
        for _ in wait(f"the guest at {loser.name}", every=0.02):
            self.witness.look()
            if not {"migrating", "receiving"} & set(self.witness.states.values()):
                break
        if self.witness.states != {winner.name: "handed-over", loser.name: "running"}:
            raise Violation(f"the guest did not move on: {self.witness.states} {winner.status().get('report')}")
        self._goes_on(loser)

    def _goes_on(self, host):
        before = self.witness.steps
        code, check = host.ask("POST", "/v1/verify")
        if code != 200 or check["errors"] != 0 or check["pages_checked"] == 0:
            raise Violation(f"the guest at {host.name} is not whole: {check}")
        for _ in wait(f"a step of the guest at {host.name}"):
            self.witness.look()
            if self.witness.steps > before:
                return

    def _story(self):
        lines = []
        for host in (self.a, self.b):
            lines.append(f"--- {host.name}: {self.witness.states.get(host.name)}, journal {host.records()}")
            lines.append(host.log() if host.log_path.exists() else "")
        return "\n".join(lines)

    def clean(self):
        for host in (self.a, self.b):
            if host.alive:
                host.kill()
        if self.relay is not None:
            self.relay.close()
        if self.mounted:
            subprocess.run(["umount", self.victim.journal], check=True)
            self.mounted = False
        shutil.rmtree(self.folder, ignore_errors=True)
