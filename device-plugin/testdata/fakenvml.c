// A stand-in for libnvidia-ml.so.1 with one GPU and the functions without
// which nothing can be listed or found. The file named by FAKE_NVML_RESULT, if there,
// holds what nvmlInit_v2 and nvmlDeviceGetCount_v2 return.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int result(void) {
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

int nvmlInit_v2(void) { return result(); }
int nvmlShutdown(void) { return 0; }

int nvmlDeviceGetCount_v2(unsigned *n) {
	*n = 1;
	return result();
}

int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **device) {
	*device = (void *)0x1;
	return 0;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
	*device = (void *)0x1;
	return strcmp(uuid, "GPU-fake") ? 6 : 0;
}

int nvmlDeviceGetUUID(void *device, char *uuid, unsigned length) {
	snprintf(uuid, length, "GPU-fake");
	return 0;
}

int nvmlDeviceGetName(void *device, char *name, unsigned length) {
	snprintf(name, length, "Tesla K80");
	return 0;
}
