// A stand-in for libnvidia-ml.so.1. The file named by FAKE_NVML_RESULT, if
// there, holds what nvmlInit_v2 and nvmlDeviceGetCount_v2 return.
//
// As it is, it has one GPU, and the functions without which nothing can be
// listed or found: what it lacks, an old driver lacks. With FAKE_NVML_FULL
// (which needs the nvml.h of go-nvml, and NVML_NO_UNVERSIONED_FUNC_DEFS) it has eight
// GPUs behind switches and all that is read of them. It then counts calls:
// nvmlShutdown writes "name number" lines to the file that FAKE_NVML_CALLS
// names, and begins anew. A code in the file that FAKE_NVML_EVENT names becomes
// an event of the second GPU, and the file is removed.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef FAKE_NVML_FULL
#include <unistd.h>

#include "nvml.h"
#define GPUS 8
#else
typedef int nvmlReturn_t;
typedef struct {
	void *handle;
} nvmlDevice_t;
#define GPUS 1
#endif

#ifdef FAKE_NVML_FULL
static struct {
	const char *name;
	long calls;
} counts[128];

static void count(const char *name) {
	for (int i = 0; i < 128; i++) {
		if (!counts[i].name)
			counts[i].name = name;
		if (counts[i].name == name) {
			__atomic_add_fetch(&counts[i].calls, 1, __ATOMIC_RELAXED);
			return;
		}
	}
}

static void tell(void) {
	const char *path = getenv("FAKE_NVML_CALLS");
	FILE *f = path ? fopen(path, "w") : NULL;
	for (int i = 0; i < 128 && counts[i].name; i++) {
		if (f)
			fprintf(f, "%s %ld\n", counts[i].name, counts[i].calls);
		counts[i].calls = 0;
	}
	if (f)
		fclose(f);
}
#else
static void count(const char *name) {}
static void tell(void) {}
#endif

static nvmlReturn_t result(void) {
	int r = 0;
	const char *path = getenv("FAKE_NVML_RESULT");
	FILE *f = path ? fopen(path, "r") : NULL;
	if (f) {
		if (fscanf(f, "%d", &r) != 1)
			r = 999;
		fclose(f);
	}
	return r;
}

// A device is its index, and one.
static nvmlDevice_t device(unsigned i) { return (nvmlDevice_t){(void *)(unsigned long)(i + 1)}; }
static unsigned at(nvmlDevice_t d) { return (unsigned)(unsigned long)d.handle - 1; }

static void name(unsigned i, char *uuid, unsigned length) {
	if (GPUS == 1)
		snprintf(uuid, length, "GPU-fake");
	else
		snprintf(uuid, length, "GPU-fake-%u", i);
}

nvmlReturn_t nvmlInit_v2(void) { return result(); }
nvmlReturn_t nvmlShutdown(void) {
	tell();
	return 0;
}

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *n) {
	count(__func__);
	*n = GPUS;
	return result();
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned i, nvmlDevice_t *d) {
	count(__func__);
	*d = device(i);
	return 0;
}

nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *d) {
	count(__func__);
	for (unsigned i = 0; i < GPUS; i++) {
		char own[80];
		name(i, own, sizeof own);
		*d = device(i);
		if (!strcmp(uuid, own))
			return 0;
	}
	return 6; // not found
}

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t d, char *uuid, unsigned length) {
	count(__func__);
	name(at(d), uuid, length);
	return 0;
}

nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t d, char *text, unsigned length) {
	count(__func__);
	snprintf(text, length, GPUS == 1 ? "Tesla K80" : "NVIDIA H100 80GB HBM3");
	return 0;
}

#ifdef FAKE_NVML_FULL
// GET defines a function that answers with one value for a device.
#define GET(function, type, value)                          \
	nvmlReturn_t function(nvmlDevice_t d, type *answer) {   \
		count(__func__);                                    \
		*answer = (value);                                  \
		return NVML_SUCCESS;                                \
	}
// PICK is GET for functions that are told which of several values is meant.
#define PICK(function, kind, type, value)                            \
	nvmlReturn_t function(nvmlDevice_t d, kind which, type *answer) { \
		count(__func__);                                             \
		*answer = (value);                                           \
		return NVML_SUCCESS;                                         \
	}

GET(nvmlDeviceGetMinorNumber, unsigned, at(d))
GET(nvmlDeviceGetNumGpuCores, unsigned, 16896)
GET(nvmlDeviceGetComputeMode, nvmlComputeMode_t, NVML_COMPUTEMODE_EXCLUSIVE_PROCESS)
GET(nvmlDeviceGetArchitecture, nvmlDeviceArchitecture_t, NVML_DEVICE_ARCH_HOPPER)
GET(nvmlDeviceGetPowerUsage, unsigned, 300500)
GET(nvmlDeviceGetEnforcedPowerLimit, unsigned, 700000)
GET(nvmlDeviceGetTotalEnergyConsumption, unsigned long long, 5000000000ULL)
GET(nvmlDeviceGetPerformanceState, nvmlPstates_t, NVML_PSTATE_0)
GET(nvmlDeviceGetUtilizationRates, nvmlUtilization_t, ((nvmlUtilization_t){.gpu = 90 + at(d), .memory = 30}))
GET(nvmlDeviceGetMemoryInfo, nvmlMemory_t, ((nvmlMemory_t){.total = 81559ULL << 20, .used = 1ULL << 30}))
GET(nvmlDeviceGetBAR1MemoryInfo, nvmlBAR1Memory_t, ((nvmlBAR1Memory_t){.bar1Total = 128ULL << 30, .bar1Used = 2 << 20}))
GET(nvmlDeviceGetCurrentClocksEventReasons, unsigned long long, nvmlClocksEventReasonSwPowerCap)
GET(nvmlDeviceGetMaxPcieLinkGeneration, unsigned, 5)
GET(nvmlDeviceGetMaxPcieLinkWidth, unsigned, 16)
GET(nvmlDeviceGetCurrPcieLinkGeneration, unsigned, 5)
GET(nvmlDeviceGetCurrPcieLinkWidth, unsigned, 8)
GET(nvmlDeviceGetPcieReplayCounter, unsigned, 3)
GET(nvmlDeviceGetSupportedEventTypes, unsigned long long, nvmlEventTypeXidCriticalError)
GET(nvmlDeviceGetGpuFabricInfo, nvmlGpuFabricInfo_t, ((nvmlGpuFabricInfo_t){.state = NVML_GPU_FABRIC_STATE_COMPLETED}))
PICK(nvmlDeviceGetTemperature, nvmlTemperatureSensors_t, unsigned, 40 + at(d))
PICK(nvmlDeviceGetTemperatureThreshold, nvmlTemperatureThresholds_t, unsigned, 95 - 2 * which)
PICK(nvmlDeviceGetClockInfo, nvmlClockType_t, unsigned, 1900 + which)
PICK(nvmlDeviceGetMaxClockInfo, nvmlClockType_t, unsigned, 1980 + which)
PICK(nvmlDeviceGetViolationStatus, nvmlPerfPolicyType_t, nvmlViolationTime_t, ((nvmlViolationTime_t){.violationTime = 1000000 * (1 + which)}))
PICK(nvmlDeviceGetNvLinkRemoteDeviceType, unsigned, nvmlIntNvLinkDeviceType_t, NVML_NVLINK_DEVICE_TYPE_SWITCH)

nvmlReturn_t nvmlDeviceGetSerial(nvmlDevice_t d, char *text, unsigned length) {
	count(__func__);
	snprintf(text, length, "165%07u", at(d));
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t d, nvmlPciInfo_t *pci) {
	count(__func__);
	memset(pci, 0, sizeof *pci);
	snprintf(pci->busId, sizeof pci->busId, "00000000:%02X:00.0", 0x10 + at(d));
	pci->pciDeviceId = 0x233010DE;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t d, int *major, int *minor) {
	count(__func__);
	*major = 9, *minor = 0;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t d, nvmlMemory_v2_t *m) {
	count(__func__);
	if (m->version != nvmlMemory_v2)
		return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
	m->total = 81559ULL << 20, m->reserved = 551ULL << 20, m->used = 1ULL << 30;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCpuAffinity(nvmlDevice_t d, unsigned words, unsigned long *set) {
	count(__func__);
	memset(set, 0, words * sizeof *set);
	set[0] = 0xFFFF, set[1] = 0xF;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMemoryAffinity(nvmlDevice_t d, unsigned words, unsigned long *set, nvmlAffinityScope_t scope) {
	count(__func__);
	memset(set, 0, words * sizeof *set);
	set[0] = at(d) < 4 ? 1 : 2;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetEccMode(nvmlDevice_t d, nvmlEnableState_t *now, nvmlEnableState_t *next) {
	count(__func__);
	*now = *next = NVML_FEATURE_ENABLED;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t d, nvmlMemoryErrorType_t kind, nvmlEccCounterType_t since, unsigned long long *n) {
	count(__func__);
	*n = 10 * since + kind;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetRemappedRows(nvmlDevice_t d, unsigned *corrected, unsigned *uncorrected, unsigned *pending, unsigned *failed) {
	count(__func__);
	*corrected = 1, *uncorrected = 2, *pending = 1, *failed = 0;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetNvLinkState(nvmlDevice_t d, unsigned link, nvmlEnableState_t *active) {
	count(__func__);
	if (link >= 18)
		return NVML_ERROR_INVALID_ARGUMENT;
	*active = link == 17 && at(d) == 0 ? NVML_FEATURE_DISABLED : NVML_FEATURE_ENABLED;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTopologyCommonAncestor(nvmlDevice_t a, nvmlDevice_t b, nvmlGpuTopologyLevel_t *level) {
	count(__func__);
	*level = NVML_TOPOLOGY_NODE;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t d, int n, nvmlFieldValue_t *values) {
	count(__func__);
	for (int i = 0; i < n; i++) {
		nvmlFieldValue_t *v = &values[i];
		v->nvmlReturn = NVML_SUCCESS;
		v->valueType = NVML_VALUE_TYPE_UNSIGNED_INT;
		switch (v->fieldId) {
		case NVML_FI_DEV_MEMORY_TEMP:
			v->value.uiVal = 55;
			break;
		case NVML_FI_DEV_GET_GPU_RECOVERY_ACTION:
			v->value.uiVal = NVML_GPU_RECOVERY_ACTION_GPU_RESET;
			break;
		case NVML_FI_DEV_NVLINK_ERROR_DL_CRC:
			v->value.uiVal = v->scopeId;
			break;
		case NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX:
			v->valueType = NVML_VALUE_TYPE_UNSIGNED_LONG_LONG;
			v->value.ullVal = 5000000000ULL;
			break;
		default:
			v->nvmlReturn = NVML_ERROR_NOT_SUPPORTED;
		}
	}
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t d, unsigned *n, nvmlProcessInfo_t *infos) {
	count(__func__);
	unsigned room = *n;
	*n = 3;
	if (room < 3)
		return NVML_ERROR_INSUFFICIENT_SIZE;
	for (unsigned i = 0; i < 3; i++)
		infos[i] = (nvmlProcessInfo_t){100 * at(d) + i, i ? 512ULL << 20 : NVML_VALUE_NOT_AVAILABLE, 0xFFFFFFFF, 0xFFFFFFFF};
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t d, nvmlProcessUtilizationSample_t *samples, unsigned *n, unsigned long long since) {
	count(__func__);
	if (!samples) {
		*n = 1;
		return NVML_ERROR_INSUFFICIENT_SIZE;
	}
	samples[0] = (nvmlProcessUtilizationSample_t){.pid = 100 * at(d) + 1, .timeStamp = since + 1, .smUtil = 77};
	*n = 1;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *set) {
	count(__func__);
	set->handle = malloc(1);
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set) {
	count(__func__);
	free(set.handle);
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t d, unsigned long long types, nvmlEventSet_t set) {
	count(__func__);
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *data, unsigned timeout) {
	count(__func__);
	const char *path = getenv("FAKE_NVML_EVENT");
	for (unsigned waited = 0; waited < timeout; waited += 10) {
		unsigned code;
		FILE *f = path ? fopen(path, "r") : NULL;
		if (f) {
			int found = fscanf(f, "%u", &code);
			fclose(f);
			unlink(path);
			if (found == 1) {
				*data = (nvmlEventData_t){device(1), nvmlEventTypeXidCriticalError, code, 0xFFFFFFFF, 0xFFFFFFFF};
				return NVML_SUCCESS;
			}
		}
		usleep(10000);
	}
	return NVML_ERROR_TIMEOUT;
}

nvmlReturn_t nvmlGpmQueryDeviceSupport(nvmlDevice_t d, nvmlGpmSupport_t *s) {
	count(__func__);
	s->isSupportedDevice = s->version == NVML_GPM_SUPPORT_VERSION;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlGpmSampleAlloc(nvmlGpmSample_t *s) {
	count(__func__);
	s->handle = malloc(1);
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlGpmSampleFree(nvmlGpmSample_t s) {
	count(__func__);
	free(s.handle);
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlGpmSampleGet(nvmlDevice_t d, nvmlGpmSample_t s) {
	count(__func__);
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlGpmMetricsGet(nvmlGpmMetricsGet_t *q) {
	count(__func__);
	for (unsigned i = 0; i < q->numMetrics; i++) {
		q->metrics[i].nvmlReturn = NVML_SUCCESS;
		q->metrics[i].value = q->metrics[i].metricId;
	}
	return NVML_SUCCESS;
}
#endif
