#!/bin/sh
# Inside the emulated machine: the unit tests that need a KVM, then live migrations between two agents on loopback.
# shellcheck shell=dash disable=SC1091,SC2154 # agents.sh is beside this file there, and sets failed
. /bin/agents.sh

# Not the test that needs 8 GiB.
unit_tests.sh kvm_vm_test 'RealKvm.*-*BothSidesOfTheGap' || failed=1
unit_tests.sh vm_test '*/kvm_*' || failed=1
make_keys
# The guest asks for conversions by KVM's own hypercall, from CPL0, and by MMIO, from CPL3.
migration sev workload=flipstorm hypercall-by=vmmcall
migration sev workload=flipstorm hypercall-by=mmio
# MSR_KVM_MIGRATION_CONTROL through KVM's filter: the guest writes 1, then 0.
refusal sev 3 withdr ready=withdrawn hypercall-by=vmmcall
exit "$failed"
