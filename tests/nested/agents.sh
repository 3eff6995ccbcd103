# Inside the emulated machine: live migrations between two agents on loopback. Sourced, not run; sets `failed`.
# shellcheck shell=dash disable=SC3045 # busybox's read has -t
set -u
cd /tmp || exit 1
failed=0

# shellcheck disable=SC2034 # for the script that sources this
fail() {
  echo "FAILED: $*"
  failed=1
}
seconds() { cut -d. -f1 /proc/uptime; }

# start_agent NAME ARGUMENT…: starts it, and waits for its ready line.
start_agent() {
  local name=$1
  shift
  rm -f "$name.pipe"
  mkfifo "$name.pipe"
  migrate-agent --name "$name" --role "$name" --control tcp:127.0.0.1:0 --certs "certs/$name" "$@" \
    >"$name.pipe" 2>"$name.log" &
  echo $! >"$name.pid"
  ready=''
  read -r -t 200 ready <"$name.pipe" || true
  echo "$ready" >"$name.ready"
  case $ready in ready*backend=kvm*) ;; *) return 1 ;; esac
}
stop_agents() {
  for name in source destination; do
    [ -f $name.pid ] || continue
    kill "$(cat $name.pid)" 2>/dev/null
    wait "$(cat $name.pid)" 2>/dev/null
    rm -f $name.pid
  done
}
number() { sed -n "s/.*\"$1\":\([0-9]*\).*/\1/p"; } # number KEY: of the JSON on stdin
field() { sed -n "s/.* $2=\([^ ]*\).*/\1/p" "$1.ready"; }
ask() { # ask SIDE COMMAND…
  local agent
  agent=$(field "$1" control)
  shift
  timeout 200 migrate "$@" --agent "$agent" --certs certs/operator
}

start_pair() { # start_pair PLATFORM KEY=VALUE…: of the source's guest
  local machine="platform=$1 backend=kvm memory=8M vcpus=2"
  shift
  # shellcheck disable=SC2086 # words
  start_agent destination --listen tcp:127.0.0.1:0 $machine || return 1
  # shellcheck disable=SC2086
  start_agent source $machine "$@"
}

migrate_once() { # as start_pair
  start_pair "$@" || return 1
  ask source start --to "$(field destination listen)" --json >report.json 2>progress || return 1
  ask source digest --json >source.json || return 1
  ask destination digest --json >destination.json || return 1
  ask destination verify --json >verify.json || return 1
  ask destination status --json >status.json || return 1
  cmp source.json destination.json && grep -q '"at":"handover"' source.json || return 1
  grep -q '"errors":0[,}]' verify.json && grep -q '"conversions":[1-9]' verify.json || return 1
  grep -q '"backend":"kvm"' status.json && grep -q '"state":"running"' status.json || return 1
}

# migration PLATFORM KEY=VALUE…: moves a guest that converts pages meanwhile, and compares both sides.
migration() {
  local began
  began=$(seconds)
  if migrate_once "$@"; then
    echo "migration ($*): $(number epochs <status.json) rounds, downtime $(sed 's/}.*//' report.json | number total_ms) ms," \
      "$(number conversions <verify.json) conversions, $(($(seconds) - began)) s"
  else
    tail -n 5 -- source.log destination.log ./*.json progress 2>/dev/null
    fail "migration $*"
  fi
  stop_agents
}

# refusal PLATFORM STATUS TEXT KEY=VALUE…: `migrate check` of the source's guest must end so and say TEXT.
refusal() {
  local platform=$1 wanted=$2 text=$3 status=0
  shift 3
  if start_pair "$platform" "$@"; then
    ask source check --to "$(field destination listen)" >check.log 2>&1 || status=$?
    if [ $status -eq "$wanted" ] && grep -q "$text" check.log; then
      echo "refusal ($platform $*): $(cat check.log)"
    else
      cat check.log
      fail "refusal $*: status $status"
    fi
  else
    fail "refusal $*: no agents"
  fi
  stop_agents
}

make_keys() {
  migrate certs --dir certs --host source --host destination --host operator --name 127.0.0.1 >/dev/null ||
    fail "making keys"
}
