// Functions of cuBLAS, cuBLASLt and cuDNN whose answers torch reads, and the stream of a handle, on
// which products count as kernels. build.py generates the others that torch imports: they succeed,
// and those of cuBLAS's products count themselves.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#define LIBRARY(type, name) extern "C" __attribute__((visibility("default"))) type name

extern "C" int dry_cuda_launched(void *stream);

namespace {
int handle(void **out) { return *out = calloc(1, 64), 0; }
}  // namespace

// The first word of a handle of cuBLAS or cuDNN is its stream.
LIBRARY(int, cublasSetStream_v2)(void **handle, void *stream) { return *handle = stream, 0; }
LIBRARY(int, cublasGetStream_v2)(void **handle, void **stream) { return *stream = *handle, 0; }
LIBRARY(int, cublasLtMatmul)(void *, void *, const void *, const void *, void *, const void *, void *,
                             const void *, const void *, void *, void *, void *, const void *,
                             void *, size_t, void *stream) {
  return dry_cuda_launched(stream);
}

LIBRARY(int, cublasCreate_v2)(void **out) { return handle(out); }
LIBRARY(int, cublasGetMathMode)(void *, int *mode) { return *mode = 0, 0; }
LIBRARY(int, cublasGetPointerMode_v2)(void *, int *mode) { return *mode = 0, 0; }
LIBRARY(size_t, cublasLtGetVersion)() { return 130100; }
LIBRARY(int, cublasLtMatmulDescCreate)(void **out, int, int) { return handle(out); }
LIBRARY(int, cublasLtMatmulPreferenceCreate)(void **out) { return handle(out); }
LIBRARY(int, cublasLtMatrixLayoutCreate)(void **out, int, unsigned long, unsigned long, long) {
  return handle(out);
}
LIBRARY(int, cublasLtMatmulAlgoGetHeuristic)(void *, void *, void *, void *, void *, void *, void *,
                                             int, void *results, int *found) {
  return memset(results, 0, 64), *found = 1, 0;
}
LIBRARY(size_t, cudnnGetVersion)() { return 92400; }
LIBRARY(size_t, cudnnGetCudartVersion)() { return 13000; }
LIBRARY(int, cudnnCreate)(void **out) { return handle(out); }
LIBRARY(int, cudnnSetStream)(void **handle, void *stream) { return *handle = stream, 0; }
LIBRARY(int, cudnnGetStream)(void **handle, void **stream) { return *stream = *handle, 0; }

// Graphs of cuDNN's operations, such as convolutions: its heuristics know one engine, which has no
// knobs, no notes and no workspace, and whose plan is one kernel.
LIBRARY(int, cudnnBackendCreateDescriptor)(int, void **out) { return handle(out); }
LIBRARY(int, cudnnBackendGetAttribute)(void *, int name, int, int64_t, int64_t *found, void *) {
  bool heuristics = name == 202;  // CUDNN_ATTR_ENGINEHEUR_RESULTS
  if (found) *found = heuristics;
  return 0;
}
LIBRARY(int, cudnnBackendExecute)(void **handle, void *, void *) {
  return dry_cuda_launched(*handle);
}
LIBRARY(const char *, cudnnGetErrorString)(int) { return "an error of the dry run"; }
