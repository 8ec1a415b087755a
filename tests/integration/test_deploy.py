#!/usr/bin/env python3
"""What is installed on a cluster: the chart and the kustomize base are the same objects, every program takes the flags that they give it, and the
operator's rights are those that docs/KUBERNETES.md explains. Without a cluster; tests/cluster has the rest."""
import os
import re
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import ROOT, Skip, check, main

BASE = os.path.join(ROOT, "deploy", "kustomize", "base", "crsc.yaml")


def documents():
    """(kind, name, text) of each object."""
    with open(BASE) as f:
        parts = re.split(r"^---\n", f.read(), flags=re.M)
    found = []
    for part in parts:
        kind, name = re.search(r"^kind: (\S+)", part, re.M), re.search(r"^metadata:\n  name: (\S+)", part, re.M)
        if kind and name:
            found.append((kind[1], name[1], part))
    return found


def args_of(text):
    block = re.search(r"^( +)args:\n((?:\1  - .*\n)+)", text, re.M)
    return [line.strip()[2:].strip("\"") for line in block[2].splitlines()]


def test_same_objects(bench, rng):
    done = subprocess.run([os.path.join(ROOT, "scripts", "render-kustomize"), "--check"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)
    if done.returncode == 77:
        raise Skip(done.stdout.strip())
    check(done.returncode == 0, "%s", done.stdout)


def find_helm():
    here = os.path.join(ROOT, "build", "cluster", "bin", "helm")
    helm = os.environ.get("HELM") or (here if os.path.exists(here) else shutil.which("helm"))
    if not helm:
        raise Skip("there is no helm: tests/cluster/build helm")
    return helm


def test_lint(bench, rng):
    bench.run(find_helm(), "lint", "--strict", os.path.join(ROOT, "deploy", "helm", "crsc"))


def test_agent_kubelet(bench, rng):
    """The agent may ask its kubelet only where that is wanted, and nothing else of Kubernetes then; it takes the flags."""
    chart, one = os.path.join(ROOT, "deploy", "helm", "crsc"), ("--show-only", "templates/agent.yaml", "--namespace", "crsc-system", "--kube-version", "1.31.0")
    without, _ = bench.run(find_helm(), "template", "crsc", chart, *one)
    check("rbac" not in without and "kubelet" not in without and "automountServiceAccountToken: true" not in without, "%s", without)
    _, refused = bench.run(find_helm(), "template", "crsc", chart, *one, "--set", "agent.kubelet.enabled=true", status=1)
    check("agent.kubelet.ca" in refused, "whom the token is for has to be said: %s", refused)
    for ca in ("", "/etc/kubernetes/pki/ca.crt"):
        text, _ = bench.run(find_helm(), "template", "crsc", chart, *one, "--set", f"agent.kubelet.enabled=true,agent.kubelet.ca={ca},agent.kubelet.insecure={'false' if ca else 'true'}")
        rules = text[text.index("kind: ClusterRole\n"):text.index("kind: ClusterRoleBinding\n")]
        check(re.findall(r"resources: \[(.*?)\].*\n    verbs: \[(.*?)\]", rules) == [("nodes/checkpoint", "create")], "%s", rules)
        pod = text[text.index("kind: DaemonSet\n"):]
        check("automountServiceAccountToken: true" in pod and ("/kubelet-ca.crt" in pod) == bool(ca) == (f"hostPath: {{path: {ca}, type: File}}" in pod), "%s", pod)
        given = [a.replace("$(NODE)", "node-1").replace("$(ADDRESS)", "127.0.0.1") for a in args_of(pod)]
        out, _ = bench.run("crsc-agent", *given, "--dump-config")
        check(re.search(r"^kubelet: .*https://127.0.0.1:10250", out, re.M) and re.search(r"^kubelet-token: .*/serviceaccount/token", out, re.M), "%s", out)
        check(re.search(r"^kubelet-insecure: .*true", out, re.M) if not ca else re.search(r"^kubelet-ca: .*/kubelet-ca.crt", out, re.M), "%s", out)
    with open(os.path.join(ROOT, "docs", "KUBERNETES.md")) as f:
        check("nodes/checkpoint" in f.read(), "docs/KUBERNETES.md does not explain it")


def test_kustomize(bench, rng):
    kubectl = shutil.which("kubectl") or os.path.join(ROOT, "build", "cluster", "bin", "kubectl")
    if not os.path.exists(kubectl):
        raise Skip("there is no kubectl")
    out, _ = bench.run(kubectl, "kustomize", os.path.join(ROOT, "deploy", "kustomize", "base"))
    for kind, name, _ in documents():
        check(re.search(rf"^kind: {kind}$", out, re.M) and f"name: {name}\n" in out, "kustomize leaves out %s %s", kind, name)
    for crd in ("protectedworkloads", "checkpoints", "restores", "migrations"):
        check(f"name: {crd}.crsc.io\n" in out, "kustomize leaves out the CRD %s", crd)


def test_objects(bench, rng):
    there = {(kind, name) for kind, name, _ in documents()}
    for wanted in (("StatefulSet", "crsc-logd"), ("PodDisruptionBudget", "crsc-logd"), ("Deployment", "crsc-operator"), ("DaemonSet", "crsc-agent"),
                   ("RuntimeClass", "crsc"), ("MutatingWebhookConfiguration", "crsc-webhook"), ("ClusterRole", "crsc-operator"), ("Role", "crsc-operator"),
                   ("NetworkPolicy", "crsc-logd"), ("NetworkPolicy", "crsc-operator"), ("Service", "crsc-webhook"), ("Service", "crsc-agent")):
        check(wanted in there, "%s %s is missing", *wanted)


def test_flags(bench, rng):
    """Every program says with --dump-config that it understands what it will be given."""
    for kind, name, program in (("StatefulSet", "crsc-logd", "crsc-logd"), ("Deployment", "crsc-operator", "crsc-operator"),
                                ("DaemonSet", "crsc-agent", "crsc-agent")):
        text = next(t for k, n, t in documents() if (k, n) == (kind, name))
        given = args_of(text)
        check(len(given) > 6, "no arguments found for %s", name)
        given = [a.replace("$(ORDINAL)", "1").replace("$(NODE)", "node-1").replace("$(ADDRESS)", "127.0.0.1") for a in given]
        out, _ = bench.run(program, *given, "--dump-config")
        for flag, value in zip(given, given[1:]):
            if flag.startswith("--") and not value.startswith("--"):
                check(re.search(rf"^{flag[2:]}: .*{re.escape(value)}", out, re.M), "%s: %s %s is not in:\n%s", program, flag, value, out)


def test_rights_are_explained(bench, rng):
    with open(os.path.join(ROOT, "docs", "KUBERNETES.md")) as f:
        doc = f.read()
    doc = doc[doc.index("## The operator's rights"):doc.index("## Watching it")]
    text = next(t for k, n, t in documents() if (k, n) == ("ClusterRole", "crsc-operator"))
    rules = re.findall(r"resources: \[(.*?)\](?:\n    resourceNames: \[(.*?)\])?\n    verbs: \[(.*?)\]", text)
    check(len(rules) > 10, "the rules were not found")
    for resources, names, verbs in rules:
        check("*" not in resources + verbs, "a right without a bound: %s %s", resources, verbs)
        for resource in resources.split(", "):
            base, _, sub = resource.partition("/")
            check(resource in doc or (sub == "status" and "`/status`" in doc), "docs/KUBERNETES.md does not explain %s", resource)
        for verb in verbs.split(", "):
            check(verb in doc, "docs/KUBERNETES.md does not explain %s on %s", verb, resources)
    check("secrets" not in [r for r, n, v in rules if not n and v != "create"], "the operator may read any Secret")


def test_fields_are_explained(bench, rng):
    """kubectl explain has a word about every field of ours."""
    folder = os.path.join(ROOT, "deploy", "crds")
    for name in ("protectedworkloads", "checkpoints", "restores", "migrations"):
        with open(os.path.join(folder, name + ".yaml")) as f:
            spec = f.read().partition("            spec:\n")[2]
        spec, _, conditions = spec.partition("                conditions:\n")  # those are Kubernetes' own
        fields = re.findall(r"^ +(\w+): \{(type: .*)\}$", spec, re.M)
        check(len(fields) >= 8, "%s: no fields were found", name)
        for field, text in fields:
            check(field == "items" or "description: " in text, "%s: %s has no description", name, field)


if __name__ == "__main__":
    main([test_same_objects, test_lint, test_agent_kubelet, test_kustomize, test_objects, test_flags, test_rights_are_explained, test_fields_are_explained])
