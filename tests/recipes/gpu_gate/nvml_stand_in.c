/* A stand-in for libnvidia-ml.so.1, for tests: the functions that nvml.py calls, with the layouts of nvml.h (driver 550).
 * Whoever loads it steers it by the variables at the end; `calls` keeps what was called. */
#include <stdint.h>
#include <string.h>

typedef int nvmlReturn_t;
typedef struct device { int number; } *nvmlDevice_t;

typedef struct { unsigned int environment, ccFeature, devToolsMode; } nvmlConfComputeSystemState_t;
typedef struct {
	unsigned int certChainSize, attestationCertChainSize;
	unsigned char certChain[0x1000], attestationCertChain[0x1400];
} nvmlConfComputeGpuCertificate_t;
typedef struct {
	unsigned int isCecAttestationReportPresent, attestationReportSize, cecAttestationReportSize;
	unsigned char nonce[0x20], attestationReport[0x2000], cecAttestationReport[0x1000];
} nvmlConfComputeGpuAttestationReport_t;

unsigned int sizes[3] = {
	sizeof(nvmlConfComputeSystemState_t),
	sizeof(nvmlConfComputeGpuCertificate_t),
	sizeof(nvmlConfComputeGpuAttestationReport_t),
};
unsigned int environment = 2, feature = 1, tools = 0, accepting = 0, count = 2, architecture = 9;
unsigned int report_size = 0x40, chain_size = 6;
int code = 0;
char failing[64];
char calls[4096];
static struct device devices[2] = {{1}, {2}};

static nvmlReturn_t called(const char *name)
{
	strncat(calls, name, sizeof(calls) - strlen(calls) - 2);
	strcat(calls, " ");
	return strcmp(name, failing) ? 0 : code;
}

#define CALLED() do { nvmlReturn_t said = called(__func__); if (said) return said; } while (0)

const char *nvmlErrorString(nvmlReturn_t error) { return error == 15 ? "GPU is lost" : "Unknown Error"; }
nvmlReturn_t nvmlInit_v2(void) { CALLED(); return 0; }
nvmlReturn_t nvmlShutdown(void) { CALLED(); return 0; }

nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length)
{
	CALLED();
	if (length < 80)
		return 7;
	strcpy(version, "550.163.01");
	return 0;
}

nvmlReturn_t nvmlSystemGetConfComputeState(nvmlConfComputeSystemState_t *state)
{
	CALLED();
	state->environment = environment;
	state->ccFeature = feature;
	state->devToolsMode = tools;
	return 0;
}

nvmlReturn_t nvmlSystemGetConfComputeGpusReadyState(unsigned int *ready) { CALLED(); *ready = accepting; return 0; }
nvmlReturn_t nvmlSystemSetConfComputeGpusReadyState(unsigned int ready) { CALLED(); accepting = ready; return 0; }
nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *number) { CALLED(); *number = count; return 0; }

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device)
{
	CALLED();
	if (index >= 2)
		return 2;
	*device = &devices[index];
	return 0;
}

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int length)
{
	CALLED();
	if (length < 96)
		return 7;
	strcpy(uuid, device->number == 1 ? "GPU-one" : "GPU-two");
	return 0;
}

nvmlReturn_t nvmlDeviceGetArchitecture(nvmlDevice_t device, unsigned int *number)
{
	CALLED();
	*number = architecture + (device->number == 2);
	return 0;
}

nvmlReturn_t nvmlDeviceGetConfComputeGpuCertificate(nvmlDevice_t device, nvmlConfComputeGpuCertificate_t *chain)
{
	CALLED();
	chain->certChainSize = 3;
	memcpy(chain->certChain, "DER", 3);
	chain->attestationCertChainSize = chain_size;
	memcpy(chain->attestationCertChain, device->number == 1 ? "PEM 1\0" : "PEM 2\0", 6);
	return 0;
}

/* Echoes the nonce and the number of the GPU; the last byte that it says it wrote is marked. */
nvmlReturn_t nvmlDeviceGetConfComputeGpuAttestationReport(nvmlDevice_t device, nvmlConfComputeGpuAttestationReport_t *report)
{
	CALLED();
	report->attestationReportSize = report_size;
	memcpy(report->attestationReport, report->nonce, 0x20);
	report->attestationReport[0x20] = device->number;
	if (report_size && report_size <= 0x2000)
		report->attestationReport[report_size - 1] = 0xff;
	memset(report->cecAttestationReport, 0xee, sizeof(report->cecAttestationReport));
	return 0;
}
