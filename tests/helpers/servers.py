"""A web server with faults that tests choose."""

import contextlib
import functools
import http.server
import threading
import time
from contextlib import contextmanager


class Faults:
    """Faults of requests, by a part of their path.

    ``answers`` maps the part to a list of faults, one per request, after which requests
    are served as usual: a status code, ``"hang"``, ``"drip"``, ``"cut"`` or
    ``"garbage"``, or the status and the code of an error of S3. A single fault that is
    not in a list applies to all requests.
    """

    def __init__(self):
        self.answers = {}
        self.asked = []
        self._lock = threading.Lock()

    def next(self, path):
        with self._lock:
            self.asked.append(path)
            for part, answers in self.answers.items():
                if part in path:
                    if not isinstance(answers, list):
                        return answers
                    return answers.pop(0) if answers else None
        return None


class Handler(http.server.SimpleHTTPRequestHandler):
    def __init__(self, *args, faults, **kwargs):
        self.faults = faults
        super().__init__(*args, **kwargs)

    def log_message(self, *_):
        pass

    def do_GET(self):
        fault = self.faults.next(self.path)
        if isinstance(fault, int):
            self.send_error(fault)
        elif isinstance(fault, tuple):
            status, code = fault
            body = f"<Error><Code>{code}</Code><Message>busy</Message></Error>".encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        elif fault == "hang":
            time.sleep(2)
            self.close_connection = True
        elif fault == "drip":
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(100):  # at most five seconds
                    self.wfile.write(b"?")
                    time.sleep(0.05)
        elif fault in ("cut", "garbage"):
            length = 4096
            self.send_response(200)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(b"?" * (length if fault == "garbage" else length // 2))
            self.close_connection = fault == "cut"
        else:
            super().do_GET()


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    # With the default of 5, the system lets further clients wait for a second.
    request_queue_size = 64


@contextmanager
def serving(folder):
    """Serve a folder; yield its URL and the faults to inject."""
    faults = Faults()
    handler = functools.partial(Handler, directory=str(folder), faults=faults)
    with Server(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", faults
        finally:
            server.shutdown()
