#!/usr/bin/env bash
# Trains on the VM at this commit (train KEY=VALUE…), follows its log (log) or says how far it is (status).
# shellcheck source-path=SCRIPTDIR source=vm.sh
. "$(dirname "${BASH_SOURCE[0]}")/vm.sh"

main() {
    flags "$@"
    local action="${REST[0]:-}"
    settings
    case "$action" in
    train)
        origin
        require_login
        power_on
        on_vm train "$COMMIT" "$PULMO_VM_GIT_URL" "${REST[@]:1}"
        ;;
    log | status)
        require_login
        if [ -z "$DRY_RUN" ] && [ "$(power)" != RUNNING ]; then
            end 1 "the VM $PULMO_VM_NAME is $(power): scripts/sync_vm.sh starts it, and what was cut off"
        fi
        on_vm "$action" ${FOLLOW:+follow}
        ;;
    *) end 2 "say what to do: train KEY=VALUE…, log or status" ;;
    esac
}

main "$@"
