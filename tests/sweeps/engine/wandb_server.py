"""A stand-in for W&B's server on loopback: registers a sweep and hands its points to agents, nothing else."""

import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

VIEWER = {"id": "u", "username": "me", "entity": "me", "flags": "{}", "teams": {"edges": []}, "admin": False}


class WandbServer(ThreadingHTTPServer):
    """Hands out each point once, whichever agent asks.

    Attributes:
        points: The points that are left.
        config: The sweep's configuration, as it was registered.
        running: What each agent said last about its runs.
    """

    daemon_threads = True

    def __init__(self, points):
        super().__init__(("127.0.0.1", 0), Handler)
        self.points = list(points)
        self.config = ""
        self.handed_out = 0
        self.agents = 0
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, query, variables):
        """Return the data of one GraphQL operation."""
        for name in ("UpsertSweep", "SweepWithRuns", "CreateAgent", "Heartbeat"):
            if name in query.partition("(")[0]:
                with self.lock:
                    return getattr(self, name)(variables)
        return {"viewer": VIEWER, "serverInfo": {"cliVersionInfo": {}, "latestLocalVersionInfo": None}}

    def UpsertSweep(self, variables):  # noqa: N802
        self.config = variables["config"]
        project = {"id": "p", "name": "project", "entity": {"id": "e", "name": "me"}}
        return {"upsertSweep": {"sweep": {"name": "swp", "project": project}, "configValidationWarnings": []}}

    def SweepWithRuns(self, variables):  # noqa: N802
        assert (variables["entity"], variables["project"], variables["sweep"]) == ("me", "project", "swp")
        return {"project": {"sweep": {"id": "s", "name": "swp", "config": self.config, "runs": {"edges": []}}}}

    def CreateAgent(self, _):  # noqa: N802
        self.agents += 1
        return {"createAgent": {"agent": {"id": f"agent-{self.agents}"}}}

    def Heartbeat(self, variables):  # noqa: N802
        commands = []
        if not json.loads(variables["runState"] or "{}"):
            commands = [self.next_run() if self.points else {"type": "exit"}]
        return {"agentHeartbeat": {"agent": {"id": variables["id"]}, "commands": json.dumps(commands)}}

    def next_run(self):
        self.handed_out += 1
        arguments = {name: {"value": value} for name, value in self.points.pop(0).items()}
        return {"type": "run", "run_id": f"run{self.handed_out}", "program": "symbreak", "args": arguments}


class Handler(BaseHTTPRequestHandler):
    server: WandbServer

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        request = json.loads(body or b"{}")
        self.reply({"data": self.server.answer(request.get("query", ""), request.get("variables"))})

    def do_GET(self):
        self.reply({})

    def reply(self, content):
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass
