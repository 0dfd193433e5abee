"""A service to break: `python3 service.py PORT [CALLEE-PORT...]` asks its callees and counts for Prometheus."""

import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT, CALLEES = int(sys.argv[1]), sys.argv[2:]
counted = {"200": 0, "500": 0}


def work() -> str:
    """The status of one request: 500 when a callee does not answer."""
    try:
        for callee in CALLEES:
            urllib.request.urlopen(f"http://127.0.0.1:{callee}/", timeout=1).close()
        return "200"
    except OSError:
        return "500"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/metrics":
            body = "".join(f'http_requests_total{{code="{code}"}} {n}\n' for code, n in counted.items())
            self.answer(200, body)
        else:
            code = work()
            counted[code] += 1
            self.answer(int(code), "")

    def answer(self, code: int, body: str) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def customers() -> None:
    """Five requests a second, for the service that nobody else asks."""
    while True:
        time.sleep(0.2)
        counted[work()] += 1


if CALLEES:
    threading.Thread(target=customers, daemon=True).start()
ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
