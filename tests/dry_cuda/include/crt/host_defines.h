// What CUDA's runtime headers need of the compiler's: the wheels bring the former without this file.
#define __host__
#define __device__
#define __device_builtin__
#define __device_builtin_surface_type__
#define __device_builtin_texture_type__
#define __cudart_builtin__
#define __constant__
#define __shared__
#define __global__
#define __managed__
#define __noinline__
#define __forceinline__ inline
#define __inline_hint__
#define __specialization_static static
#define __grid_constant__
#define __cluster_dims__(...)
#define __builtin_align__(n) __attribute__((aligned(n)))
#define __align__(n) __attribute__((aligned(n)))
#define __annotate__(a)
#define __location__(a)
#define __nv_itex_trap(a)
#define __restrict__ __restrict
#define CUDARTAPI
#define CUDARTAPI_CDECL
