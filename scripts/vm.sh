# shellcheck shell=bash
# The settings of the training VM, checked, and the one way onto it; scripts beside it source this.
set -euo pipefail

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
DRY_RUN="" COMMIT=""
export ABANDON="" FOLLOW="" # read by the scripts that source this
# What the VM is told of this environment. No secrets: those are named in PULMO_VM_SECRETS.
PASSED_ON="PULMO_REGISTRY PULMO_REGISTRY_URL PULMO_FILES_URL PULMO_DATA_URL PULMO_HOOKS_TARGETS
    WANDB_BASE_URL WANDB_ENTITY WANDB_PROJECT WANDB_MODE MLFLOW_TRACKING_URI"

say() { printf '%s\n' "$*" >&2; }

# end CODE SENTENCE: 1 failed, 2 wrong usage or settings
end() {
    say "$2"
    exit "$1"
}

# allow NAME PATTERN [DEFAULT]: a setting that may be left out
allow() {
    [ -n "${!1:-}" ] || printf -v "$1" %s "${3:-}"
    if [ -n "${!1}" ] && ! [[ ${!1} =~ ^($2)$ ]]; then
        end 2 "$1 is wrong: '${!1}' is not of the form $2"
    fi
    export "${1?}"
}

# need NAME PATTERN: a setting that must be there
need() {
    [ -n "${!1:-}" ] || end 2 "set $1: docs/training-vm.md says to what"
    allow "$1" "$2"
}

# flags WORDS…: reads flags and leaves what is no flag in REST, one word an element
flags() {
    REST=()
    while [ $# -gt 0 ]; do
        case "$1" in
        --dry-run) DRY_RUN=1 ;;
        --abandon) ABANDON=1 ;;
        --follow) FOLLOW=1 ;;
        --project=*) PULMO_GCP_PROJECT="${1#*=}" ;;
        --zone=*) PULMO_VM_ZONE="${1#*=}" ;;
        --name=*) PULMO_VM_NAME="${1#*=}" ;;
        --commit=*) COMMIT="${1#*=}" ;;
        --*) end 2 "$1 is no flag: --dry-run, --project=, --zone=, --name=, --commit=, --abandon, --follow" ;;
        *) REST+=("$1") ;;
        esac
        shift
    done
}

settings() {
    local name secret='[A-Za-z0-9_-]{1,255}:(latest|[1-9][0-9]{0,5})'
    need PULMO_GCP_PROJECT '[a-z][a-z0-9-]{4,28}[a-z0-9]'
    need PULMO_VM_ZONE '[a-z]{2,20}-[a-z]{2,20}[1-9][0-9]?-[a-z]'
    need PULMO_VM_NAME '[a-z]([a-z0-9-]{0,61}[a-z0-9])?'
    allow PULMO_VM_IAP '0|1' 1
    allow PULMO_VM_GROUPS '[a-z]+( [a-z]+)*' 'data gcs postgres'
    allow PULMO_VM_DATA '[A-Za-z0-9][A-Za-z0-9._/-]{0,199}\.dvc|none' data/raw.dvc
    allow PULMO_VM_SECRETS "((PULMO|WANDB|MLFLOW)_[A-Z0-9_]{1,60}=$secret ?)+"
    allow PULMO_VM_GIT_SECRET "$secret"
    for name in $PASSED_ON; do
        if [[ ${!name:-} =~ ://[^/]*:[^/]*@ ]]; then
            end 2 "$name holds a password: keep it in Secret Manager, and name it in PULMO_VM_SECRETS"
        fi
    done
}

# The commit that the VM is to have, and where from
origin() {
    COMMIT="$(git -C "$HERE" rev-parse --verify --quiet --end-of-options "${COMMIT:-HEAD}^{commit}")" ||
        end 2 "there is no such commit here"
    if [ -n "$(git -C "$HERE" status --porcelain --untracked-files=no)" ]; then
        say "note: what is not committed stays here"
    fi
    [ -n "${PULMO_VM_GIT_URL:-}" ] || PULMO_VM_GIT_URL="$(git -C "$HERE" remote get-url origin 2>/dev/null || true)"
    need PULMO_VM_GIT_URL '(https://[A-Za-z0-9.-]+|file://)?/[A-Za-z0-9._/-]+'
}

shown() {
    printf '%q' "$1"
    printf ' %q' "${@:2}"
    printf '\n'
}

# run COMMAND…: runs it, or prints it in a dry run
run() { if [ -n "$DRY_RUN" ]; then shown "$@"; else "$@"; fi; }

on_instance() { run gcloud compute instances "$1" "$PULMO_VM_NAME" "${@:2}" "${PLACE[@]}" --quiet; }

require_login() {
    PLACE=("--project=$PULMO_GCP_PROJECT" "--zone=$PULMO_VM_ZONE")
    if [ -z "$DRY_RUN" ] && ! command -v gcloud >/dev/null; then
        end 1 "gcloud is not installed: https://cloud.google.com/sdk/docs/install"
    fi
    local asked=(gcloud auth list --filter=status:ACTIVE '--format=value(account)')
    if [ -n "$DRY_RUN" ]; then
        shown "${asked[@]}"
    elif [ -z "$("${asked[@]}")" ]; then
        end 1 "nobody is logged in to Google Cloud: run gcloud auth login"
    fi
}

# The state of the VM as Google tells it; nothing where there is none
power() {
    run gcloud compute instances list "--filter=name=$PULMO_VM_NAME" "--zones=$PULMO_VM_ZONE" \
        "--project=$PULMO_GCP_PROJECT" '--format=value(status)'
}

power_on() {
    if [ -n "$DRY_RUN" ]; then
        power
        echo "# where it was stopped:"
        on_instance start
        return
    fi
    local state
    state="$(power)"
    case "$state" in
    RUNNING) ;;
    TERMINATED)
        on_instance start
        await
        ;;
    "") end 1 "there is no VM $PULMO_VM_NAME in $PULMO_VM_ZONE: scripts/setup_vm_git.sh makes it" ;;
    *) end 1 "the VM $PULMO_VM_NAME is $state: try again in a moment" ;;
    esac
}

# A machine that was just started is not reached at once
await() {
    local try
    for try in 1 2 3 4 5 6 7 8 9 10; do
        if over_ssh true </dev/null 2>/dev/null; then return; fi
        say "the VM does not answer yet ($try)"
        sleep 6
    done
    end 1 "the VM $PULMO_VM_NAME was started and cannot be reached"
}

over_ssh() {
    local words=("--command=$1" "${PLACE[@]}" --quiet)
    if [ "$PULMO_VM_IAP" = 1 ]; then words+=(--tunnel-through-iap); fi
    run gcloud compute ssh "$PULMO_VM_NAME" "${words[@]}"
}

# The words and settings for the other side; they go over standard input, so no list of processes has them
told() {
    local name
    printf 'set --'
    printf ' %q' "$@"
    printf '\n'
    for name in $PASSED_ON PULMO_GCP_PROJECT PULMO_VM_GROUPS PULMO_VM_DATA PULMO_VM_SECRETS PULMO_VM_GIT_SECRET; do
        if [ -n "${!name:-}" ]; then printf 'export %s=%q\n' "$name" "${!name}"; fi
    done
}

# on_vm ACTION WORDS…: scripts/vm_remote.sh there, whatever line ends a checkout gave it here
on_vm() {
    if [ -n "$DRY_RUN" ]; then
        over_ssh "bash -s $1"
        echo "# its standard input is scripts/vm_remote.sh after these lines:"
        told "$@"
    else
        { told "$@" && tr -d '\r' <"$HERE/vm_remote.sh"; } | over_ssh "bash -s $1"
    fi
}
