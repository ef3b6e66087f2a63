// The part of CUDA's driver (libcuda.so.1) that Triton asks for, over the runtime of runtime.cpp.
//
// Modules load as empty handles; a launch is counted where the runtime counts its own kernels.

#include <cstdio>
#include <cstdlib>
#include <cstring>

#define DRIVER(name) extern "C" __attribute__((visibility("default"))) int name

// In the preloaded runtime. Weak, since Triton links a helper against this library alone.
extern "C" __attribute__((weak)) int dry_cuda_launched(void *stream);

namespace {
using Handle = void *;
Handle const context = (Handle)1;
int modules_to_fail = 0;  // loads of a module that run out of memory

int launched(Handle stream) { return dry_cuda_launched ? dry_cuda_launched(stream) : 0; }

int loaded(Handle *module) {
  if (modules_to_fail > 0) return modules_to_fail--, 2;  // CUDA_ERROR_OUT_OF_MEMORY
  return *module = malloc(8), 0;
}

int nothing(...) { return 0; }

struct LaunchConfig {  // CUlaunchConfig
  unsigned grid[3], block[3], shared;
  Handle stream;
  void *attributes;
  unsigned count;
};
}  // namespace

DRIVER(dry_cuda_fail_modules)(int count) { return modules_to_fail = count, 0; }

DRIVER(cuInit)(unsigned) { return 0; }
DRIVER(cuDriverGetVersion)(int *version) { return *version = 13000, 0; }
DRIVER(cuDeviceGetCount)(int *count) { return *count = 1, 0; }
DRIVER(cuDeviceGet)(int *device, int) { return *device = 0, 0; }
DRIVER(cuDeviceGetName)(char *text, int size, int) { return snprintf(text, size, "Dry H100"), 0; }
DRIVER(cuDeviceTotalMem_v2)(size_t *bytes, int) { return *bytes = (size_t)80 << 30, 0; }
DRIVER(cuDeviceGetAttribute)(int *value, int attribute, int) {
  switch (attribute) {
    case 1: return *value = 1024, 0;      // threads of a block
    case 8: return *value = 49152, 0;     // shared bytes of a block
    case 10: return *value = 32, 0;       // threads of a warp
    case 12: case 82: return *value = 65536, 0;  // registers of a block, of a multiprocessor
    case 13: return *value = 1980000, 0;  // clock in kHz
    case 16: return *value = 132, 0;      // multiprocessors
    case 36: return *value = 2619000, 0;  // memory clock in kHz
    case 37: return *value = 5120, 0;     // bits of the memory bus
    case 39: return *value = 2048, 0;     // threads of a multiprocessor
    case 75: return *value = 9, 0;        // compute capability 9.0
    case 76: return *value = 0, 0;
    case 81: return *value = 233472, 0;   // shared bytes of a multiprocessor
    case 97: return *value = 232448, 0;   // shared bytes of a block that opts in
    default: return *value = 1, 0;
  }
}
DRIVER(cuDevicePrimaryCtxGetState)(int, unsigned *flags, int *active) {
  if (flags) *flags = 0;
  return *active = 1, 0;
}
DRIVER(cuDevicePrimaryCtxRetain)(Handle *out, int) { return *out = context, 0; }
DRIVER(cuDevicePrimaryCtxRelease_v2)(int) { return 0; }
DRIVER(cuCtxGetCurrent)(Handle *out) { return *out = context, 0; }
DRIVER(cuCtxSetCurrent)(Handle) { return 0; }
DRIVER(cuCtxGetDevice)(int *device) { return *device = 0, 0; }
DRIVER(cuCtxPushCurrent_v2)(Handle) { return 0; }
DRIVER(cuCtxPopCurrent_v2)(Handle *out) { return *out = context, 0; }
DRIVER(cuCtxSynchronize)() { return 0; }
DRIVER(cuCtxSetLimit)(int, size_t) { return 0; }
DRIVER(cuCtxGetLimit)(size_t *value, int) { return *value = 1 << 20, 0; }
DRIVER(cuStreamGetCtx)(Handle, Handle *out) { return *out = context, 0; }
DRIVER(cuGetErrorString)(int error, const char **text) {
  return *text = error == 2 ? "out of memory" : "an error that the dry run has no text for", 0;
}
DRIVER(cuGetErrorName)(int, const char **text) { return *text = "CUDA_ERROR_OF_DRY_RUN", 0; }

DRIVER(cuModuleLoadData)(Handle *module, const void *) { return loaded(module); }
DRIVER(cuModuleLoadDataEx)(Handle *module, const void *, unsigned, void *, void **) {
  return loaded(module);
}
DRIVER(cuModuleLoad)(Handle *module, const char *) { return loaded(module); }
DRIVER(cuModuleUnload)(Handle module) { return free(module), 0; }
DRIVER(cuModuleGetFunction)(Handle *function, Handle, const char *) {
  return *function = malloc(8), 0;
}
DRIVER(cuModuleGetGlobal_v2)(Handle *symbol, size_t *size, Handle, const char *) {
  if (symbol) *symbol = malloc(64);
  if (size) *size = 64;
  return 0;
}
DRIVER(cuFuncGetModule)(Handle *module, Handle) { return *module = malloc(8), 0; }
DRIVER(cuFuncGetAttribute)(int *value, int attribute, Handle) {
  return *value = attribute == 0 ? 1024 : attribute == 4 ? 32 : 0, 0;  // threads; registers
}
DRIVER(cuFuncSetAttribute)(Handle, int, int) { return 0; }
DRIVER(cuFuncSetCacheConfig)(Handle, int) { return 0; }
DRIVER(cuOccupancyMaxActiveBlocksPerMultiprocessor)(int *count, Handle, int, size_t) {
  return *count = 2, 0;
}
DRIVER(cuOccupancyMaxActiveClusters)(int *count, Handle, const void *) { return *count = 2, 0; }

DRIVER(cuLaunchKernel)(Handle, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                       Handle stream, void **, void **) {
  return launched(stream);
}
DRIVER(cuLaunchKernelEx)(const LaunchConfig *config, Handle, void **, void **) {
  return launched(config->stream);
}
DRIVER(cuLaunchCooperativeKernel)(Handle, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                                  unsigned, Handle stream, void **) {
  return launched(stream);
}

DRIVER(cuPointerGetAttribute)(void *out, int attribute, unsigned long long pointer) {
  bool address = attribute == 2 || attribute == 3;  // of the memory's device, of its host
  if (address) *(unsigned long long *)out = pointer;
  return 0;
}
DRIVER(cuPointerGetAttributes)(...) { return 0; }
DRIVER(cuMemAlloc_v2)(Handle *out, size_t size) { return *out = malloc(size), 0; }
DRIVER(cuMemFree_v2)(Handle pointer) { return free(pointer), 0; }
DRIVER(cuMemcpyHtoD_v2)(...) { return 0; }
DRIVER(cuTensorMapEncodeTiled)(...) { return 0; }
DRIVER(cuTensorMapEncodeIm2col)(...) { return 0; }
DRIVER(cuLinkCreate_v2)(...) { return 0; }
DRIVER(cuLinkAddData_v2)(...) { return 0; }
DRIVER(cuLinkComplete)(...) { return 0; }
DRIVER(cuLinkDestroy)(...) { return 0; }

DRIVER(cuGetProcAddress_v2)(const char *name, void **out, int, unsigned long, int *result) {
  struct {
    const char *name;
    void *function;
  } known[] = {
      {"cuInit", (void *)cuInit},
      {"cuDeviceGetCount", (void *)cuDeviceGetCount},
      {"cuDevicePrimaryCtxGetState", (void *)cuDevicePrimaryCtxGetState},
      {"cuCtxGetCurrent", (void *)cuCtxGetCurrent},
      {"cuLaunchKernel", (void *)cuLaunchKernel},
  };
  *out = (void *)nothing;
  for (auto &each : known)
    if (strcmp(name, each.name) == 0) *out = each.function;
  if (result) *result = 0;
  return 0;
}
DRIVER(cuGetProcAddress)(const char *name, void **out, int version, unsigned long flags) {
  return cuGetProcAddress_v2(name, out, version, flags, nullptr);
}
