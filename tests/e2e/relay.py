"""A link between two agents that a test can cut, garble or slow down."""
import socket
import threading


class Relay:
    """Forwards connections to `target` until .cut(). Of one of them, number `on`, only `limit` bytes of source to
    destination, and then it cuts that one; can flip a bit of the byte at `flip` of what the source ("forth") or the
    destination ("back") sends on it. From `drip` bytes of the source on
    it lets one byte through now and then, which keeps both sides waiting, until .open()."""

    def __init__(self, target, limit=None, flip=None, direction="forth", drip=None, on=0):
        host, port = target.removeprefix("tcp:").rsplit(":", 1)
        self.target, self.limit = (host, int(port)), limit
        self.flips = {direction: flip}
        self.drip, self.opened, self.on = drip, threading.Event(), on
        self.server = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp:127.0.0.1:{self.server.getsockname()[1]}"
        self.sockets = []
        self.threads = [threading.Thread(target=self._serve)]
        self.threads[0].start()

    def _serve(self):
        for number in range(100):
            try:
                client, _ = self.server.accept()
                upstream = socket.create_connection(self.target)
            except OSError:
                return
            pair, harmed = (client, upstream), number == self.on
            self.sockets += pair
            self._start(pair, client, upstream, "forth", harmed)
            self._start(pair, upstream, client, "back", harmed)

    def _start(self, pair, *ends):
        thread = threading.Thread(target=self._pump, args=(pair, *ends))
        self.threads.append(thread)
        thread.start()

    def _pump(self, pair, source, sink, direction, harmed):
        passed = 0
        flip = self.flips.get(direction) if harmed else None
        limit = self.limit if harmed and direction == "forth" else None
        drip = self.drip if harmed and direction == "forth" else None
        try:
            while data := source.recv(65536 if limit is None else min(65536, limit - passed)):
                if flip is not None and passed <= flip < passed + len(data):
                    data = bytearray(data)
                    data[flip - passed] ^= 0x10
                if drip is not None and passed >= drip:
                    while len(data) > 1 and not self.opened.wait(0.5):
                        sink.sendall(data[:1])
                        passed, data = passed + 1, data[1:]
                sink.sendall(data)
                passed += len(data)
                if passed == limit:
                    break
        except OSError:
            pass
        self._shut(pair)

    @staticmethod
    def _shut(sockets):
        for one in sockets:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def open(self):
        self.opened.set()

    def cut(self):
        self.open()
        self._shut(self.sockets)

    def close(self):
        self._shut([self.server])  # wakes accept()
        self.threads[0].join()
        self.server.close()
        self.cut()
        for thread in self.threads:
            thread.join()
        for one in self.sockets:
            one.close()


class FrameRelay(Relay):
    """Forwards plain connections frame by frame and cuts all before the first frame of the type `cut_before` in either
    direction (docs/spec/wire.md, "Frames"): that frame does not arrive."""

    TYPES = {"Ready": 0x0e, "Handover": 0x0f, "Running": 0x10, "Finish": 0x0d}

    def __init__(self, target, cut_before, at_cut=lambda: None):
        self.cut_type, self.at_cut = self.TYPES[cut_before], at_cut
        super().__init__(target)

    def _pump(self, pair, source, sink, direction, harmed):
        try:
            with source.makefile("rb") as stream:
                while len(header := stream.read(48)) == 48:
                    if int.from_bytes(header[4:6], "little") == self.cut_type:
                        self.at_cut()
                        break
                    size = int.from_bytes(header[8:12], "little") + int.from_bytes(header[12:16], "little")
                    sink.sendall(header + stream.read(size))
        except OSError:
            pass
        self.cut()


class Network:
    """Any number of connections to `port` of this host, until .part(): then those that are open end and new ones find
    nobody. .heal() lets them through again."""

    def __init__(self, port):
        self.port, self.parted, self.sockets, self.threads = port, False, [], []
        self.server = socket.create_server(("127.0.0.1", 0))
        self.own_port = self.server.getsockname()[1]
        self.threads.append(threading.Thread(target=self._accept))
        self.threads[0].start()

    def _accept(self):
        while True:
            try:
                client, _ = self.server.accept()
            except OSError:
                return
            if self.parted:
                client.close()
                continue
            upstream = socket.create_connection(("127.0.0.1", self.port))
            self.sockets += [client, upstream]
            for ends in ((client, upstream), (upstream, client)):
                self.threads.append(threading.Thread(target=self._pump, args=ends))
                self.threads[-1].start()

    @staticmethod
    def _pump(source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def part(self):
        self.parted = True
        for one in self.sockets:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def heal(self):
        self.parted = False

    def close(self):
        self.part()
        self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()
        for thread in self.threads:
            thread.join()
        for one in self.sockets:
            one.close()


class HealingRelay(FrameRelay):
    """Cuts its first connection before or after a frame, as FrameRelay does, or leaves it "half open" towards the
    destination; those beside it pass until then. Then it carries nothing, until .heal() lets later connections through."""

    def __init__(self, target, cut, after=False):
        self.after, self.healed, self.over = after, threading.Event(), threading.Event()
        super().__init__(target, cut)

    def heal(self, target=None):
        if target is not None:
            host, port = target.removeprefix("tcp:").rsplit(":", 1)
            self.target = (host, int(port))
        self.healed.set()

    def _serve(self):
        first = True
        while True:
            try:
                client, _ = self.server.accept()
            except OSError:
                return
            if first:
                self._carry(client, self._pump)
            elif self.healed.is_set() or not self.over.is_set():
                self._carry(client, self._pass)
            else:
                client.close()
            first = False

    def _carry(self, client, pump):
        try:
            upstream = socket.create_connection(self.target)
        except OSError:
            client.close()
            return
        self.sockets += [client, upstream]
        for source, sink, way in ((client, upstream, "forth"), (upstream, client, "back")):
            self.threads.append(threading.Thread(target=pump, args=(source, sink, None, way)))
            self.threads[-1].start()

    def _pump(self, source, sink, limit, direction):
        last = b""
        try:
            with source.makefile("rb") as stream:
                while len(header := stream.read(48)) == 48:
                    size = int.from_bytes(header[8:12], "little") + int.from_bytes(header[12:16], "little")
                    frame = header + stream.read(size)
                    if int.from_bytes(header[4:6], "little") == self.cut_type:
                        last = frame if self.after is True else b""
                        break
                    sink.sendall(frame)
                if last:
                    sink.sendall(last)
        except OSError:
            pass
        self.over.set()
        if self.after == "half open" and direction == "forth":
            source.shutdown(socket.SHUT_RDWR)  # the source notices; the destination hears nothing any more
            return
        self._end(source, sink)

    def _pass(self, source, sink, limit, direction):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        self._end(source, sink)

    def _end(self, *both):
        self._shut(both)


class JournalRelay(HealingRelay):
    """Cuts its first connection, whatever it carries (TLS, too), when the source's journal has Committing: before what the
    source sends next ("forth", Handover) or before what the destination does ("back", Running)."""

    SLOT_BYTES, KIND_AT, COMMITTING = 4096, 5, 4

    def __init__(self, target, journal, way):
        self.journal, self.way = journal, way
        super().__init__(target, "Handover")

    def _committed(self):
        try:
            with open(self.journal, "rb") as file:
                data = file.read()
        except OSError:
            return False
        return self.COMMITTING in data[self.KIND_AT::self.SLOT_BYTES]

    def _pump(self, source, sink, limit, direction):
        try:
            while data := source.recv(65536):
                if direction == self.way and self._committed():
                    break
                sink.sendall(data)
        except OSError:
            pass
        self.over.set()
        self._end(source, sink)
