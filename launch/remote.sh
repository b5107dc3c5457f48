#!/usr/bin/env bash
# What launch/tpu and launch/vm do on a machine: setup, run, status, logs, stop. `setup` copies it.
#
# A machine has one run. Its files are in ~/bigjax-launch/run:
#   lock    held while anything of the run lives, so that no stale pid is taken for a run
#   pid     of bigjax
#   status  its exit status, once it has ended
#   asked   somebody asked for the end; `told` is SIGTERM from the system, as before a preemption
#   log     of all its starts
set -euo pipefail
umask 077

base=$HOME/bigjax-launch
dir=$base/run
venv=$HOME/bigjax-env
uv=$HOME/.local/bin/uv

# TPU workers are called t1v-n-XXXXXXXX-w-3; any other machine is alone.
number() {
  case $1 in
    *-w-[0-9]*) printf '%s' "${1##*-w-}" ;;
    *) printf 0 ;;
  esac
}

# The launcher reads these lines: every worker has to answer.
say() {
  printf 'worker %s: %s\n' "$me" "$*"
}

again() {
  local try
  for try in 1 2 3; do
    "$@" >&2 && return 0
    say "failed (try $try of 3): $1 $2" >&2
    sleep "$((try * ${LAUNCH_REMOTE_DELAY:-10}))"
  done
  return 1
}

# --- setup

# Ubuntu 22.04, which TPU VMs run, has Python 3.10 and bigjax needs 3.11 to 3.13. uv brings a Python
# into the home folder where there is none: without root, and without a foreign apt archive.
make_venv() {
  [ ! -e "$venv/made" ] || return 0
  if [ ! -x "$uv" ]; then
    python3 -m pip --version >/dev/null 2>&1 || install_packages python3-pip
    # Ubuntu 24.04 wants to be told that --user is meant; older pips do not know the variable.
    PIP_BREAK_SYSTEM_PACKAGES=1 again python3 -m pip install --quiet --user uv
  fi
  rm -rf "$venv" # an interrupted try
  again "$uv" venv --quiet --python 3.12 "$venv"
  touch "$venv/made"
}

install_packages() {
  # A new machine is often busy with updates of its own: wait for the lock.
  again sudo apt-get -o DPkg::Lock::Timeout=300 update --quiet
  again sudo apt-get -o DPkg::Lock::Timeout=300 install --quiet --yes "$@"
}

install_bigjax() { # EXTRAS WHAT
  local what=$2 stamp=$1:$2 unpacked=$base/source
  [ "$what" != source ] || stamp="$stamp:$(cksum <"$base/source.tar.gz")"
  [ "$(cat "$venv/installed" 2>/dev/null)" != "$stamp" ] || return 0
  case $what in
    source)
      rm -rf "$unpacked"
      mkdir -p "$unpacked"
      tar -xzf "$base/source.tar.gz" -C "$unpacked"
      what="bigjax[$1] @ file://$unpacked"
      ;;
    *://*) what="bigjax[$1] @ $what" ;;
    *) what="bigjax[$1]${what#bigjax}" ;; # bigjax, bigjax==1.0
  esac
  rm -f "$venv/installed"
  # Sources change without their version.
  again "$uv" pip install --quiet --python "$venv/bin/python" --reinstall-package bigjax "$what"
  printf '%s' "$stamp" >"$venv/installed"
}

install_gcsfuse() {
  local key=/usr/share/keyrings/gcsfuse.asc archive=https://packages.cloud.google.com/apt
  local suite
  # shellcheck source=/dev/null
  suite=gcsfuse-$(. /etc/os-release && printf '%s' "$VERSION_CODENAME")
  again sudo curl --fail --silent --show-error --output "$key" "$archive/doc/apt-key.gpg"
  sudo chmod 644 "$key"
  printf 'deb [signed-by=%s] %s %s main\n' "$key" "$archive" "$suite" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  install_packages gcsfuse
}

mount_bucket() {
  local at=$HOME/bigjax-gcs/$1
  ! mountpoint -q "$at" || return 0
  command -v gcsfuse >/dev/null || install_gcsfuse
  fusermount -uz "$at" 2>/dev/null || true # what a gcsfuse that died leaves
  mkdir -p "$at"
  again start_gcsfuse "$1" "$at"
}

# Where all workers write one checkpoint, none may remember what another has changed since. Orbax
# renames folders, which gcsfuse refuses unless told, or the bucket has folders of its own.
# shellcheck disable=SC2329 # called by `again`
start_gcsfuse() { # BUCKET FOLDER
  # Into a file: what stays in the background would hold the ssh open.
  gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 --metadata-cache-negative-ttl-secs=0 \
    --rename-dir-limit=200000 "$1" "$2" >"$base/gcsfuse.log" 2>&1 </dev/null && return 0
  cat "$base/gcsfuse.log"
  return 1
}

setup() { # EXTRAS WHAT [BUCKET...]
  local extras=$1 what=$2 bucket
  shift 2
  [ ! -e "$base/env" ] || chmod 600 "$base/env"
  if held; then
    say 'set up, and running: nothing is changed under a run'
    return 0
  fi
  make_venv
  install_bigjax "$extras" "$what"
  for bucket in "$@"; do
    mount_bucket "$bucket"
  done
  say 'set up'
}

# --- run

held() {
  [ -e "$dir/lock" ] && ! flock --nonblock "$dir/lock" true
}

# mounted:BUCKET/FOLDER is where setup mounts it; anything else is what it says. A bucket that is
# not mounted is an empty folder: a run would start anew in it, and be lost.
path_of() {
  local at=${1#mounted:} bucket
  if [ "$at" = "$1" ]; then
    printf '%s' "$1"
    return 0
  fi
  bucket=${at%%/*}
  if ! mountpoint -q "$HOME/bigjax-gcs/$bucket"; then
    say "gs://$bucket is not mounted; run setup" >&2
    return 1
  fi
  printf '%s' "$HOME/bigjax-gcs/$at"
}

run() { # CONFIG WORKDIR DATA [ARGUMENT...]
  local config=$1 workdir data=$3 try
  if held; then
    say "running already (pid $(cat "$dir/pid"))"
    return 0
  fi
  if [ ! -x "$venv/bin/bigjax" ]; then
    say 'bigjax is not installed; run setup' >&2
    return 1
  fi
  workdir=$(path_of "$2")
  [ -z "$data" ] || data=$(path_of "$data")
  shift 3
  [ -z "$data" ] || set -- "--config.data.data_dir=$data" "$@"
  set -- train --config "$config" --workdir "$workdir" "$@"
  mkdir -p "$dir"
  rm -f "$dir/pid" "$dir/status" "$dir/asked" "$dir/told"
  # Out of the session of this ssh, so that it may end.
  setsid nohup bash "$base/remote.sh" supervise "$@" >>"$dir/log" 2>&1 </dev/null &
  for ((try = 0; try < 100; try++)); do
    [ ! -e "$dir/pid" ] || break
    sleep 0.1
  done
  if [ ! -e "$dir/pid" ]; then
    say 'did not start; see logs' >&2
    return 1
  fi
  say "started (pid $(cat "$dir/pid"))"
}

supervise() {
  local inner
  exec 9>"$dir/lock"
  flock --nonblock 9
  printf -- '--- %s bigjax %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$*"
  if [ -e "$base/env" ]; then
    set -a
    # shellcheck source=/dev/null
    . "$base/env"
    set +a
  fi
  # A machine that shuts down sends SIGTERM to everything. One process notes that; another, which
  # is deaf to it, how bigjax ended: a trap while bash waits can cost it the status.
  trap 'touch "$dir/told"' TERM
  (
    trap '' TERM
    env --default-signal=TERM "$venv/bin/bigjax" "$@" &
    printf '%s' "$!" >"$dir/pid.new"
    mv "$dir/pid.new" "$dir/pid"
    code=0
    wait "$!" || code=$?
    printf -- '--- %s exit status %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$code"
    printf '%s' "$code" >"$dir/status.new"
    mv "$dir/status.new" "$dir/status"
  ) &
  inner=$!
  while kill -0 "$inner" 2>/dev/null; do
    wait "$inner" || true
  done
}

# --- status, logs, stop

state() {
  local status
  if held; then
    printf 'running (pid %s)' "$(cat "$dir/pid" 2>/dev/null)"
  elif [ ! -e "$dir/pid" ]; then
    printf absent
  elif [ ! -e "$dir/status" ]; then
    printf 'lost: it ended without a status, as when a machine restarts'
  else
    status=$(cat "$dir/status")
    case $status in
      # Before it listens to SIGTERM, bigjax dies of it.
      0 | 137 | 143)
        if [ -e "$dir/asked" ]; then
          printf 'stopped'
        elif [ -e "$dir/told" ]; then
          printf 'interrupted: the machine was told to shut down'
        elif [ "$status" = 0 ]; then
          printf 'finished'
        else
          printf 'failed with status %s' "$status"
        fi
        ;;
      *) printf 'failed with status %s' "$status" ;;
    esac
  fi
}

status() {
  local last=''
  [ ! -e "$dir/log" ] || last=$(tail -c 4000 "$dir/log" | tr '\r' '\n' | grep -v '^$' | tail -n 1)
  say "$(state)${last:+ | $last}"
}

logs() { # LINES once|follow one|all
  local options=(--lines="$1") prefix=''
  if [ ! -e "$dir/log" ]; then
    say 'there is no log yet'
    return 0
  fi
  [ "$2" = once ] || options+=(--follow=name)
  [ "$3" = one ] || prefix="worker $me: "
  tail "${options[@]}" "$dir/log" | sed --unbuffered "s/^/$prefix/"
}

stop() { # SECONDS gently|kill
  local until=$((SECONDS + $1))
  if ! held; then
    say "$(state); nothing to stop"
    return 0
  fi
  touch "$dir/asked"
  kill -TERM "$(cat "$dir/pid")" 2>/dev/null || true
  while held && [ "$SECONDS" -lt "$until" ]; do
    sleep 0.2
  done
  if held && [ "$2" = kill ]; then
    kill -KILL "$(cat "$dir/pid")" 2>/dev/null || true
    until=$((SECONDS + 10))
    while held && [ "$SECONDS" -lt "$until" ]; do
      sleep 0.2
    done
  fi
  if held; then
    say "still running $1 s after SIGTERM"
    return 1
  fi
  say "$(state) (exit status $(cat "$dir/status"))"
}

me=$(number "$(hostname)")
verb=${1-}
[ $# = 0 ] || shift
case $verb in
  setup) setup "$@" ;;
  run) run "$@" ;;
  supervise) supervise "$@" ;;
  status) status ;;
  logs) logs "$@" ;;
  stop) stop "$@" ;;
  *) say "there is no verb '$verb'" >&2 && exit 2 ;;
esac; exit # on this line: a later setup may replace this file while bash is not yet at its end
