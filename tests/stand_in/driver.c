// The CUDA driver as Triton sees it: it loads what Triton compiled, and launches nothing. Its launches are counted.
#include <stdlib.h>
#include <string.h>
typedef int Result;
typedef void *P;

static long launches;
long stand_in_launches(void) { return launches; }

Result cuInit(unsigned flags) { return 0; }
Result cuDriverGetVersion(int *v) { *v = 13000; return 0; }
Result cuDevicePrimaryCtxGetState(int d, unsigned *f, int *active) { *f = 0; *active = 1; return 0; }
Result cuDevicePrimaryCtxRetain(P *context, int d) { *context = (P)8; return 0; }
Result cuCtxGetCurrent(P *context) { *context = (P)8; return 0; }
Result cuCtxSetCurrent(P context) { return 0; }
Result cuCtxGetLimit(size_t *v, int limit) { *v = 0; return 0; }
Result cuCtxSetLimit(int limit, size_t v) { return 0; }
Result cuDeviceGet(int *d, int ordinal) { *d = ordinal; return 0; }
Result cuDeviceGetAttribute(int *v, int a, int d) {
  switch (a) {  // the numbers of CUdevice_attribute, with an H100's values
    case 1: *v = 1024; break;     // threads of a block
    case 8: *v = 49152; break;    // shared memory of a block
    case 10: *v = 32; break;      // threads of a warp
    case 12: *v = 65536; break;   // registers of a block
    case 16: *v = 132; break;     // multiprocessors
    case 39: *v = 2048; break;    // threads of a multiprocessor
    case 75: *v = 9; break;       // compute capability
    case 76: *v = 0; break;
    case 81: *v = 233472; break;  // shared memory of a multiprocessor
    case 82: *v = 65536; break;   // registers of a multiprocessor
    case 97: *v = 232448; break;  // shared memory of a block that asks for it
    default: *v = 1000000;
  }
  return 0;
}
Result cuFuncGetAttribute(int *v, int a, P f) { *v = a == 0 ? 1024 : a == 4 ? 32 : 0; return 0; }
Result cuFuncSetAttribute(P f, int a, int v) { return 0; }
Result cuFuncSetCacheConfig(P f, int c) { return 0; }
Result cuGetErrorString(Result e, const char **s) { *s = "stand-in"; return 0; }
Result cuGetErrorName(Result e, const char **s) { *s = "stand-in"; return 0; }
Result cuModuleLoad(P *module, const char *file) { *module = (P)16; return 0; }
Result cuModuleLoadData(P *module, const void *data) { *module = (P)16; return 0; }
Result cuModuleLoadDataEx(P *module, const void *data, unsigned n, P o, P v) { *module = (P)16; return 0; }
Result cuModuleGetFunction(P *f, P module, const char *name) { *f = (P)strdup(name); return 0; }
Result cuModuleUnload(P module) { return 0; }
Result cuLaunchKernel(P f, unsigned a, unsigned b, unsigned c, unsigned d, unsigned e, unsigned g, unsigned s, P stream,
                      P *p, P *x) { launches++; return 0; }
Result cuLaunchKernelEx(P config, P f, P *p, P *x) { launches++; return 0; }
Result cuLaunchCooperativeKernel(P f, unsigned a, unsigned b, unsigned c, unsigned d, unsigned e, unsigned g,
                                 unsigned s, P stream, P *p) { launches++; return 0; }
Result cuPointerGetAttribute(P d, int a, size_t p) { *(size_t *)d = p; return 0; }
Result cuOccupancyMaxActiveBlocksPerMultiprocessor(int *b, P f, int n, size_t s) { *b = 4; return 0; }
Result cuOccupancyMaxActiveClusters(int *b, P f, P c) { *b = 4; return 0; }
Result cuTensorMapEncodeTiled(void) { return 0; }
