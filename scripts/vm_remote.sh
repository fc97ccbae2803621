#!/usr/bin/env bash
# What happens on the training VM itself: the scripts beside it send it there, cron runs it there.
set -euo pipefail
umask 077

CLONE="$HOME/pulmo"
STATE="$HOME/.local/state/pulmo"
JOB="$STATE/job"           # commit, run folder and overrides of the present training, one a line
ENDED="$STATE/ended"       # its exit code, once it has ended by itself
STARTS="$STATE/starts"     # how often it was begun or gone on with
RUNNER="$STATE/runner"     # the process group that trains
LOG="$STATE/train.log"
LOCK="$STATE/lock"         # held, as descriptor 9, by whoever trains or changes the clone
SETTINGS="$STATE/settings" # what the other side told, without secrets
MOST_STARTS=50
export PATH="$HOME/.local/bin:$PATH:/snap/bin" GIT_TERMINAL_PROMPT=0

say() { printf '%s\n' "$*" >&2; }

end() {
    say "$2"
    exit "$1"
}

unfinished() { [ -e "$JOB" ] && ! [ -e "$ENDED" ]; }

# Whether nobody else has the lock; if so it is ours, and that of whatever we start
hold() {
    mkdir -p "$STATE"
    exec 9>>"$LOCK"
    flock --nonblock 9
}

# write FILE: standard input becomes the file, whole or not at all, and only where it differs
write() {
    cat >"$1.part"
    if cmp -s "$1.part" "$1"; then rm "$1.part"; else mv "$1.part" "$1"; fi
}

keep_settings() {
    local name
    for name in ${!PULMO_@} ${!WANDB_@} ${!MLFLOW_@}; do
        printf 'export %s=%q\n' "$name" "${!name}"
    done | write "$SETTINGS"
}

install_tools() {
    local missing=()
    command -v git >/dev/null || missing+=(git)
    command -v uv >/dev/null || python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
    if [ "${#missing[@]}" -gt 0 ]; then
        (
            umask 022
            sudo apt-get -qq update
            sudo DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes "${missing[@]}" >/dev/null
        )
    fi
    if ! command -v uv >/dev/null; then
        python3 -m venv "$HOME/.local/uv"
        "$HOME/.local/uv/bin/pip" install --quiet 'uv>=0.9.17'
        mkdir -p "$HOME/.local/bin"
        ln -sf "$HOME/.local/uv/bin/uv" "$HOME/.local/bin/uv"
    fi
}

# Git asks for a password by this program, which has it from Secret Manager: it is kept nowhere
ask_secret_manager() {
    [ -n "${PULMO_VM_GIT_SECRET:-}" ] || return 0
    write "$STATE/askpass" <<END
#!/bin/sh
case "\$1" in
Username*) echo x-access-token ;;
*) exec gcloud secrets versions access ${PULMO_VM_GIT_SECRET#*:} --secret=${PULMO_VM_GIT_SECRET%%:*} --project=$PULMO_GCP_PROJECT ;;
esac
END
    chmod 700 "$STATE/askpass"
    export GIT_ASKPASS="$STATE/askpass"
}

in_clone() { git -C "$CLONE" -c gc.auto=0 -c maintenance.auto=false "$@"; }

# checkout COMMIT URL
checkout() {
    if ! [ -d "$CLONE" ]; then
        rm -rf "$CLONE.part"
        git clone --quiet "$2" "$CLONE.part"
        mv "$CLONE.part" "$CLONE"
    fi
    [ "$(in_clone remote get-url origin)" = "$2" ] || in_clone remote set-url origin "$2"
    in_clone cat-file -e "$1^{commit}" 2>/dev/null || in_clone fetch --quiet origin
    in_clone cat-file -e "$1^{commit}" 2>/dev/null || end 1 "$2 has no commit $1: push it first"
    [ -z "$(in_clone status --porcelain --untracked-files=no)" ] ||
        end 1 "somebody changed files in $CLONE on the VM: undo that first"
    local before
    before="$(in_clone rev-parse HEAD)"
    [ "$before" = "$1" ] || in_clone checkout --quiet --detach "$1"
    say "code: $1, before: $before"
}

environment() {
    local group words=()
    for group in $PULMO_VM_GROUPS; do words+=(--group "$group"); done
    (cd "$CLONE" && uv sync --locked --quiet "${words[@]}")
    [ "$PULMO_VM_DATA" = none ] || (cd "$CLONE" && uv run --no-sync dvc pull --quiet "$PULMO_VM_DATA")
}

# Cron looks every five minutes whether a training was cut off, by a start of the machine or otherwise
look_after() {
    local line="*/5 * * * * bash $CLONE/scripts/vm_remote.sh resume >>$LOG 2>&1" table
    if ! command -v crontab >/dev/null; then
        say "note: there is no cron here: after an interruption run scripts/sync_vm.sh"
        return
    fi
    table="$(crontab -l 2>/dev/null || true)"
    if ! grep -Fqx "$line" <<<"$table"; then
        { grep -Fv 'vm_remote.sh resume' <<<"$table" || true; printf '%s\n' "$line"; } | crontab -
    fi
}

# prepare COMMIT URL: code, environment and data; the lock is ours
prepare() {
    keep_settings
    install_tools
    ask_secret_manager
    checkout "$1" "$2"
    environment
    look_after
}

sync() {
    hold || end 1 "a training is at work: nothing was changed. Follow it with uv run invoke vm-log"
    if unfinished && [ "$(head -n 1 "$JOB")" != "$1" ]; then
        end 1 "the training of commit $(head -n 1 "$JOB") is not finished: sync that commit, or --abandon it"
    fi
    prepare "$1" "$2"
    if unfinished; then begin; else say "ready"; fi
}

# train COMMIT URL OVERRIDES…
train() {
    local commit="$1" url="$2" job folder
    shift 2
    folder="runs/vm-${commit:0:12}-$(printf '%s\n' "$@" | sha256sum | cut -c 1-8)"
    job="$(printf '%s\n' "$commit" "$folder" "$@")"
    local same=""
    if [ -e "$JOB" ] && [ "$(cat "$JOB")" = "$job" ]; then same=1; fi
    if ! hold; then
        [ -n "$same" ] || end 1 "another training is at work: follow it with uv run invoke vm-log"
        end 0 "this training is at work already: $folder"
    fi
    if unfinished && [ -z "$same" ]; then
        end 1 "another training is not finished: sync goes on with it, or sync_vm.sh --abandon"
    fi
    prepare "$commit" "$url"
    if [ -n "$same" ] && [ "$(cat "$ENDED" 2>/dev/null)" = 0 ]; then
        end 0 "this training is done: $folder"
    fi
    rm -f "$ENDED" "$STARTS"
    write "$JOB" <<<"$job"
    begin
}

# Starts what outlives this connection; the lock goes over to it
begin() {
    setsid --fork nohup bash "$CLONE/scripts/vm_remote.sh" run </dev/null >>"$LOG" 2>&1
    say "training: $(sed -n 2p "$JOB"); follow it with uv run invoke vm-log"
}

resume() {
    unfinished || return 0
    hold || return 0
    begin
}

read_secrets() {
    local pair name where value
    for pair in ${PULMO_VM_SECRETS:-}; do
        name="${pair%%=*}" where="${pair#*=}"
        value="$(gcloud secrets versions access "${where#*:}" "--secret=${where%%:*}" "--project=$PULMO_GCP_PROJECT")"
        export "$name=$value"
    done
}

# A training from its data to the registry; gone on with where it was begun
work() {
    local folder="$1"
    shift
    [ -e "$folder/run.json" ] || uv run --no-sync main.py data "$@" || return
    uv run --no-sync main.py train --stage --resume "run.dir=$folder" "$@"
}

run() {
    local words starts code=0
    echo "$$" | write "$RUNNER"
    starts=$(($(cat "$STARTS" 2>/dev/null || echo 0) + 1))
    echo "$starts" | write "$STARTS"
    mapfile -t words <"$JOB"
    say "$(date -u +%FT%TZ) start $starts at commit ${words[0]}: ${words[*]:1}"
    if [ "$starts" -gt "$MOST_STARTS" ]; then
        echo 1 | write "$ENDED"
        exec 9>&-
        say "cut off $MOST_STARTS times: given up"
        return
    fi
    # shellcheck source=/dev/null
    . "$SETTINGS"
    read_secrets
    cd "$CLONE"
    work "${words[@]:1}" || code=$?
    local told="cut off ($code); it goes on by itself"
    case "$code" in
    129 | 130 | 137 | 143) ;;
    *)
        echo "$code" | write "$ENDED"
        told="ended with $code"
        ;;
    esac
    exec 9>&- # the lock is free before anybody reads that it is over
    say "$(date -u +%FT%TZ) $told"
}

abandon() {
    if ! hold; then
        kill -TERM -- "-$(cat "$RUNNER")" || true
        flock --wait 60 9 || end 1 "the training does not end: look at it with uv run invoke vm-status"
    fi
    rm -f "$JOB" "$ENDED" "$STARTS"
    say "the training is abandoned; its run folder stays"
}

log() {
    [ -e "$LOG" ] || end 1 "nothing was trained on this VM yet"
    tail --lines=200 ${1:+--follow=name} "$LOG"
}

status() {
    local told=none
    if [ -e "$ENDED" ]; then
        told="ended with $(cat "$ENDED")"
    elif [ -e "$JOB" ]; then
        if hold; then told="cut off, goes on within five minutes"; else told="at work"; fi
    fi
    printf 'commit    %s\n' "$(in_clone rev-parse HEAD 2>/dev/null || echo none)"
    printf 'training  %s\n' "$told"
    if [ -e "$JOB" ]; then
        printf 'run       %s\n' "$(sed -n 2p "$JOB")"
        printf 'starts    %s\n' "$(cat "$STARTS" 2>/dev/null || echo 0)"
        printf 'log       %s\n' "$(tail --lines=1 "$LOG" 2>/dev/null)"
    fi
}

main() {
    local action="${1:-}"
    shift || true
    case "$action" in
    sync) sync "$@" ;;
    train) train "$@" ;;
    resume) resume ;;
    run) run ;;
    abandon) abandon ;;
    log) log "$@" ;;
    status) status ;;
    *) end 2 "say what to do: sync, train, resume, run, abandon, log or status" ;;
    esac
}

main "$@" </dev/null
exit
