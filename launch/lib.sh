# shellcheck shell=bash
# What launch/tpu and launch/vm share: settings, gcloud with retries, the verbs. They source it and
# say how their machine is described, made, removed and reached. Bash 3.2, as on macOS.
#
# Every function returns a status and is asked for it: `set -e` would be off in most of them.
#
# Settings are set by name, and the rest by launch/tpu and launch/vm:
# shellcheck disable=SC2034,SC2154
set -uo pipefail
LC_ALL=C # or [a-z] may hold capitals

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
remote_sh='bash bigjax-launch/remote.sh'
scratch=''
EXTRA=() # of bigjax train
OUT='' ERR='' WHY='' # of the last gcloud: its output, its words, what kind of error they are
STATE='' PHASE='' WORKERS=1 # of the machine: gcloud's word, ours, and how many hosts it has

# --- words

# In a dry run everything but commands is a comment, so that all of it may be pasted.
say() {
  if [ -n "$opt_dry_run" ]; then
    printf '# %s\n' "$*"
  else
    printf '%s\n' "$*" >&2
  fi
}

die() { # a user's mistake: status 2, as of bigjax
  printf '%s: %s\n' "$program" "$*" >&2
  exit 2
}

# Quoted for a shell, words with a space between them; readable where they can be.
quoted() {
  local word line='' plain='^[-A-Za-z0-9_./:=,@+]+$' printable="^[^'[:cntrl:]]+$"
  for word in "$@"; do
    if [[ $word =~ $plain ]]; then
      line="$line $word"
    elif [[ $word =~ $printable ]]; then
      line="$line '$word'"
    else
      line="$line $(printf %q "$word")"
    fi
  done
  printf '%s' "${line# }"
}

pause() {
  [ -n "$opt_dry_run" ] || "${LAUNCH_SLEEP:-sleep}" "$1"
}

# --- settings

common_options='name project zone type service_account network subnetwork scopes workdir data config
  install env_file tries timeout restarts every worker lines settings'
common_switches='spot mount dry_run follow kill then_delete'

is_in() { # WORD WORDS
  local word
  for word in $2; do
    [ "$word" != "$1" ] || return 0
  done
  return 1
}

defaults() {
  local name
  for name in $common_options $common_switches $options $switches; do
    printf -v "opt_$name" %s '' # an empty format sets nothing in bash 3.2
  done
  opt_scopes=https://www.googleapis.com/auth/cloud-platform
  opt_install=source
  opt_tries=6
  opt_timeout=86400
  opt_restarts=100
  opt_every=60
  opt_worker=0
  opt_lines=40
}

read_settings() { # FILE of lines `name = value`
  local line name value
  [ -r "$1" ] || die "the settings file $1 cannot be read; give another with --settings."
  while IFS= read -r line || [ -n "$line" ]; do
    line=${line#"${line%%[![:space:]]*}"}
    case $line in '' | '#'*) continue ;; esac
    case $line in *=*) ;; *) die "$1 has the line '$line'; expected name = value." ;; esac
    name=${line%%=*} value=${line#*=}
    name=${name%"${name##*[![:space:]]}"}
    value=${value#"${value%%[![:space:]]*}"}
    value=${value%"${value##*[![:space:]]}"}
    [ "$name" != settings ] || die "$1 names another settings file; give one."
    if is_in "$name" "$common_switches $switches"; then
      case $value in
        true) printf -v "opt_$name" yes ;;
        false) printf -v "opt_$name" %s '' ;;
        *) die "$1 says $name = $value; expected true or false." ;;
      esac
    elif is_in "$name" "$common_options $options"; then
      printf -v "opt_$name" %s "$value"
    else
      die "$1 has the setting '$name', which does not exist; see $program --help."
    fi
  done <"$1"
}

parse() {
  local word name value file='' before=''
  for word in "$@"; do # the file first, wherever it stands: the command line wins
    [ "$word" != -- ] || break
    case $word in --settings=*) file=${word#*=} ;; esac
    [ "$before" != --settings ] || file=$word
    before=$word
  done
  [ -z "$file" ] || read_settings "$file"
  while [ $# -gt 0 ]; do
    word=$1
    shift
    case $word in
      --)
        EXTRA=("$@")
        return
        ;;
      --*) ;;
      *) die "'$word' is no flag; expected --NAME VALUE, and bigjax's own flags after --." ;;
    esac
    name=${word#--}
    name=${name%%=*}
    name=${name//-/_}
    if is_in "$name" "$common_switches $switches"; then
      case $word in *=*) die "--$name takes no value." ;; esac
      printf -v "opt_$name" yes
    elif is_in "$name" "$common_options $options"; then
      case $word in
        *=*) value=${word#*=} ;;
        *)
          [ $# -gt 0 ] || die "--$name needs a value."
          value=$1
          shift
          ;;
      esac
      printf -v "opt_$name" %s "$value"
    else
      die "there is no flag --$name$(did_you_mean "$name"); see $program --help."
    fi
  done
}

did_you_mean() {
  local name
  for name in $common_options $common_switches $options $switches; do
    case $name in
      "$1"* | "${1%?}" | "${1:0:3}"*)
        printf ' (did you mean --%s?)' "$name"
        return
        ;;
    esac
  done
}

# What ends up in a command is checked here, and quoted all the same where it is used.
expect() { # NAME REGEX EXAMPLE
  local name=opt_$1
  [ -n "${!name}" ] || return 0
  [[ ${!name} =~ ^($2)$ ]] || die "--$1 is $(quoted "${!name}"); expected something like $3."
}

require() {
  local name value
  for name in "$@"; do
    value=opt_$name
    [ -n "${!value}" ] || die "--$name is missing; give it, or set it in a file for --settings."
  done
}

check_settings() {
  local name url='[-A-Za-z0-9.:]+/[-A-Za-z0-9_./@=~^#%]+'
  local path='gs://[a-z0-9][-_.a-z0-9]+(/[-A-Za-z0-9_.=+]+)*|/[-A-Za-z0-9_./=+]+'
  expect name '[a-z]([-a-z0-9]{0,61}[a-z0-9])?' biggan-128
  expect project '[a-z][-a-z0-9.:]*[a-z0-9]' my-project
  expect zone '[a-z]+-[a-z]+[0-9]+-[a-z0-9]+' europe-west4-a
  expect service_account '[-a-z0-9]+@[-a-z0-9.]+' trainer@my-project.iam.gserviceaccount.com
  expect network '[-a-z0-9/._]+' default
  expect subnetwork '[-a-z0-9/._]+' default
  expect scopes '[-a-z0-9:/.,_]+' https://www.googleapis.com/auth/cloud-platform
  expect workdir "$path" gs://my-bucket/runs/biggan
  expect data "$path" gs://my-bucket/tfds
  expect config '[-A-Za-z0-9_./:]+' imagenet128
  # No https://TOKEN@HOST: what is on a command line can be read by others.
  expect install "source|bigjax(==[0-9][0-9a-z.]*)?|(git[+])?https://$url|git[+]ssh://git@$url" \
    'source, bigjax==1.0 or git+https://HOST/bigjax@COMMIT'
  for name in tries timeout restarts every lines; do
    expect "$name" '[0-9]{1,6}' 60
  done
  [ "$opt_tries" -gt 0 ] || die '--tries is 0; expected at least 1.'
  expect worker 'all|[0-9]+' '3, or all'
  case $opt_workdir$opt_data in
    *..*) die '--workdir and --data are full paths, without ..' ;;
  esac
  if [ -n "$opt_env_file" ] && [ ! -r "$opt_env_file" ]; then
    die "the file $opt_env_file cannot be read; give another with --env_file."
  fi
}

# --- gcloud

# What kind of error these words are; `passing` is what may be over in a moment.
diagnose() { # STATUS WORDS
  local words
  # On a machine others speak, too. gcloud's own words begin so.
  words=$(printf '%s\n' "$2" | sed -n '/^ERROR: (gcloud/,$p')
  # Not grep -q: it leaves at once, and `pipefail` then blames printf.
  says() { printf '%s\n' "$words" | grep -iE "$1" >/dev/null; }
  if says 'per minute|rate.?limit'; then
    printf passing
  elif says 'quota'; then
    printf quota
  elif says 'no more capacity|resource_pool_exhausted|resource_availability|stockout' ||
    says 'insufficient (reserved )?capacity|enough resources|resource_exhausted'; then
    printf stockout
  elif says 'ssh key is not present in the ssh agent'; then
    printf key
  elif says 'auth login|active account|reauthenticat|invalid_grant'; then
    printf login
  elif says 'permission_denied|permission|forbidden|service_disabled|has not been used'; then
    printf denied
  elif says 'terminal state|cannot be currently connected'; then
    printf gone
  elif says 'already exists|already_exists'; then
    printf exists
  elif says 'not_found|not found'; then
    printf absent
  elif [ "$1" = 255 ] || says 'return code \[255\]|unavailable|deadline|timed? ?out' ||
    says 'internal|http[a-z ]*50[0234]|connection|temporary failure|try again'; then
    printf passing
  else
    printf other
  fi
}

# One sentence: what it is, and what to do.
explain() {
  local first
  first=$(printf '%s\n' "$ERR" | grep -m 1 '^ERROR: ' || printf '%s\n' "$ERR" | tail -n 1)
  case $WHY in
    quota) say "The quota for $opt_type in $opt_zone is used up, or none was granted: ask for it" \
      'in the console under IAM & Admin, Quotas, or give another --type or --zone.' ;;
    stockout) say "$opt_zone has no $opt_type to give now: try again later (--tries for longer)," \
      "or another --zone$stockout_advice." ;;
    key) say 'The ssh agent lacks the key, which several workers need: run' \
      "eval \"\$(ssh-agent)\" && ssh-add ~/.ssh/google_compute_engine, and this again." ;;
    login) say 'gcloud is not logged in: run gcloud auth login, and this again.' ;;
    denied) say 'gcloud lacks a permission, or the API is switched off; its words say which.' ;;
    gone) say "$opt_name is gone: create makes it anew, up does so by itself." ;;
    passing) say "gcloud failed $opt_tries times in a row; try again later." ;;
    *) say 'gcloud failed.' ;;
  esac
  [ -z "$first" ] || say "  $first"
}

# Run gcloud and keep its words in OUT and ERR. Retried with growing pauses: what passes by itself,
# and quota and stockout, because the machine that went away may still be counted.
call() {
  local try=1 delay=10 status
  if [ -n "$opt_dry_run" ]; then
    printf '%s\n' "$(quoted gcloud "$@")"
    OUT='' ERR='' WHY=''
    return 0
  fi
  while :; do
    gcloud "$@" >"$scratch/out" 2>"$scratch/err" </dev/null
    status=$?
    OUT=$(cat "$scratch/out") ERR=$(cat "$scratch/err") WHY=''
    [ $status != 0 ] || return 0
    WHY=$(diagnose $status "$ERR")
    case $WHY in passing | quota | stockout) ;; *) return $status ;; esac
    [ $try -lt "$opt_tries" ] || return $status
    say "gcloud: $WHY ($try of $opt_tries tries); again in $delay s."
    pause $delay
    try=$((try + 1)) delay=$((delay < 150 ? 2 * delay : 300))
  done
}

# A machine that is taken away says nothing any more: ssh has to notice.
alive=(--ssh-flag=-oServerAliveInterval=30 --ssh-flag=-oServerAliveCountMax=4)

# Set `at` to the flags that lead to workers: all, or N.
reach() {
  at=("${where[@]}" --quiet)
  [ -z "$many_hosts" ] || at+=("--worker=$1")
}

# Run a command on workers, and say which of them failed. Those who speak do it as `worker N: ...`.
on() { # all|N COMMAND [quietly]
  local status failed pattern='Command execution on \(worker [0-9]*\) failed with exit'
  reach "$1"
  call "${ssh[@]}" "$opt_name" "${at[@]}" "${alive[@]}" "--command=$2"
  status=$?
  [ "${3-}" = quietly ] || [ -z "$OUT" ] || by_worker
  [ $status != 0 ] || return 0
  # gcloud's words about several workers; of one it passes on the status.
  failed=$(printf '%s\n' "$ERR" |
    sed -n "s/^#* *$pattern \(status [0-9]*\).*/\1 (\2)/p" |
    sort -u -k2n | tr '\n' ',' | sed 's/,$//; s/,/, /g')
  case $WHY in
    other)
      if [ "${3-}" != quietly ]; then
        say "Failed on ${failed:-worker 0 (status $status)} of $opt_name. The last words:"
        say "$(printf '%s\n' "$ERR" | grep -vE '^(SSH:|Using ssh|#####|Retrying)' | tail -n 8)"
      fi
      ;;
    *)
      explain
      [ "$1" != all ] || [ -z "$OUT" ] || all_answered # says which did not
      ;;
  esac
  return $status
}

by_worker() {
  local words
  words=$(printf '%s\n' "$OUT" | grep '^worker [0-9]*: ' | sort -k2n)
  [ -z "$words" ] || printf '%s\n' "$words"
}

# A worker that says nothing has failed, whatever gcloud's status is.
all_answered() {
  local worker missing=''
  [ -z "$opt_dry_run" ] || return 0
  for ((worker = 0; worker < WORKERS; worker++)); do
    printf '%s\n' "$OUT" | grep "^worker $worker: " >/dev/null ||
      missing="$missing${missing:+, }worker $worker"
  done
  [ -n "$missing" ] || return 0
  say "$opt_name has $WORKERS workers, and $missing did not answer."
  return 1
}

copy() { # FILE... DESTINATION
  local files=("$@")
  local last=$((${#files[@]} - 1))
  local destination=${files[$last]}
  unset "files[$last]"
  reach all
  call "${scp[@]}" "${files[@]}" "$opt_name:$destination" "${at[@]}" && return 0
  explain
  return 1
}

# --- verbs

# Get to a machine that is ready, from wherever it stands.
create() {
  local waited=0 made=0
  if [ -n "$opt_dry_run" ]; then
    phase && make_it && phase
    return
  fi
  while phase; do
    case $PHASE in
      ready)
        say "$opt_name is $STATE."
        return 0
        ;;
      failed)
        say "The request of $opt_name has $STATE; gcloud's describe says why. Delete and change it."
        return 1
        ;;
      waiting | leaving)
        if [ $waited -ge "$opt_timeout" ]; then
          say "$opt_name is still $STATE after $waited s; raise --timeout, or delete it."
          return 1
        fi
        say "$opt_name is $STATE; waited $waited s."
        pause 30
        waited=$((waited + 30))
        continue
        ;;
    esac
    if [ $made -gt "$opt_restarts" ]; then
      say "$opt_name went away $made times while it was made; giving up."
      return 1
    fi
    made=$((made + 1))
    case $PHASE in
      absent)
        say "Creating $opt_name: $opt_type in $opt_zone. This takes minutes."
        make_it || [ "$WHY" = exists ] || { explain && return 1; }
        ;;
      halted)
        say "$opt_name is $STATE; starting it."
        start_it || { explain && return 1; }
        ;;
      dead)
        say "$opt_name is $STATE and cannot come back; deleting it, to create it anew."
        remove_it || [ "$WHY" = absent ] || { explain && return 1; }
        ;;
    esac
  done
  return 1
}

needs_machine() {
  phase || return 1
  [ -z "$opt_dry_run" ] || return 0
  [ "$PHASE" != ready ] || return 0
  say "$opt_name is $STATE; run $program create first."
  return 1
}

# What was edited here is what runs there; no git is needed for it.
pack() {
  archive=${XDG_CACHE_HOME:-$HOME/.cache}/bigjax/launch/$opt_name/source.tar.gz
  local tar=(tar -C "$here/.." --exclude __pycache__ -czf "$archive"
    bigjax configs setup.py pyproject.toml README.md LICENSE)
  local folder=(mkdir -p "$(dirname "$archive")")
  if [ -n "$opt_dry_run" ]; then
    printf '%s\n' "$(quoted "${folder[@]}")" "COPYFILE_DISABLE=1 $(quoted "${tar[@]}")"
    return 0
  fi
  # COPYFILE_DISABLE: or macOS adds a ._ file to every file.
  "${folder[@]}" && COPYFILE_DISABLE=1 "${tar[@]}" && return 0
  say "The checkout in $here/.. could not be packed into $archive."
  return 1
}

# Where bigjax finds a folder: as it was given, or where setup mounts its bucket. Data is read a
# record at a time, which a mounted bucket serves like any file; a workdir on gs:// is bigjax's own
# affair, unless --mount.
place() { # workdir|data
  local path=opt_$1
  path=${!path}
  case $1,$opt_mount,$path in
    workdir,yes,gs://* | data,*,gs://*) printf 'mounted:%s' "${path#gs://}" ;;
    *) printf '%s' "$path" ;;
  esac
}

buckets() {
  printf '%s\n' "$(place workdir)" "$(place data)" | sed -n 's,^mounted:\([^/]*\).*,\1,p' | sort -u
}

setup() {
  local files=("$here/remote.sh") clear=' && rm -f bigjax-launch/env'
  needs_machine || return 1
  if [ "$opt_install" = source ]; then
    pack || return 1
    files+=("$archive")
  fi
  say "Setting up $opt_name: Python, bigjax, buckets. The first time takes minutes."
  [ -z "$opt_env_file" ] || clear=''
  # A folder nobody else may enter, before anything is in it.
  on all "umask 077 && mkdir -p bigjax-launch$clear" || return 1
  copy "${files[@]}" bigjax-launch/ || return 1
  [ -z "$opt_env_file" ] || copy "$opt_env_file" bigjax-launch/env || return 1
  # shellcheck disable=SC2046 # bucket names have been checked; none has a space
  on all "$remote_sh setup $(quoted "$extras" "$opt_install" $(buckets))" && all_answered
}

# Ask all workers how their run is. Sets OUT.
survey() {
  local status
  on all "$remote_sh status" quietly
  status=$?
  if [ $status = 127 ] || printf '%s\n' "$ERR" | grep 'exit status 127' >/dev/null; then
    say "$opt_name is not set up; run $program setup."
    return 1
  fi
  [ $status = 0 ] || return $status
  all_answered
}

count() { # STATE
  printf '%s\n' "$OUT" | grep -c "^worker [0-9]*: $1"
}

run() {
  local running
  needs_machine || return 1
  survey || return 1
  running=$(count running)
  if [ "$running" = "$WORKERS" ] && [ -z "$opt_dry_run" ]; then
    by_worker
    say "$opt_name is running already."
    return 0
  fi
  if [ "$running" != 0 ]; then
    by_worker
    say "$running of $WORKERS workers run, and the others cannot join them: $program stop first."
    return 1
  fi
  on all "$remote_sh run $(quoted "$opt_config" "$(place workdir)" "$(place data)" \
    ${EXTRA[@]+"${EXTRA[@]}"})" && all_answered
}

status() {
  phase || return 1
  say "$opt_name is $STATE."
  [ "$PHASE" = ready ] || [ -n "$opt_dry_run" ] || return 0
  survey || return 1
  by_worker
  [ "$(count failed)$(count lost)" = 00 ]
}

logs() {
  local follow=once many=one command
  needs_machine || return 1
  [ -z "$opt_follow" ] || follow=follow
  [ "$opt_worker" != all ] || many=all
  command="$remote_sh logs $opt_lines $follow $many"
  if [ -n "$opt_dry_run" ]; then
    on "$opt_worker" "$command"
    return
  fi
  # Not through `call`, which keeps words until the end: these have none.
  reach "$opt_worker"
  gcloud "${ssh[@]}" "$opt_name" "${at[@]}" "${alive[@]}" "--command=$command" </dev/null
}

stop() {
  local how=gently
  phase || return 1
  if [ "$PHASE" != ready ] && [ -z "$opt_dry_run" ]; then
    say "$opt_name is $STATE; nothing runs there."
    return 0
  fi
  [ -z "$opt_kill" ] || how='kill'
  say "Asking all workers of $opt_name to save and end; this waits up to $stop_patience s."
  on all "$remote_sh stop $stop_patience $how" && all_answered
}

delete() {
  phase || return 1
  if [ "$PHASE" = absent ] && [ -z "$opt_dry_run" ]; then
    say "$opt_name is not there."
    return 0
  fi
  say "Deleting $opt_name."
  remove_it || [ "$WHY" = absent ] || { explain && return 1; }
  say "$opt_name is deleted."
}

# --- up: everything, again whenever the machine goes away

# Watch a run: 0 finished, 3 stopped, 4 failed, 5 the machine is gone, 6 start it again, 7 unknown.
watch() {
  local last='' line finished
  while :; do
    pause "$opt_every"
    phase || return 7
    [ "$PHASE" = ready ] || return 5
    if ! survey; then
      is_gone && return 5
      return 7
    fi
    line=$(printf '%s\n' "$OUT" | sed -n 's/^worker 0: [^|]*| //p')
    [ "$line" = "$last" ] || say "  $line"
    last=$line
    finished=$(count finished)
    if [ "$finished" = "$WORKERS" ]; then
      return 0
    elif [ "$(count lost)$(count interrupted)$(count absent)" != 000 ]; then
      is_gone && return 5
      return 6 # where one host goes, the others fail
    elif [ "$(count failed)" != 0 ]; then
      is_gone && return 5 # hosts of a slice that is taken away fail before it says so
      survey || return 7
      by_worker | grep ': failed'
      return 4
    elif [ $((finished + $(count stopped))) = "$WORKERS" ]; then
      return 3 # a host may end with the others before it is asked
    fi
  done
}

# A machine that is taken away is READY for a while yet.
is_gone() {
  pause 60
  phase && [ "$PHASE" != ready ]
}

attempt() {
  create || return 1
  if ! setup || ! run; then
    is_gone && return 5
    return 1
  fi
  watch
}

up() {
  local round=0 result
  if [ -n "$opt_dry_run" ]; then
    create && setup && run && phase && survey
    return
  fi
  trap 'say "Watching ended; the run goes on. $program up watches again."; exit 130' INT
  while :; do
    attempt
    result=$?
    case $result in
      5) say "$opt_name is $STATE." ;;
      6)
        say "Some workers of $opt_name were restarted; ending the others, to start all of them."
        on all "$remote_sh stop 60 kill"
        ;;
      *) break ;;
    esac
    round=$((round + 1))
    if [ $round -gt "$opt_restarts" ]; then
      say "$opt_name went away $round times; raise --restarts to go on."
      result=1
      break
    fi
    say "Start $((round + 1)): bigjax goes on from its last checkpoint in $opt_workdir."
  done
  case $result in
    0) say "The run has finished: $opt_workdir." ;;
    3) say "The run was stopped; $program up goes on with it." ;;
    4) say "The run has failed, see above and $program logs." ;;
    7) say "$opt_name cannot be seen from here; its run may go on. $program up watches again." ;;
    *) say 'Giving up.' ;;
  esac
  trap - INT
  if [ -n "$opt_then_delete" ] && [ $result != 7 ]; then
    delete || result=1
  else
    say "$opt_name may be there yet, and costs money while it is: $program delete."
  fi
  case $result in 0 | 3) return $result ;; *) return 1 ;; esac
}

# --- main

main() {
  local verb=${1-} status=0
  defaults
  case $verb in
    '' | -h | --help | help)
      usage
      return
      ;;
    create | setup | run | logs | status | stop | delete | up) shift ;;
    *) die "there is no verb $(quoted "$verb"); see $program --help." ;;
  esac
  for word in "$@"; do
    case $word in
      --) break ;;
      -h | --help)
        usage
        return
        ;;
    esac
  done
  parse "$@"
  check_settings
  check_machine
  require name zone
  case $verb in create | up) require type ;; esac
  case $verb in setup | run | up) require workdir ;; esac
  case $verb in run | up) require config ;; esac
  if [ "$verb" = up ] && [ -n "$opt_then_delete" ]; then
    case $opt_workdir in
      gs://*) ;;
      *) die "--then_delete takes $opt_workdir with it; give a --workdir on gs://." ;;
    esac
  fi
  where=("--zone=$opt_zone")
  [ -z "$opt_project" ] || where+=("--project=$opt_project")
  if [ -z "$opt_dry_run" ]; then
    command -v gcloud >/dev/null ||
      die 'gcloud is not installed; see https://cloud.google.com/sdk/docs/install.'
    scratch=$(mktemp -d "${TMPDIR:-/tmp}/bigjax-launch.XXXXXX") || die 'there is no room in TMPDIR.'
    trap 'rm -rf "$scratch"' EXIT
  fi
  "$verb" || status=$?
  case $verb:$status in
    *:0 | up:3) return $status ;;
    *) return 1 ;;
  esac
}
