#!/usr/bin/env bash
# Makes the training VM, or finds it made: the machine, this commit, its environment and its data.
# shellcheck source-path=SCRIPTDIR source=vm.sh
. "$(dirname "${BASH_SOURCE[0]}")/vm.sh"

create() {
    local account='[a-z][a-z0-9-]{4,28}[a-z0-9]@[a-z][a-z0-9-]{4,28}[a-z0-9]\.iam\.gserviceaccount\.com'
    need PULMO_VM_SERVICE_ACCOUNT "$account"
    need PULMO_VM_MACHINE '[a-z][a-z0-9]{0,9}-[a-z0-9-]{1,40}'
    allow PULMO_VM_IMAGE '[a-z0-9-]{1,63}/[a-z0-9-]{1,63}' debian-cloud/debian-12
    allow PULMO_VM_DISK_GB '[1-9][0-9]{1,4}' 100
    allow PULMO_VM_SPOT '0|1' 1
    allow PULMO_VM_GPU '[a-z0-9-]{1,63}:[1-9][0-9]?'
    local words=("--machine-type=$PULMO_VM_MACHINE" "--service-account=$PULMO_VM_SERVICE_ACCOUNT"
        --scopes=cloud-platform "--image-project=${PULMO_VM_IMAGE%/*}" "--image-family=${PULMO_VM_IMAGE#*/}"
        "--boot-disk-size=${PULMO_VM_DISK_GB}GB" --metadata=enable-oslogin=TRUE)
    if [ "$PULMO_VM_SPOT" = 1 ]; then
        words+=(--provisioning-model=SPOT --instance-termination-action=STOP)
    fi
    if [ -n "$PULMO_VM_GPU" ]; then
        words+=("--accelerator=type=${PULMO_VM_GPU%:*},count=${PULMO_VM_GPU#*:}" --maintenance-policy=TERMINATE)
    else
        words+=(--shielded-secure-boot) # which refuses the drivers of GPUs
    fi
    on_instance create "${words[@]}"
}

main() {
    flags "$@"
    settings
    origin
    require_login
    if [ -n "$DRY_RUN" ]; then
        power
        echo "# where there is none:"
        create
    elif [ -z "$(power)" ]; then
        create
        await
    fi
    power_on
    on_vm sync "$COMMIT" "$PULMO_VM_GIT_URL"
}

main "$@"
