#!/usr/bin/env python3
"""The manual pages: every setting, verb and option is in the page of its program, and the page can be read."""
import os
import re
import shutil
import subprocess

from harness import ROOT, check, main

DAEMONS = ("crsc-logd", "crsc-interceptor", "crsc-operator")


def readable(page, name):
    """groff's complaints, if it is there."""
    if shutil.which("groff") is None:
        return
    done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-z"], input=page, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    bad = [line for line in done.stdout.splitlines() if "cannot break" not in line and "cannot adjust" not in line and "can't break" not in line]
    check(done.returncode == 0 and not bad, "%s: %s", name, bad[:5])


def test_settings_are_in_the_page(bench, rng):
    for name in DAEMONS:
        shown, _ = bench.run(name, "--help")
        page, _ = bench.run(name, "--print-man")
        settings = re.findall(r"^  --([a-z0-9-]+) ", shown, re.M)
        check(len(settings) > 8, "%s has only %s", name, settings)
        plain = page.replace("\\-", "-").replace("\\&", "").replace("\\e", "\\")
        for setting in settings:
            check(re.search(rf"^\.BI? --{re.escape(setting)}( |$)", plain, re.M), "%s: --%s is not in its page", name, setting)
        for line in page.splitlines():
            check(not line.startswith(".") or re.match(r"^\.(TH|SH|TP|B|BI|BR|nf|fi)( |$)", line), "%s: not a request of ours: %s", name, line)
        for words in re.findall(r"^      (.{5,}?)(?: \(default .*\))?$", shown, re.M):
            check(words[:60] in plain, "%s: \"%s\" is not in its page", name, words)
        readable(page, name)


def test_verbs_and_options_are_in_the_page(bench, rng):
    with open(os.path.join(ROOT, "docs", "man", "crsc-logctl.1"), encoding="utf-8") as f:
        page = f.read()
    plain = page.replace("\\-", "-").replace("\\fB", "").replace("\\fR", "").replace("\\fI", "").replace("\\fP", "")
    bash, _ = bench.run("crsc-logctl", "completion", "bash")
    verbs = set(re.search(r"''\) COMPREPLY=\(\$\(compgen -W '([^']*)'", bash)[1].split())
    options = {w for w in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", " ".join(re.findall(r"(?:options='|compgen -W ['\"])([^'\"]*)", bash)))}
    check({"status", "trim", "bench"} <= verbs and {"--follow", "--servers", "--clients", "-n"} <= options, "%s %s", verbs, options)
    for word in sorted(verbs):
        if not word.startswith("-") and word != "help":
            check(re.search(rf"^\.B[IR]? {word}( |$)", plain, re.M), "the verb %s is not in the page", word)
    for option in sorted(options):
        check(re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", plain), "the option %s is not in the page", option)
    readable(page, "crsc-logctl")


main([test_settings_are_in_the_page, test_verbs_and_options_are_in_the_page])
