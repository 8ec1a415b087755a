"""A small API server for the tests of the operator: objects in memory, lists in pages, watches with bookmarks, merge patches, JSON patches,
server-side apply for maps, the status subresource, finalizers, 404/409/410/422/429; and faults on demand. Not Kubernetes: what an
operator can tell from it is what it promises here."""
import base64
import copy
import json
import ssl
import subprocess
import threading
import time
import urllib.parse
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HAS_STATUS = {"deployments", "statefulsets", "pods", "nodes", "protectedworkloads", "checkpoints", "restores", "migrations"}


def merge(target, patch):
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    target = target if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        else:
            target[key] = merge(target.get(key), value)
    return target


def unset(target, old, new):
    """Takes from target what `old` had applied and `new` does not: maps only, which is what we apply."""
    for key, value in old.items():
        if key not in new:
            if isinstance(value, dict) and isinstance(target.get(key), dict):
                unset(target[key], value, {})
                if not target[key]:
                    del target[key]
            else:
                target.pop(key, None)
        elif isinstance(value, dict) and isinstance(new[key], dict):
            unset(target.get(key, {}), value, new[key])


def json_patch(target, ops):
    for op in ops:
        parts = [p.replace("~1", "/").replace("~0", "~") for p in op["path"].split("/")[1:]]
        at = target
        for part in parts[:-1]:
            at = at[int(part)] if isinstance(at, list) else at[part]
        last = parts[-1]
        if op["op"] == "test":
            if (at[int(last)] if isinstance(at, list) else at.get(last)) != op["value"]:
                raise ValueError("test failed: " + op["path"])
        elif op["op"] in ("add", "replace"):
            if isinstance(at, list):
                at.insert(len(at) if last == "-" else int(last), op["value"])
            else:
                at[last] = op["value"]
        elif op["op"] == "remove":
            del at[int(last) if isinstance(at, list) else last]
        else:
            raise ValueError(op["op"])
    return target


class Refused(Exception):
    def __init__(self, code, reason, message="", causes=()):
        self.code, self.reason, self.message = code, reason, message or reason
        self.causes = list(causes)


class Kube:
    """The store. Every object change is an event with a version; watches read events from a version on."""

    def __init__(self):
        self.lock = threading.Condition()
        self.version = 100
        self.objects = {}   # (plural, namespace, name) -> object
        self.applied = {}   # the same, and the manager -> what it applied
        self.events = []    # (version, plural, type, object)
        self.oldest = 0     # versions up to this one are gone: 410
        self.faults = []    # functions (method, path) -> None or Refused or "cut" or "garbage"
        self.lists = {}     # version -> the objects then, for the pages of a list
        self.requests = []  # (method, path)
        self.mistaken = []  # (plural, name): a patch that named the uid of another object
        self.closing = False

    # -- direct access for tests
    def get(self, plural, name, space="default"):
        with self.lock:
            return copy.deepcopy(self.objects.get((plural, space, name)))

    def all(self, plural):
        with self.lock:
            return [copy.deepcopy(o) for (p, _, _), o in sorted(self.objects.items()) if p == plural]

    def put(self, plural, o, space="default"):
        with self.lock:
            o = copy.deepcopy(o)
            if space:
                o["metadata"].setdefault("namespace", space)
            return copy.deepcopy(self._store(plural, space, o["metadata"]["name"], o))

    def change(self, plural, name, patch, space="default"):
        with self.lock:
            o = merge(copy.deepcopy(self.objects[(plural, space, name)]), patch)
            return copy.deepcopy(self._store(plural, space, name, o))

    def delete(self, plural, name, space="default"):
        with self.lock:
            return copy.deepcopy(self._delete(plural, space, name))

    def forget_history(self):
        """What a compaction of etcd does: watches from old versions get 410."""
        with self.lock:
            self.oldest = self.version
            self.events, self.lists = [], {}
            self.version += 1
            self.lock.notify_all()

    # -- the rules
    def _event(self, plural, kind, o):
        self.events.append((self.version, plural, kind, copy.deepcopy(o)))
        self.lock.notify_all()

    def _store(self, plural, space, name, o):
        key = (plural, space, name)
        old = self.objects.get(key)
        head = o["metadata"]
        head.setdefault("uid", str(uuid.uuid4()))
        head.setdefault("creationTimestamp", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
        if old is not None:
            was, now = copy.deepcopy(old), copy.deepcopy(o)
            for x in (was, now):
                x["metadata"].pop("resourceVersion", None)
            if was == now:
                o["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"]
                return old
            if was.get("spec") != now.get("spec"):
                head["generation"] = head.get("generation", 1) + 1
        else:
            head.setdefault("generation", 1)
        self.version += 1
        head["resourceVersion"] = str(self.version)
        if head.get("deletionTimestamp") and not head.get("finalizers"):
            del self.objects[key]
            self.applied = {k: v for k, v in self.applied.items() if k[:3] != key}
            self._event(plural, "DELETED", o)
            return o
        self.objects[key] = o
        self._event(plural, "ADDED" if old is None else "MODIFIED", o)
        return o

    def _delete(self, plural, space, name):
        key = (plural, space, name)
        if key not in self.objects:
            raise Refused(404, "NotFound", f"{plural} \"{name}\" not found")
        o = copy.deepcopy(self.objects[key])
        o["metadata"].setdefault("deletionTimestamp", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
        return self._store(plural, space, name, o)

    def _check_version(self, old, new):
        wanted = new.get("metadata", {}).get("resourceVersion")
        if wanted and wanted != old["metadata"]["resourceVersion"]:
            raise Refused(409, "Conflict", "the object has been modified")

    def write(self, method, plural, space, name, sub, body, kind, manager):
        with self.lock:
            key = (plural, space, name)
            if method == "POST":
                name = body["metadata"].get("name") or body["metadata"]["generateName"] + uuid.uuid4().hex[:5]
                body["metadata"]["name"] = name
                if (plural, space, name) in self.objects:
                    raise Refused(409, "AlreadyExists", f"{plural} \"{name}\" already exists")
                if space:
                    body["metadata"]["namespace"] = space
                if plural in HAS_STATUS:
                    body.pop("status", None)
                return copy.deepcopy(self._store(plural, space, name, body))
            if method == "DELETE":
                uid = (body or {}).get("preconditions", {}).get("uid")
                if uid and key in self.objects and self.objects[key]["metadata"]["uid"] != uid:
                    raise Refused(409, "Conflict", "another uid")
                return copy.deepcopy(self._delete(plural, space, name))
            if kind == "application/apply-patch+yaml":
                return copy.deepcopy(self._apply(plural, space, name, body, manager))
            if key not in self.objects:
                raise Refused(404, "NotFound", f"{plural} \"{name}\" not found")
            old = self.objects[key]
            uid = body["metadata"].get("uid") if isinstance(body, dict) and "metadata" in body else None
            if uid and uid != old["metadata"]["uid"]:
                self.mistaken.append((plural, name))
                if len(self.mistaken) % 2:  # by what it is compared with first
                    message = f"Invalid value: \"{uid}\": field is immutable"
                    raise Refused(422, "Invalid", f"{plural} \"{name}\" is invalid: metadata.uid: {message}",
                                  [{"reason": "FieldValueInvalid", "message": message, "field": "metadata.uid"}])
                raise Refused(409, "Conflict", f"Precondition failed: UID in precondition: {uid}, UID in object meta: {old['metadata']['uid']}")
            if kind == "application/json-patch+json":
                new = json_patch(copy.deepcopy(old), body)
            elif method == "PUT":
                self._check_version(old, body)
                new = merge({}, body)
                new["metadata"] = merge(copy.deepcopy(old["metadata"]), new["metadata"])
            else:
                self._check_version(old, body)
                new = merge(copy.deepcopy(old), body)
            if plural in HAS_STATUS:  # each half can only be changed through its own door
                if sub == "status":
                    new, new["status"] = copy.deepcopy(old), new.get("status", {})
                elif "status" in old:
                    new["status"] = copy.deepcopy(old["status"])
                else:
                    new.pop("status", None)
            return copy.deepcopy(self._store(plural, space, name, new))

    def _apply(self, plural, space, name, body, manager):
        key = (plural, space, name)
        mine = {k: v for k, v in body.items() if k not in ("apiVersion", "kind", "status")}
        mine["metadata"] = {k: v for k, v in body["metadata"].items() if k not in ("name", "namespace")}
        new = copy.deepcopy(self.objects.get(key) or {"apiVersion": body["apiVersion"], "kind": body["kind"], "metadata": {"name": name}})
        if space:
            new["metadata"]["namespace"] = space
        unset(new, self.applied.get(key + (manager,), {}), mine)
        self.applied[key + (manager,)] = copy.deepcopy(mine)
        return self._store(plural, space, name, merge(new, mine))


def select(o, selector):
    labels = o["metadata"].get("labels", {})
    for part in filter(None, (selector or "").split(",")):
        key, _, value = part.partition("=")
        if key not in labels or (value and labels[key] != value):
            return False
    return True


def parse_path(path):
    """(plural, namespace, name, subresource)"""
    parts = path.strip("/").split("/")
    parts = parts[2:] if parts[0] == "api" else parts[3:]
    space = ""
    if parts[0] == "namespaces" and len(parts) > 2:
        space, parts = parts[1], parts[2:]
    return parts[0], space, parts[1] if len(parts) > 1 else "", parts[2] if len(parts) > 2 else ""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def _send(self, code, value):
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, r):
        details = {"retryAfterSeconds": 1} if r.code == 429 else {"causes": r.causes} if r.causes else {}
        self._send(r.code, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": r.reason, "message": r.message, "code": r.code,
                            "details": details})

    def _any(self):
        kube = self.server.kube
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length) if length else b""
        try:
            kube.requests.append((self.command, self.path))
            if self.server.token and self.headers.get("Authorization") != "Bearer " + self.server.token:
                raise Refused(401, "Unauthorized")
            for fault in list(kube.faults):
                what = fault(self.command, self.path)
                if isinstance(what, Refused):
                    raise what
                if what == "cut":
                    self.close_connection = True
                    return
                if what == "garbage":
                    self._send(200, b"{\"kind\": \"this is not")
                    return
            plural, space, name, sub = parse_path(url.path)
            if self.command == "GET" and query.get("watch") == "true":
                self._watch(plural, space, query)
            elif self.command == "GET" and not name:
                self._list(plural, space, query)
            elif self.command == "GET":
                o = kube.get(plural, name, space)
                if o is None:
                    raise Refused(404, "NotFound", f"{plural} \"{name}\" not found")
                self._send(200, o)
            else:
                body = json.loads(raw) if raw else {}
                kind = self.headers.get("Content-Type") or ""
                o = kube.write(self.command, plural, space, name, sub, body, kind, query.get("fieldManager"))
                self._send(201 if self.command == "POST" else 200, o)
        except OSError:
            self.close_connection = True
        except (Refused, ValueError, KeyError, TypeError, IndexError) as e:
            try:
                self._refuse(e if isinstance(e, Refused) else Refused(422, "Invalid", repr(e)))
            except OSError:  # who asked is gone
                self.close_connection = True

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _any

    def _list(self, plural, space, query):
        """All pages of a list are of one moment, as etcd's are."""
        kube = self.server.kube
        limit = min(int(query.get("limit", 500)), self.server.page)
        with kube.lock:
            if query.get("continue"):
                start, _, version = query["continue"].partition(".")
                if int(version) <= kube.oldest or version not in kube.lists:
                    raise Refused(410, "Expired", "the continue token is too old")
            else:
                start, version = 0, str(kube.version)
                kube.lists[version] = copy.deepcopy(kube.objects)
            items = [o for (p, s, _), o in sorted(kube.lists[version].items())
                     if p == plural and (not space or s == space) and select(o, query.get("labelSelector"))]
        start = int(start)
        head = {"resourceVersion": version}
        if start + limit < len(items):
            head["continue"] = f"{start + limit}.{version}"
        self._send(200, {"kind": "List", "apiVersion": "v1", "metadata": head, "items": items[start:start + limit]})

    def _watch(self, plural, space, query):
        kube = self.server.kube
        at, selector = int(query["resourceVersion"]), query.get("labelSelector")
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

        def line(kind, o):
            text = (json.dumps({"type": kind, "object": o}) + "\n").encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(text), text))
            self.wfile.flush()

        generation = self.server.generation
        end = time.monotonic() + float(query.get("timeoutSeconds", 60))
        bookmark = time.monotonic() + 1
        while self.server.generation == generation and not kube.closing and time.monotonic() < end:
            with kube.lock:
                gone = at < kube.oldest
                news = [e for e in kube.events if e[0] > at and e[1] == plural]
                at = kube.version if not gone else at
                if not news and not gone and time.monotonic() < bookmark:
                    kube.lock.wait(0.2)
                    continue
            if gone:
                line("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"})
                break
            for _, _, kind, o in news:
                if (not space or o["metadata"].get("namespace") == space) and select(o, selector):
                    line(kind, o)
            if not news and query.get("allowWatchBookmarks") == "true":
                line("BOOKMARK", {"metadata": {"resourceVersion": str(at)}})
            bookmark = time.monotonic() + 1
        if self.server.generation == generation:
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """An operator that was killed leaves connections; that is all there can be."""


class Server:
    """A Kube behind HTTPS on a free port of loopback, with a kubeconfig file for it."""

    def __init__(self, directory, token="secret-token", page=500):
        self.kube = Kube()
        self.directory = directory
        key, cert = f"{directory}/api.key", f"{directory}/api.crt"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj",
                        "/CN=fake-kube", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert], check=True,
                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.http = QuietServer(("127.0.0.1", 0), Handler)
        self.http.kube, self.http.token, self.http.page, self.http.generation = self.kube, token, page, 0
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        self.http.socket = context.wrap_socket(self.http.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self.http.socket.getsockname()[1]
        self.token_file = f"{directory}/token"
        self.set_token(token)
        self.kubeconfig = f"{directory}/kubeconfig"
        with open(cert, "rb") as f:
            ca = base64.b64encode(f.read()).decode()
        with open(self.kubeconfig, "w") as f:
            f.write(f"""apiVersion: v1
kind: Config
current-context: test
contexts:
- name: test
  context: {{cluster: fake, user: me, namespace: crsc-system}}
clusters:
- name: fake
  cluster: {{server: "https://127.0.0.1:{self.port}", certificate-authority-data: {ca}}}
users:
- name: me
  user: {{tokenFile: "{self.token_file}"}}
""")
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.thread.start()

    def set_token(self, token):
        with open(self.token_file, "w") as f:
            f.write(token + "\n")
        self.http.token = token

    def cut_watches(self):
        with self.kube.lock:
            self.http.generation += 1
            self.kube.lock.notify_all()

    def __enter__(self):
        return self

    def __exit__(self, *args):
        with self.kube.lock:
            self.kube.closing = True
            self.kube.lock.notify_all()
        self.http.shutdown()
        self.http.server_close()
