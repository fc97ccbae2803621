#!/usr/bin/env bash
# Brings this commit, its environment and its data to the training VM; what was cut off there goes on.
# shellcheck source-path=SCRIPTDIR source=vm.sh
. "$(dirname "${BASH_SOURCE[0]}")/vm.sh"

main() {
    flags "$@"
    settings
    origin
    require_login
    power_on
    if [ -n "$ABANDON" ]; then on_vm abandon; fi
    on_vm sync "$COMMIT" "$PULMO_VM_GIT_URL"
}

main "$@"
