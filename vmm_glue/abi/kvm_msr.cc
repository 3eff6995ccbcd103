#include "vmm_glue/abi/kvm_msr.h"

#include <asm/kvm_para.h>
#include <linux/kvm.h>

namespace sealift {
namespace {

static_assert(KVM_CHECK_EXTENSION == kKvmCheckExtension && KVM_ENABLE_CAP == kKvmEnableCap);
static_assert(KVM_X86_SET_MSR_FILTER == kKvmSetMsrFilter);
static_assert(KVM_CAP_X86_USER_SPACE_MSR == kKvmCapUserSpaceMsr);
static_assert(KVM_CAP_X86_MSR_FILTER == kKvmCapMsrFilter);
static_assert(KVM_CAP_EXIT_HYPERCALL == kKvmCapExitHypercall);
static_assert(KVM_MSR_EXIT_REASON_FILTER == kKvmMsrExitFilter);
static_assert(sizeof(kvm_enable_cap) == sizeof(KvmEnableCap));
static_assert(sizeof(kvm_msr_filter) == sizeof(KvmMsrFilter));
static_assert(sizeof(kvm_msr_filter_range) == sizeof(KvmMsrFilterRange));
static_assert(offsetof(kvm_msr_filter_range, base) == offsetof(KvmMsrFilterRange, base));
static_assert(offsetof(kvm_msr_filter_range, bitmap) == offsetof(KvmMsrFilterRange, bitmap));
static_assert(KVM_MSR_FILTER_MAX_RANGES == kKvmMsrFilterRangesMax);
static_assert(KVM_MSR_FILTER_READ == kKvmMsrFilterRead);
static_assert(KVM_MSR_FILTER_WRITE == kKvmMsrFilterWrite);
static_assert(MSR_KVM_MIGRATION_CONTROL == kMsrKvmMigrationControl);
static_assert(KVM_MIGRATION_READY == kKvmMigrationReady);
static_assert(KVM_CPUID_FEATURES == kKvmCpuidFeaturesLeaf);
static_assert(1u << KVM_FEATURE_HC_MAP_GPA_RANGE == kKvmFeatureMapGpaRange);
static_assert(1u << KVM_FEATURE_MIGRATION_CONTROL == kKvmFeatureMigrationControl);

}  // namespace
}  // namespace sealift
