"""A server that takes batches, or does not: it answers as a test tells it, and remembers what it was sent."""

from __future__ import annotations

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Receiver:
    """An HTTP server that answers as it is told, and remembers what it was sent.

    Attributes:
        answers: A status, or a function called with the request before one follows; the last one stays.
        received: Key and body of each request.
        taken: Those that were answered with success.
    """

    def __init__(self, *answers):
        self.answers, self.received, self.taken, self.types = list(answers), [], [], set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.types.add(self.headers["Content-Type"])
                receiver.answer(self, self.headers["Idempotency-Key"], body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"

    def answer(self, request, key, body):
        self.received.append((key, body))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        status = answer() if callable(answer) else answer
        if status is None:
            request.close_connection = True  # without a word
            return
        if 200 <= status < 300:
            self.taken.append((key, body))
        request.send_response(status)
        if status == 429:
            request.send_header("Retry-After", "0")
        if status == 301:
            request.send_header("Location", self.url)
        request.send_header("Content-Length", "0")
        request.end_headers()


@contextlib.contextmanager
def receiving(*answers):
    receiver = Receiver(*answers)
    thread = threading.Thread(target=receiver.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.server.shutdown()
        receiver.server.server_close()
        thread.join()
