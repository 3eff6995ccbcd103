#!/bin/sh
# Inside the emulated machine with the rebuilt kvm.ko: guests with real private memory, which this host cannot read.
# shellcheck shell=dash disable=SC1091,SC2154 # agents.sh is beside this file there, and sets failed
. /bin/agents.sh

unit_tests.sh private_memory_test '*' || failed=1
unit_tests.sh kvm_helper_test '*' || failed=1
unit_tests.sh exits_kvm_test '*' || failed=1
make_keys
# These guests need nested paging, which QEMU 7.2 gets wrong now and then when two CPUs run guests (machine.py).
echo 0 >/sys/devices/system/cpu/cpu1/online || fail "CPU 1 stays online"
# The shared half travels live, private pages through the helper vCPU while the guest is paused.
migration sw-protected workload=flipstorm
grep -q '"covers":"shared pages"' destination.json || fail "a digest of pages that only the guest can read"
grep -q '"private_pages":[1-9]' report.json || fail "no private page travelled"
migration sw-protected workload=hotset
exit "$failed"
