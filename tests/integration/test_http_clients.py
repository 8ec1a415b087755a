#!/usr/bin/env python3
"""The interceptor between programs that others wrote: curl, wrk and Go's net/http as clients, nginx in front of it, nginx and Go's net/http behind it.
What is not installed is left out, and said."""
import gzip
import hashlib
import os
import shutil
import subprocess
import time

from harness import ROOT, Cluster, Skip, check, free_ports, main, wait_until
from test_http import HttpFront, field, prepare
from test_interceptor import Front

GO_CLIENT = r'''
package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func serve(listen string) {
	http.HandleFunc("/sum", func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.New()
		n, err := io.Copy(sum, r.Body)
		must(err)
		w.Header().Set("Trailer", "X-Sum")
		fmt.Fprintf(w, "%d %s", n, r.Trailer.Get("X-Told"))
		w.(http.Flusher).Flush()
		w.Header().Set("X-Sum", fmt.Sprintf("%x", sum.Sum(nil)))
	})
	http.HandleFunc("/none", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(204) })
	must(http.ListenAndServe(listen, nil))
}

type noted struct {
	io.Reader
	done func()
}

func (n *noted) Read(p []byte) (int, error) {
	k, err := n.Reader.Read(p)
	if err == io.EOF {
		n.done()
	}
	return k, err
}

func ask(client *http.Client, base string, body []byte, sized, expect bool) {
	trailer := http.Header{"X-Told": nil}
	var reader io.Reader = bytes.NewReader(body)
	if !sized {
		reader = &noted{reader, func() { trailer.Set("X-Told", "yes") }}
	}
	r, err := http.NewRequest("POST", base+"/sum", reader)
	must(err)
	told := ""
	if !sized {
		r.Trailer, told = trailer, "yes"
	}
	if expect {
		r.Header.Set("Expect", "100-continue")
	}
	answer, err := client.Do(r)
	must(err)
	text, err := io.ReadAll(answer.Body)
	must(err)
	answer.Body.Close()
	sum := fmt.Sprintf("%x", sha256.Sum256(body))
	if answer.StatusCode != 200 || string(text) != fmt.Sprintf("%d %s", len(body), told) || answer.Trailer.Get("X-Sum") != sum {
		panic(fmt.Sprintf("%d bytes, sized %v: %s %q %v", len(body), sized, answer.Status, text, answer.Trailer))
	}
}

func main() {
	if os.Args[1] == "serve" {
		serve(os.Args[2])
	}
	base := os.Args[2]
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 20, ExpectContinueTimeout: 5 * time.Second}}
	for _, size := range []int{0, 1, 5000, 70000, 1 << 20, 5 << 20} {
		body := bytes.Repeat([]byte("0123456789abcdef"), size/16+1)[:size]
		ask(client, base, body, true, false)
		ask(client, base, body, true, true)
		ask(client, base, body, false, false)
	}
	var group sync.WaitGroup
	for k := 0; k < 20; k++ {
		group.Add(1)
		go func() {
			defer group.Done()
			for i := 0; i < 20; i++ {
				ask(client, base, []byte(strings.Repeat("x", i*100)), i%2 == 0, false)
			}
		}()
	}
	group.Wait()
	for _, method := range []string{"GET", "HEAD", "DELETE", "PATCH", "OPTIONS"} {
		r, err := http.NewRequest(method, base+"/none", nil)
		must(err)
		answer, err := client.Do(r)
		must(err)
		answer.Body.Close()
		if answer.StatusCode != 204 {
			panic(method + ": " + answer.Status)
		}
	}
	fmt.Println("ok")
}
'''


def need(*programs):
    missing = [p for p in programs if shutil.which(p) is None]
    if missing:
        raise Skip(f"not installed: {' '.join(missing)}")


class Outside:
    """Something that listens at `upstream` already."""

    def __init__(self, port):
        self.upstream = f"127.0.0.1:{port}"


def start_nginx(bench, name, body):
    port = free_ports(1)[0]
    folder = bench.path(name)
    os.makedirs(folder)
    os.chmod(folder, 0o755)
    with open(os.path.join(folder, "nginx.conf"), "w", encoding="ascii") as f:
        temp = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        f.write(f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;\nevents {{ worker_connections 256; }}\n"
                f"http {{ access_log off; {temp} client_max_body_size 0;\n{body.replace('PORT', str(port)).replace('FOLDER', folder)}\n}}\n")
    process = bench.spawn(name, ["nginx", "-p", folder, "-c", os.path.join(folder, "nginx.conf")])

    def listens():
        check(process.alive(), "nginx did not start:\n%s", process.tail())
        try:
            os.stat(os.path.join(folder, "pid"))
            return True
        except OSError:
            return False
    wait_until("nginx", listens)
    return process, port, folder


def test_curl(bench, rng):
    need("curl")
    _, app, front = prepare(bench)
    url, file = f"http://127.0.0.1:{front.port}", bench.path("file")
    data = rng.randbytes(3_000_000)
    with open(file, "wb") as f:
        f.write(data)

    def curl(*argv):
        return bench.run("curl", "-sS", "--max-time", "60", *argv)[0]
    for argv in ([], ["--http1.0"], ["--http2"], ["-H", "Expect: 100-continue"], ["-H", "Transfer-Encoding: chunked"]):
        check(curl("--data-binary", "hello", *argv, f"{url}/echo") == "hello", "curl %s", argv)
    check(curl("-T", file, f"{url}/put") == str(len(app.requests)), "curl -T")
    check(app.of("/put")[0][1] == data, "another file came")
    check(curl("-T", "-", "-H", "Expect:", f"{url}/stdin", "--no-progress-meter") and app.of("/stdin")[0][1] == b"", "curl -T - of nothing")
    check(curl("-X", "POST", "-H", "Transfer-Encoding: chunked", "--data-binary", f"@{file}", f"{url}/chunked") and app.of("/chunked")[0][1] == data, "in chunks")
    check("content-length: 12345" in curl("-I", f"{url}/big?12345").lower(), "curl -I")
    before = len(app.connections)
    said = curl("-w", "%{num_connects}\n", *[x for i in range(10) for x in ("-o", "/dev/null", f"{url}/big?{i}")])
    check(said.split() == ["1"] + ["0"] * 9, "curl did not keep its connection: %s", said)
    check(len(app.connections) - before < 5, "%d connections to the app", len(app.connections) - before)
    check(curl("-w", "%{http_code}", f"{url}/204") == "204", "204")
    out, _ = bench.run("curl", "-s", "--max-time", "60", "-o", "/dev/null", "-w", "%{size_download}", f"{url}/big?50000000")
    check(out == "50000000", "a download: %s", out)
    app.close()


def test_wrk(bench, rng):
    """Many at once, for a moment: no answer is missing, none is wrong, and each POST reached the app once."""
    need("wrk")
    cluster = Cluster(bench, n=1).start()
    cluster.wait_leader()
    front = Front(bench, cluster)  # the counter: faster than an app in Python
    front.start_app()
    front.wait_active()
    script = bench.path("post.lua")
    with open(script, "w", encoding="ascii") as f:
        f.write('n = 0\nrequest = function() n = n + 1 return wrk.format("POST", "/add?id=w" .. n) end\n')
    for argv in (["-s", script, f"http://127.0.0.1:{front.port}/"], [f"http://127.0.0.1:{front.port}/count"]):
        out, _ = bench.run("wrk", "-t1", "-c40", "-d1s", "--timeout", "60s", *argv)
        check("Non-2xx" not in out and "Socket errors" not in out, "%s", out)
    wait_until("nothing waits", lambda: front.status()["requests"]["held"] == 0)

    def counted():
        logged = front.status()["requests"]["logged"]
        return logged == int(front.direct("GET", "/count")[2].split(b":")[1].rstrip(b"}")) and logged
    check(wait_until("the app has what was logged, each once", counted, pause=0.1) > 50, "too little to show anything")


def test_go(bench, rng):
    """Go's net/http on both sides: sized and chunked bodies, trailers, 100-continue, many at once over kept connections; and replayed."""
    go = shutil.which("go") or "/usr/local/go/bin/go"
    if not os.path.exists(go):
        raise Skip("Go is not installed")
    if bench.build.sanitized:
        raise Skip("once, in the release tree, is enough: it builds Go's library first")
    os.makedirs(bench.path("go"))
    with open(bench.path("go", "main.go"), "w", encoding="ascii") as f:
        f.write(GO_CLIENT)
    environment = {**os.environ, "GOCACHE": os.path.join(ROOT, "build", "go-cache"), "GOPROXY": "off", "GO111MODULE": "off", "CGO_ENABLED": "0", "GOFLAGS": ""}
    done = subprocess.run([go, "build", "-o", bench.path("go", "both"), bench.path("go", "main.go")], env=environment, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=600)
    check(done.returncode == 0, "%s", done.stdout)
    cluster = Cluster(bench, n=1).start()
    cluster.wait_leader()
    port = free_ports(1)[0]

    def serve(name, port):
        process = bench.spawn(name, [bench.path("go", "both"), "serve", f"127.0.0.1:{port}"])
        process.expected_dead = True
        return process
    first = serve("go-1", port)
    front = HttpFront(bench, cluster, Outside(port), ("--ordering", "concurrent"))
    out, _ = bench.run(bench.path("go", "both"), "ask", f"http://127.0.0.1:{front.port}", timeout=120)
    check(out == "ok\n", "%s", out)
    # the last answers' digests come into the log a little later than the answers
    wait_until("the digests are in the log, and a mark", lambda: front.status()["offsets"]["last"] >= 2 * 420 + 1)
    first.kill()
    port = free_ports(1)[0]
    second = serve("go-2", port)
    front.use(Outside(port))
    requests = front.status()["requests"]
    check(requests["replayed"] == 420 and requests["digest_mismatches"] == 0 and requests["digests_compared"] == 420, "%s", requests)
    front.process.stop()
    second.kill()


def test_nginx_in_front(bench, rng):
    """nginx as the proxy before it, with kept connections: bodies, long answers, and what both say of the client."""
    need("nginx")
    _, app, front = prepare(bench)
    _, port, _ = start_nginx(bench, "front", f"""
        upstream app {{ server 127.0.0.1:{front.port}; keepalive 8; }}
        server {{ listen 127.0.0.1:PORT; location / {{ proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection "";
          proxy_request_buffering off; proxy_set_header Host $host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }} }}""")
    outer = HttpFront.__new__(HttpFront)
    outer.port = port
    data = rng.randbytes(3_000_000)
    for _ in range(20):
        check(outer.ask("POST", "/echo", b"hello")[::2] == (200, b"hello"), "POST through nginx")
    check(outer.ask("POST", "/echo", data)[::2] == (200, data), "a large body through nginx")
    check(outer.ask("POST", "/echo", iter([data[:100_000]] * 30), {"Transfer-Encoding": "chunked"}, chunked=True)[2] == data[:100_000] * 30, "in chunks")
    check(len(outer.ask("GET", "/big?30000000")[2]) == 30_000_000, "a long answer through nginx")
    check(outer.ask("GET", "/204")[0] == 204 and outer.ask("GET", "/early")[2] == b"late" and outer.ask("HEAD", "/big?7")[1]["content-length"] == "7", "forms")
    check(field(app.of("/echo")[0][0], "X-Forwarded-For") == ["127.0.0.1, 127.0.0.1"], "%s", app.of("/echo")[0][0])
    app.close()


def test_nginx_behind(bench, rng):
    """A web server as the app: files, ranges, conditions, compression, its own refusals, and its keep-alive."""
    need("nginx")
    cluster = Cluster(bench, n=1).start()
    cluster.wait_leader()
    process, port, folder = start_nginx(bench, "behind", """
        gzip on; gzip_min_length 1; gzip_types text/plain; types { text/plain txt; } keepalive_requests 10;
        server { listen 127.0.0.1:PORT; root FOLDER; location /said { return 200 "said\\n"; } location /moved { return 301 /said; }
          location /small { client_max_body_size 10; proxy_pass http://127.0.0.1:1; } }""")
    data = b"a line of text\n" * 200_000
    with open(os.path.join(folder, "file.txt"), "wb") as f:
        f.write(data)
    os.chmod(os.path.join(folder, "file.txt"), 0o644)
    front = HttpFront(bench, cluster, Outside(port))
    status, headers, got = front.ask("GET", "/file.txt")
    check((status, got) == (200, data), "a file: %d, %d bytes", status, len(got))
    check(front.ask("GET", "/file.txt", headers={"If-None-Match": headers["etag"]})[::2] == (304, b""), "If-None-Match")
    status, _, got = front.ask("GET", "/file.txt", headers={"Range": "bytes=100-199"})
    check((status, got) == (206, data[100:200]), "a range: %d %s", status, got)
    status, headers, got = front.ask("GET", "/file.txt", headers={"Accept-Encoding": "gzip"})
    check(headers.get("content-encoding") == "gzip" and hashlib.sha256(gzip.decompress(got)).digest() == hashlib.sha256(data).digest(), "compressed, in chunks")
    for _ in range(35):  # more than it keeps a connection for
        check(front.ask("POST", "/said", b"x")[::2] == (200, b"said\n"), "POST")
    check(front.ask("POST", "/moved", b"x")[0] == 301 and front.ask("GET", "/none")[0] == 404, "its own answers")
    check(front.ask("POST", "/small", b"x" * 1000)[0] == 413 and front.ask("POST", "/small", b"x" * 3_000_000)[0] == 413, "what it finds too large")
    front.wait_active()
    process.stop()


if __name__ == "__main__":
    main([test_curl, test_wrk, test_go, test_nginx_in_front, test_nginx_behind])
