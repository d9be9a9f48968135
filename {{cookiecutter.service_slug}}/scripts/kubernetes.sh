#!/bin/sh
# What kubernetes.mk calls: kubernetes.sh deploy | rollback | canary WEIGHT JUDGE... NAME, IMAGE, OVERLAY and CONFIG come from there.
set -eu

manifests=deploy/kubernetes
overlay=$manifests/overlays/$OVERLAY

fail() {
    echo "$*" >&2
    exit 1
}

# Print the manifests of a folder with the image and the environment's settings: render FOLDER [LINE...], each of kustomization.yaml.
# The files are made beside the service's, so that nothing of it changes.
render() {
    folder=$1
    shift
    case $folder in
        */overlays/*) where=", namespace: $namespace" ;;
        *) where= ;;
    esac
    {
        printf '%s\n' "resources: [./deploy/${folder#deploy/}]" "namespace: $namespace" "$@"
        printf '%s\n' "configMapGenerator:"
        count=0
        for file in $settings; do
            count=$((count + 1))
            cp "$file" "$work/$count.env"
            printf '%s\n' "  - {name: $NAME$where, behavior: merge, envs: [$count.env]}"
        done
        printf '%s\n' "images: [{name: $NAME, newName: \"$IMAGE\"}]"
    } >"$work/kustomization.yaml"
    kubectl kustomize "$work"
}

# {% if cookiecutter.database == "postgresql" %}
# Run the migrations to their end. Each release has a job of its own, named after all that is in it; one that is done is not run again.
migrate() {
    render "$manifests/migrate" >"$work/job" || fail "$OVERLAY: the manifests are wrong, see above"
    job=$NAME-migrate-$(cksum <"$work/job" | cut -d' ' -f1)
    # The secrets first: the job needs its own.
    if grep -q 'component: secrets' "$work/all"; then
        kube apply --filename "$work/all" --selector app.kubernetes.io/component=secrets
    fi
    case $(ended "$job") in *Failed*) kube delete job "$job" ;; esac
    render "$manifests/migrate" "nameSuffix: \"-${job##*-}\"" >"$work/job"
    kube apply --filename "$work/job"
    while state=$(ended "$job") && [ -z "$state" ]; do sleep 1; done
    case $state in
        *Complete* | *SuccessCriteriaMet*) ;;
        "") exit 1 ;; # kubectl has said why
        *) fail "$NAME: its migrations failed, and nothing was rolled out: kubectl --namespace $namespace logs job/$job" ;;
    esac
}

# Print how a job ended; nothing while it runs, or where there is none.
ended() {
    kube get job "$1" --ignore-not-found --output 'jsonpath={.status.conditions[?(@.status=="True")].type}'
}

# {% endif %}
kube() {
    kubectl --namespace "$namespace" "$@"
}

deployments() {
    kube get deployments --selector "app.kubernetes.io/name=$NAME,app.kubernetes.io/component!=canary" --output name
}

# Wait for the roll-out of each deployment named; $1 is what to do where one fails.
wait_for() {
    remedy=$1
    shift
    for deployment in "$@"; do
        kube rollout status "$deployment" >"$work/status" 2>&1 ||
            fail "$NAME: $deployment did not become ready, and the pods of the release before serve on; see kubectl --namespace $namespace get pods; $remedy"
    done
}

deploy() {
    render "$overlay" >"$work/all" || fail "$OVERLAY: the manifests are wrong, see above"
    # {% if cookiecutter.database == "postgresql" %}
    migrate
    # {% endif %}
    kube apply --filename "$work/all"
    wait_for "make rollback TARGET=kubernetes OVERLAY=$OVERLAY" $(deployments)
}

rollback() {
    for deployment in $(deployments); do kube rollout undo "$deployment"; done
    wait_for "make deploy TARGET=kubernetes" $(deployments)
}

# Give the requests to the backends named: route NAME WEIGHT...
route() {
    backends=
    while [ $# -gt 0 ]; do
        backends=$backends${backends:+, }'{"name": "'$1'", "port": 5000, "weight": '$2'}'
        shift 2
    done
    kube patch httproute "$NAME" --type json --patch \
        '[{"op": "replace", "path": "/spec/rules/0/backendRefs", "value": ['"$backends"']}]'
}

end_canary() {
    route "$NAME" 1
    kube delete --ignore-not-found --filename "$work/canary"
}

canary() {
    weight=$1
    shift
    render "$overlay" "components: [./$manifests/canary]" >"$work/canary" || fail "$OVERLAY: the manifests are wrong, see above"
    trap 'end_canary; rm -rf "$work"' EXIT
    kube apply --filename "$work/canary"
    wait_for "it is removed" "deployment/$NAME-canary"
    route "$NAME" $((100 - weight)) "$NAME-canary" "$weight"
    "$@" "$NAME-canary" || fail "$NAME: the canary is removed"
    echo "$NAME: the canary kept the objectives and is removed; make deploy TARGET=kubernetes rolls the release out"
}

command -v kubectl >/dev/null || fail "kubectl is not on the PATH: https://kubernetes.io/docs/tasks/tools/"
[ -f "$overlay/kustomization.yaml" ] || fail "OVERLAY=$OVERLAY: there is no $overlay"
settings="$overlay/config.env ${CONFIG:-}"
for file in $settings; do [ -f "$file" ] || fail "CONFIG: there is no $file"; done
namespace=$(sed -n 's/^namespace: *//p' "$overlay/kustomization.yaml")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
ln -s "$PWD/deploy" "$work/deploy"
"$@"
