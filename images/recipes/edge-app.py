"""Counts visits in redis and tells each visitor which one it is."""

import os
import signal
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REDIS = (os.environ.get("REDIS_HOST", "127.0.0.1"), int(os.environ.get("REDIS_PORT", "6379")))


def redis(*words):
    """One command, one answer (RESP2): an integer, a string, or None."""
    command = b"*%d\r\n" % len(words)
    for word in map(str.encode, words):
        command += b"$%d\r\n%s\r\n" % (len(word), word)
    with socket.create_connection(REDIS, timeout=10) as connection, connection.makefile("rb") as answers:
        connection.sendall(command)
        kind, rest = (line := answers.readline().rstrip(b"\r\n"))[:1], line[1:]
        if kind == b":":
            return int(rest)
        if kind == b"+":
            return rest.decode()
        if kind == b"$":
            return None if rest == b"-1" else answers.read(int(rest)).decode()
        raise OSError(f"redis says {line!r}")


class Visit(BaseHTTPRequestHandler):
    """`/` counts, `/health` says whether counting would work."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        status, text = self.found()
        body = f"{text}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def found(self):
        try:
            if self.path == "/":
                return 200, f"visit {redis('INCR', 'visits')}"
            if self.path == "/health":
                return 200, redis("PING")
            return 404, "there is nothing here"
        except OSError as error:
            return 503, f"redis does not answer: {error}"

    def log_request(self, code="-", size="-"):
        if self.path != "/health":
            super().log_request(code, size)


class Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """Clients that go away before they are answered are their own affair."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
Server(("", 8000), Visit).serve_forever()
