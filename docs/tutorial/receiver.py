"""Stands for whoever is paged: `python3 receiver.py` prints what is posted to port 9099."""

import json
from http.server import BaseHTTPRequestHandler, HTTPServer


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        print(json.loads(body)["data"]["text"], "\n", flush=True)
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing but pages."""


HTTPServer(("127.0.0.1", 9099), Handler).serve_forever()
