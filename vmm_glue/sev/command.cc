#include "vmm_glue/sev/command.h"

#include <fmt/format.h>

#include <cerrno>
#include <string>

#include "vmm_glue/sev/status.h"

namespace sealift::sev {
namespace {

std::uint64_t user_pointer(void* data) { return reinterpret_cast<std::uint64_t>(data); }

bool has_firmware_status(const CommandResult& outcome) {
  return outcome.result == -EIO && outcome.firmware != kNoFirmwareCall;
}

}  // namespace

bool CommandResult::answers_length_query() const {
  return result == -EIO && firmware == static_cast<std::uint32_t>(Status::kInvalidLength);
}

const char* name_of(KvmCommand command) {
  switch (command) {
    case KvmCommand::kInit:
      return "KVM_SEV_INIT";
    case KvmCommand::kEsInit:
      return "KVM_SEV_ES_INIT";
    case KvmCommand::kLaunchStart:
      return "KVM_SEV_LAUNCH_START";
    case KvmCommand::kLaunchUpdateData:
      return "KVM_SEV_LAUNCH_UPDATE_DATA";
    case KvmCommand::kLaunchUpdateVmsa:
      return "KVM_SEV_LAUNCH_UPDATE_VMSA";
    case KvmCommand::kLaunchSecret:
      return "KVM_SEV_LAUNCH_SECRET";
    case KvmCommand::kLaunchMeasure:
      return "KVM_SEV_LAUNCH_MEASURE";
    case KvmCommand::kLaunchFinish:
      return "KVM_SEV_LAUNCH_FINISH";
    case KvmCommand::kSendStart:
      return "KVM_SEV_SEND_START";
    case KvmCommand::kSendUpdateData:
      return "KVM_SEV_SEND_UPDATE_DATA";
    case KvmCommand::kSendUpdateVmsa:
      return "KVM_SEV_SEND_UPDATE_VMSA";
    case KvmCommand::kSendFinish:
      return "KVM_SEV_SEND_FINISH";
    case KvmCommand::kReceiveStart:
      return "KVM_SEV_RECEIVE_START";
    case KvmCommand::kReceiveUpdateData:
      return "KVM_SEV_RECEIVE_UPDATE_DATA";
    case KvmCommand::kReceiveUpdateVmsa:
      return "KVM_SEV_RECEIVE_UPDATE_VMSA";
    case KvmCommand::kReceiveFinish:
      return "KVM_SEV_RECEIVE_FINISH";
    case KvmCommand::kGuestStatus:
      return "KVM_SEV_GUEST_STATUS";
    case KvmCommand::kDbgDecrypt:
      return "KVM_SEV_DBG_DECRYPT";
    case KvmCommand::kDbgEncrypt:
      return "KVM_SEV_DBG_ENCRYPT";
    case KvmCommand::kCertExport:
      return "KVM_SEV_CERT_EXPORT";
    case KvmCommand::kGetAttestationReport:
      return "KVM_SEV_GET_ATTESTATION_REPORT";
    case KvmCommand::kSendCancel:
      return "KVM_SEV_SEND_CANCEL";
    case KvmCommand::kInit2:
      return "KVM_SEV_INIT2";
    case KvmCommand::kGetEsState:
      return "KVM_SEV_GET_ES_STATE (of no kernel)";
    case KvmCommand::kSetEsState:
      return "KVM_SEV_SET_ES_STATE (of no kernel)";
  }
  return "unknown SEV command";
}

const char* name_of(SevDeviceCommand command) {
  switch (command) {
    case SevDeviceCommand::kFactoryReset:
      return "SEV_FACTORY_RESET";
    case SevDeviceCommand::kPlatformStatus:
      return "SEV_PLATFORM_STATUS";
    case SevDeviceCommand::kPekGen:
      return "SEV_PEK_GEN";
    case SevDeviceCommand::kPekCsr:
      return "SEV_PEK_CSR";
    case SevDeviceCommand::kPdhGen:
      return "SEV_PDH_GEN";
    case SevDeviceCommand::kPdhCertExport:
      return "SEV_PDH_CERT_EXPORT";
    case SevDeviceCommand::kPekCertImport:
      return "SEV_PEK_CERT_IMPORT";
    case SevDeviceCommand::kGetId:
      return "SEV_GET_ID";
    case SevDeviceCommand::kGetId2:
      return "SEV_GET_ID2";
  }
  return "unknown /dev/sev command";
}

CommandResult issue(const SevVm& vm, KvmCommand command, void* data) {
  KvmSevCmd cmd;
  cmd.id = static_cast<std::uint32_t>(command);
  cmd.data = user_pointer(data);
  cmd.sev_fd = static_cast<std::uint32_t>(vm.sev_fd);
  const int result = vm.host.ioctl(vm.vm_fd, kKvmMemoryEncryptOp, &cmd);
  return {.result = result, .firmware = cmd.error};
}

CommandResult issue(const SevVm& vm, SevDeviceCommand command, void* data) {
  SevIssueCmd cmd;
  cmd.cmd = static_cast<std::uint32_t>(command);
  cmd.data = user_pointer(data);
  const int result = vm.host.ioctl(vm.sev_fd, kSevIssueCmd, &cmd);
  return {.result = result, .firmware = cmd.error};
}

Result<void> check(const CommandResult& outcome, const char* command, std::string_view subject) {
  if (outcome.ok()) return {};
  const std::string reason = errno_text(-outcome.result);
  if (outcome.result == -ETIMEDOUT) {
    return fail(ErrorClass::kLocalFault,
                "{}{} failed: {}: the secure processor gave no answer, and the kernel refuses "
                "(EBUSY) all further SEV commands until it starts again.",
                command, subject, reason);
  }
  if (!has_firmware_status(outcome)) {
    return fail(ErrorClass::kLocalFault, "{}{} failed: {}, without an answer of the firmware.",
                command, subject, reason);
  }
  const auto status = static_cast<Status>(outcome.firmware & 0xffff);
  return fail(class_of(status), "{}{} failed: {}, firmware status {}.", command, subject, reason,
              describe(status));
}

Result<KvmSevGuestStatus> guest_status(const SevVm& vm) {
  KvmSevGuestStatus status;
  SEALIFT_CHECK(
      check(issue(vm, KvmCommand::kGuestStatus, &status), name_of(KvmCommand::kGuestStatus)));
  return status;
}

}  // namespace sealift::sev
