#!/usr/bin/env bash
# The system packages that the tests start as real services: Java and Maven (Apache Kafka), Chromium (the page),
# Prometheus with promtool, Alertmanager with amtool, VictoriaMetrics with vmalert, systemd-analyze (the unit).
# As root on Debian or Ubuntu: installs what is missing by apt, without starting any of it. Otherwise: names it.
# Tests that need a missing one skip with that reason, and fail under CI=true. Run by `make services`.
set -euo pipefail

have_java() {
    local version
    version="$(java -version 2>&1 | sed -nE 's/.* version "([0-9]+).*/\1/p')" || return 1
    [ "${version:-0}" -ge 17 ]
}
have_any() {
    local program
    for program in "$@"; do command -v "$program" >/dev/null && return; done
    return 1
}
missing() {
    have_java || echo openjdk-17-jre-headless/default-jre-headless # newer releases have dropped 17
    have_any mvn || echo maven
    have_any chromium chromium-browser google-chrome || echo chromium
    { have_any prometheus && have_any promtool; } || echo prometheus
    { have_any prometheus-alertmanager alertmanager && have_any amtool; } || echo prometheus-alertmanager
    have_any victoria-metrics || echo victoria-metrics
    have_any systemd-analyze || echo systemd
}

wanted="$(missing)"
[ -z "$wanted" ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "services: not here, their tests will skip (or fail under CI=true): ${wanted//$'\n'/ };" \
        "on Debian or Ubuntu, as root: make services"
    exit 0
fi

# A daemon that a package would start holds the very ports and files that the tests hand out: say no, as Debian
# documents for policy-rc.d, and take our answer away again.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq || echo "services: apt-get update failed; going on with the package lists that are here"
install() { output="$(apt-get install -y --no-install-recommends "$1" 2>&1)"; }
for names in $wanted; do
    echo "services: installing ${names%%/*}"
    install "${names%%/*}" || install "${names##*/}" ||
        echo "services: could not install $names: $(tail -n 1 <<<"$output")"
done
still="$(missing)"
[ -z "$still" ] || echo "services: still missing: ${still//$'\n'/ }"
