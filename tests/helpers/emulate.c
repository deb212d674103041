/* Calls a compiled kernel in an emulator: its arguments come from a file, and go back there.
 *
 *     emulate NAME FILE
 *
 * FILE holds int64 numbers: how many tensors; of each its type code and bits (as in DLPack), rank, shape, bytes,
 * then its data. The functions below stand in for those of TVM's runtime that kernels call. Names come from
 * kernels.h: one KERNEL(name) a line. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <tvm/ffi/c_api.h>

typedef struct {
  void* sync_handle;
  int32_t num_task;
} Group;

void TVMFFIErrorSetRaisedFromCStrParts(const char* kind, const char** parts, int32_t count) {
  fprintf(stderr, "%s: ", kind);
  for (int i = 0; i < count; ++i) fputs(parts[i], stderr);
}

void TVMFFIErrorSetRaisedFromCStr(const char* kind, const char* message) {
  TVMFFIErrorSetRaisedFromCStrParts(kind, &message, 1);
}

void* TVMBackendAllocWorkspace(int type, int id, uint64_t bytes, int code, int bits) {
  return aligned_alloc(64, (bytes + 63) / 64 * 64);
}

int TVMBackendFreeWorkspace(int type, int id, void* memory) {
  free(memory);
  return 0;
}

int TVMBackendParallelLaunch(int (*body)(int, Group*, void*), void* data, int count) {
  Group group = {NULL, 2}; /* two threads, one after the other */
  for (int i = 0; i < group.num_task; ++i) {
    int failed = body(i, &group, data);
    if (failed) return failed;
  }
  return 0;
}

/* Kernels call through these where they hold them. */
void* __TVMBackendAllocWorkspace __attribute__((weak));
void* __TVMBackendFreeWorkspace __attribute__((weak));
void* __TVMBackendParallelLaunch __attribute__((weak));
void* __TVMFFIErrorSetRaisedFromCStrParts __attribute__((weak));

static void connect(void) {
  __TVMBackendAllocWorkspace = TVMBackendAllocWorkspace;
  __TVMBackendFreeWorkspace = TVMBackendFreeWorkspace;
  __TVMBackendParallelLaunch = TVMBackendParallelLaunch;
  __TVMFFIErrorSetRaisedFromCStrParts = TVMFFIErrorSetRaisedFromCStrParts;
}

#define KERNEL(name) int __tvm_ffi_##name(void*, const TVMFFIAny*, int32_t, TVMFFIAny*);
#include "kernels.h"
#undef KERNEL

static TVMFFISafeCallType find(const char* name) {
#define KERNEL(known) \
  if (!strcmp(name, #known)) return __tvm_ffi_##known;
#include "kernels.h"
  return NULL;
}

static int64_t number(FILE* file) {
  int64_t value;
  if (fread(&value, sizeof value, 1, file) != 1) exit(3);
  return value;
}

int main(int argc, char** argv) {
  connect();
  TVMFFISafeCallType kernel = find(argv[1]);
  FILE* file = fopen(argv[2], "r+b");
  if (!kernel || !file) return 2;
  int count = (int)number(file);
  DLTensor* tensors = calloc(count, sizeof *tensors);
  TVMFFIAny *args = calloc(count, sizeof *args), result = {0};
  int64_t* places = calloc(2 * count, sizeof *places); /* in the file, and bytes */
  for (int i = 0; i < count; ++i) {
    DLTensor* each = &tensors[i];
    each->device.device_type = kDLCPU;
    each->dtype.code = (uint8_t)number(file);
    each->dtype.bits = (uint8_t)number(file);
    each->dtype.lanes = 1;
    each->ndim = (int)number(file);
    each->shape = calloc(each->ndim + 1, sizeof(int64_t));
    each->strides = calloc(each->ndim + 1, sizeof(int64_t));
    for (int d = 0; d < each->ndim; ++d) each->shape[d] = number(file);
    int64_t stride = 1;
    for (int d = each->ndim - 1; d >= 0; stride *= each->shape[d--]) each->strides[d] = stride;
    int64_t bytes = places[2 * i + 1] = number(file);
    each->data = aligned_alloc(64, (bytes + 127) / 64 * 64);
    places[2 * i] = ftell(file);
    if (bytes && fread(each->data, bytes, 1, file) != 1) return 3;
    args[i].type_index = kTVMFFIDLTensorPtr;
    args[i].v_ptr = each;
  }
  if (kernel(NULL, args, count, &result)) return 1;
  for (int i = 0; i < count; ++i) {
    fseek(file, places[2 * i], SEEK_SET);
    fwrite(tensors[i].data, places[2 * i + 1], 1, file);
  }
  return fclose(file) ? 4 : 0;
}
