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

expect 2 'trim needs --to' "$logctl" trim cli/load-1
expect 1 'trim without a snapshot' "$logctl" trim cli/load-1 --to 10
complains 'no valid snapshot'
expect 1 'trim beyond the end' "$logctl" trim cli/load-1 --to 99999999 --force
complains 'last offset is'
expect 0 'trim by force' "$logctl" trim cli/load-1 --to 10 --force
says 'begins at offset 11'
expect 0 'trim again' "$logctl" trim cli/load-1 --to 5 --output json
says '"first_offset":11'
expect 4 'a trimmed event' "$logctl" events cli/load-1 --from 3 --to 4
expect 0 'the first that is left' "$logctl" events cli/load-1 --from 11 --to 11
expect 4 'trim of no stream' "$logctl" trim cli/nothing --to 1

expect 2 'retention needs a word' "$logctl" retention
expect 2 'retention set needs a bound' "$logctl" retention set cli/load-1
expect 2 'retention set needs a stream' "$logctl" retention set --max-age 7d
expect 2 'retention get takes no bound' "$logctl" retention get cli/load-1 --max-age 7d
expect 2 'an age that is none' "$logctl" retention set cli/load-1 --max-age soon
expect 1 'a contradiction' "$logctl" retention set cli/load-1 --keep-snapshots 2 --max-age 7d --beyond-snapshots
complains 'either keeps what snapshots need'
expect 1 'beyond what' "$logctl" retention set cli/load-1 --keep-snapshots 2 --beyond-snapshots
expect 4 'retention of no stream' "$logctl" retention set cli/nothing --max-age 7d
expect 0 'retention set' "$logctl" retention set cli/load-1 --keep-snapshots 2 --max-age 7d --max-bytes 1GiB
expect 0 'retention get' "$logctl" retention get cli/load-1
says '2  *7d00h  *1.0 GiB  no'
expect 0 'retention as JSON' "$logctl" retention get cli/ --output json
is_json_document
says '"max_age_us": 604800000000'
expect 0 'retention clear' "$logctl" retention clear cli/load-1
expect 0 'retention is gone' "$logctl" retention get cli/load-1 --output json
says '"keep_snapshots": 0'

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
expect 0 'restores of a stream that has none' "$logctl" restores cli/load-0
says AVAILABILITY
expect 0 'restores in JSON' "$logctl" restores cli/load-0 -n 3 --output json
is_json_document
says '"restores": \[\]'
expect 0 snapshots "$logctl" snapshots cli/load-0
expect 0 'snapshots in JSON' "$logctl" snapshots cli/load-0 --output json
is_json_document

expect 0 health "$logctl" health
says 'the cluster commits'
expect 0 'health in JSON' "$logctl" health --output json
is_json_document
says '"healthy": true'
expect 0 'top, once, in a pipe' "$logctl" top --once --interval 200ms
says 'cli/load-0'
says 'EVENTS/S'
expect 0 'top in JSON' "$logctl" top --once --interval 200ms --output json
is_json_document
expect 0 bench "$logctl" bench cli/bench --clients 3 --seconds 1 --size 100
says 'read back'
expect 0 'bench in JSON' "$logctl" bench cli/bench --clients 2 --seconds 1 --output json
is_json_document
appends=$(sed -n 's/.*"appends": \([0-9]*\),.*/\1/p' "$dir/out") back=$(sed -n 's/.*"read": \([0-9]*\),.*/\1/p' "$dir/out")
[ "$appends" -gt 0 ] && [ "$appends" = "$back" ] || bad "bench: $appends appended, $back read back"
expect 2 'bench with too many clients' "$logctl" bench --clients 5000
expect 0 'completion for bash' "$logctl" completion bash
cp "$dir/out" "$dir/complete"
bash -n "$dir/complete" || bad 'the completion for bash is no program'
complete() { # WORD... : what bash offers behind them
    PATH=$(dirname "$logctl"):$PATH bash -c 'source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _crsc_logctl; printf "%s\n" "${COMPREPLY[@]}"' \
        "$dir/complete" crsc-logctl "$@" >"$dir/out"
}
complete be && says '^bench$'
complete --servers x:1 tail --fo && says '^--follow$'
complete tail cli/lo && says '^cli/load-0$'
complete completion z && says '^zsh$'
expect 0 'completion for zsh' "$logctl" completion zsh
says '^#compdef crsc-logctl'
expect 0 'completion for fish' "$logctl" completion fish
says "fish_seen_subcommand_from bench' -l clients"
expect 2 'completion for another shell' "$logctl" completion csh
expect 2 'completion for none' "$logctl" completion

for verb in status health top streams tail events snapshots restores bench completion; do
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
expect 4 'restores of no stream' "$logctl" restores cli/none
expect 4 'snapshots of no stream' "$logctl" snapshots cli/none
expect 4 'an offset beyond' "$logctl" events cli/load-0 --from 99999999
expect 3 'nobody there' "$logctl" --servers 127.0.0.1:1,127.0.0.1:2 --timeout 300ms streams
complains 127.0.0.1:1
complains 127.0.0.1:2
expect 3 'health with nobody there' "$logctl" --servers 127.0.0.1:1 --timeout 300ms health
says 'cannot commit'
expect 3 'status with nobody there' "$logctl" --servers 127.0.0.1:1 --timeout 300ms status
expect 1 'a full disk below stdout' sh -c '"$1" streams >/dev/full' sh "$logctl"

[ $failed -eq 0 ] && echo "crsc-logctl: every check passed"
exit $failed
