#!/bin/sh
# crsc-logctl and crsc-appendload against a real crsc-logd: usage: test_cli.sh LOGCTL LOGD APPENDLOAD
# What a person or a script relies on: exit statuses, where output goes, that JSON is JSON.
set -u
logctl=$1 logd=$2 appendload=$3
dir=$(mktemp -d) || exit 1
"$logd" --listen 127.0.0.1:0 --data-dir "$dir/data" --segment-size 4MiB --election-timeout 200ms 2>"$dir/log" &
pid=$!
trap 'kill $pid 2>/dev/null; wait $pid 2>/dev/null; rm -rf "$dir"' EXIT
failed=0
bad() { echo "FAILED: $*"; failed=1; }

tries=0
until grep -q '"msg":"ready"' "$dir/log"; do
    tries=$((tries + 1))
    if [ $tries -gt 300 ] || ! kill -0 $pid 2>/dev/null; then bad "crsc-logd did not start"; cat "$dir/log"; exit 1; fi
    sleep 0.1
done
CRSC_SERVERS=$(sed -n 's/.*"msg":"ready","listen":"\([^"]*\)".*/\1/p' "$dir/log" | head -n 1)
export CRSC_SERVERS

# expect STATUS NAME COMMAND...: stdout and stderr are left in $dir/out and $dir/err
expect() {
    want=$1 name=$2
    shift 2
    "$@" >"$dir/out" 2>"$dir/err"
    got=$?
    [ $got -eq "$want" ] || { bad "$name: exit status $got, not $want"; cat "$dir/err"; }
}
says() { grep -q -- "$1" "$dir/out" || { bad "$name: stdout has no \"$1\""; cat "$dir/out"; }; }
complains() { grep -q -- "$1" "$dir/err" || { bad "$name: stderr has no \"$1\""; cat "$dir/err"; }; }
is_json() { python3 -c 'import json,sys; [json.loads(l) for l in sys.stdin]' <"$dir/out" 2>/dev/null || bad "$name: not a JSON document a line"; }
is_json_document() { python3 -c 'import json,sys; json.load(sys.stdin)' <"$dir/out" 2>/dev/null || bad "$name: not one JSON document"; }

expect 0 load "$appendload" --servers "$CRSC_SERVERS" --stream cli/load --producers 2 --seconds 1 --rate 2000 --out "$dir/acked"
expect 0 verify "$appendload" --servers "$CRSC_SERVERS" --stream cli/load --producers 2 --verify --out "$dir/acked"
says '"violations":0'
sed '5s/ \([0-9]*\) \([0-9]*\) / \1 999999 /' "$dir/acked" >"$dir/wrong"
expect 1 'verify finds a changed event' "$appendload" --servers "$CRSC_SERVERS" --stream cli/load --producers 2 --verify --out "$dir/wrong"
says VIOLATION
{ cat "$dir/acked"; echo "cli/load-0 99999999 7 x/7"; } >"$dir/wrong"
expect 1 'verify finds a lost event' "$appendload" --servers "$CRSC_SERVERS" --stream cli/load --producers 2 --verify --out "$dir/wrong"
says 'is lost'

expect 0 status "$logctl" status
says "$CRSC_SERVERS"
says leader
expect 0 'status in JSON' "$logctl" status --output json
is_json_document
says '"leader": true'
expect 0 streams "$logctl" streams
says cli/load-1
expect 0 'streams with a prefix' "$logctl" streams cli/load-1
grep -q cli/load-0 "$dir/out" && bad 'streams: the prefix was ignored'
expect 0 'streams in JSON' "$logctl" --output json streams
is_json_document
expect 0 tail "$logctl" tail cli/load-0 -n 3
[ "$(wc -l <"$dir/out")" -eq 4 ] || bad 'tail -n 3 is not a header and three lines'
expect 0 'tail in JSON' "$logctl" tail cli/load-0 -n 7 --output json
is_json
[ "$(wc -l <"$dir/out")" -eq 7 ] || bad 'tail -n 7 is not seven lines'
expect 0 'tail that follows and ends' "$logctl" tail cli/load-0 --from 2 -n 5 --follow --output json
[ "$(sed -n 's/^{"offset":\([0-9]*\),.*/\1/p' "$dir/out" | tr '\n' ' ')" = '2 3 4 5 6 ' ] || bad 'tail --follow: not offsets 2 to 6'
expect 0 events "$logctl" events cli/load-0 --from 10 --to 12 --output json
is_json
[ "$(sed -n 's/^{"offset":\([0-9]*\),.*/\1/p' "$dir/out" | tr '\n' ' ')" = '10 11 12 ' ] || bad 'events: not offsets 10 to 12'
expect 0 'events with bodies' "$logctl" events cli/load-0 --from 10 --to 10 --body
expect 0 snapshots "$logctl" snapshots cli/load-0
expect 0 'snapshots in JSON' "$logctl" snapshots cli/load-0 --output json
is_json_document

for verb in status streams tail events snapshots; do
    expect 0 "help $verb" "$logctl" help $verb
    says Examples
    expect 0 "$verb --help" "$logctl" $verb --help
done
expect 0 --help "$logctl" --help
says 'Exit status'
expect 0 --version "$logctl" --version

expect 2 'no verb' "$logctl"
expect 2 'a wrong verb' "$logctl" bogus
expect 2 'no stream' "$logctl" tail
expect 2 'an option of another verb' "$logctl" streams --follow
expect 2 'a wrong number' "$logctl" events cli/load-0 --from x
expect 2 'a range that ends before it begins' "$logctl" events cli/load-0 --from 9 --to 3
expect 2 'a wrong server' "$logctl" --servers nonsense streams
complains nonsense
expect 2 'a wrong format' "$logctl" --output xml streams
expect 2 'a wrong time' "$logctl" --timeout soon streams
expect 4 'events of no stream' "$logctl" events cli/none
complains 'crsc-logctl streams'
expect 4 'tail of no stream' "$logctl" tail cli/none --follow
expect 4 'snapshots of no stream' "$logctl" snapshots cli/none
expect 4 'an offset beyond' "$logctl" events cli/load-0 --from 99999999
expect 3 'nobody there' "$logctl" --servers 127.0.0.1:1,127.0.0.1:2 --timeout 300ms streams
complains 127.0.0.1:1
complains 127.0.0.1:2
expect 3 'status with nobody there' "$logctl" --servers 127.0.0.1:1 --timeout 300ms status
expect 1 'a full disk below stdout' sh -c '"$1" streams >/dev/full' sh "$logctl"

[ $failed -eq 0 ] && echo "crsc-logctl: every check passed"
exit $failed
