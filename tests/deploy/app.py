"""A local app that says who it thinks its user is: app.py PORT. Answers each request with one line of JSON."""
import http.server
import json
import sys
import time


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/slow":
            time.sleep(0.1)  # so that some requests are under way at any time
        words = {"peer": self.client_address[0], "path": self.path, "port": self.server.server_port}
        body = json.dumps(words | {name.lower(): value for name, value in self.headers.items()}).encode() + b"\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


with Server(("127.0.0.1", int(sys.argv[1])), Handler) as server:
    print("listening", flush=True)
    server.serve_forever()
