// The CUDA runtime as the host side of PyTorch sees it: device memory is memory of the host, kernels do nothing, and
// graphs and events are empty. It counts kernels and graphs, and what may not happen while a stream captures.
//
// With STAND_IN_STEP_US and STAND_IN_DEVICE_US set, a started graph takes time: no stream finishes one in less than the
// first, and the device as a whole not in less than the second. Whoever waits for the device then really waits.
#define _GNU_SOURCE
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#undef cudaGetDeviceProperties
#define OK cudaSuccess

typedef struct { double free_at; int priority; } Stream;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static volatile cudaStream_t capturing = 0;
static long kernels, graphs, captures, complaints;
static double device_free_at, step_s, device_s;
static Stream default_stream;

long stand_in_kernels(void) { return kernels; }
long stand_in_graphs(void) { return graphs; }
long stand_in_captures(void) { return captures; }
long stand_in_complaints(void) { return complaints; }

__attribute__((constructor)) static void read_rates(void) {
  const char *step = getenv("STAND_IN_STEP_US"), *device = getenv("STAND_IN_DEVICE_US");
  step_s = step ? atof(step) * 1e-6 : 0;
  device_s = device ? atof(device) * 1e-6 : 0;
}

static void complain(const char *what) {
  complaints++;
  fprintf(stderr, "stand-in: %s while a stream captures\n", what);
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + 1e-9 * t.tv_nsec;
}

static void wait_until(double when) {
  double left = when - now();
  if (left > 0) {
    struct timespec t = {(time_t)left, (long)((left - (time_t)left) * 1e9)};
    nanosleep(&t, 0);
  }
}

static Stream *of(cudaStream_t s) { return (uintptr_t)s > 2 ? (Stream *)s : &default_stream; }

// --- devices ---
cudaError_t cudaGetDeviceCount(int *n) { *n = 1; return OK; }
cudaError_t cudaGetDevice(int *d) { *d = 0; return OK; }
cudaError_t cudaSetDevice(int d) { return OK; }
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int d) {
  memset(p, 0, sizeof *p);
  strcpy(p->name, "stand-in for a GPU");
  p->major = 9;
  p->multiProcessorCount = 132;
  p->totalGlobalMem = (size_t)84929019904ull;
  p->warpSize = 32;
  p->maxThreadsPerMultiProcessor = 2048;
  p->maxThreadsPerBlock = 1024;
  p->sharedMemPerBlock = 49152;
  p->sharedMemPerBlockOptin = 232448;
  p->sharedMemPerMultiprocessor = 233472;
  p->regsPerMultiprocessor = p->regsPerBlock = 65536;
  p->l2CacheSize = 52428800;
  p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
  p->maxThreadsDim[2] = 64;
  p->maxGridSize[0] = 2147483647;
  p->maxGridSize[1] = p->maxGridSize[2] = 65535;
  p->textureAlignment = 512;
  p->maxBlocksPerMultiProcessor = 32;
  return OK;
}
cudaError_t cudaDeviceGetAttribute(int *v, enum cudaDeviceAttr a, int d) {
  switch ((int)a) {
    case cudaDevAttrComputeCapabilityMajor: *v = 9; break;
    case cudaDevAttrMultiProcessorCount: *v = 132; break;
    case cudaDevAttrWarpSize: *v = 32; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *v = 2048; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *v = 232448; break;
    default: *v = 0;
  }
  return OK;
}
cudaError_t cudaDeviceGetPCIBusId(char *s, int n, int d) { strncpy(s, "0000:00:01.0", n); return OK; }
cudaError_t cudaDeviceCanAccessPeer(int *c, int a, int b) { *c = 0; return OK; }
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *most) { *least = 0; *most = -5; return OK; }
cudaError_t cudaDeviceSynchronize(void) {
  if (capturing) complain("the device is waited for");
  wait_until(device_free_at);
  return OK;
}
cudaError_t cudaDriverGetVersion(int *v) { *v = CUDART_VERSION; return OK; }
cudaError_t cudaRuntimeGetVersion(int *v) { *v = CUDART_VERSION; return OK; }
cudaError_t cudaGetLastError(void) { return OK; }
cudaError_t cudaPeekAtLastError(void) { return OK; }

// --- events: they always have happened ---
cudaError_t cudaEventCreate(cudaEvent_t *e) { *e = malloc(16); return OK; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned f) { *e = malloc(16); return OK; }
cudaError_t cudaEventDestroy(cudaEvent_t e) { free(e); return OK; }
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) { return OK; }
cudaError_t cudaEventRecordWithFlags(cudaEvent_t e, cudaStream_t s, unsigned f) { return OK; }
cudaError_t cudaEventQuery(cudaEvent_t e) { return OK; }
cudaError_t cudaEventSynchronize(cudaEvent_t e) { wait_until(device_free_at); return OK; }
cudaError_t cudaEventElapsedTime(float *t, cudaEvent_t a, cudaEvent_t b) { *t = 1; return OK; }

// --- memory ---
// What kernels would have computed is read as zeros: what is in the memory instead may be anything, also NaN, and would
// differ from run to run.
static void move(void *to, const void *from, size_t n, enum cudaMemcpyKind kind) {
  if (kind == cudaMemcpyDeviceToHost) memset(to, 0, n);
  else memcpy(to, from, n);
}
static void *take(size_t n) {
  // Mapped when it is touched: the kernels, which would touch most of it, don't.
  void *p = mmap(0, (n + 4095) & ~4095ul, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return p == MAP_FAILED ? 0 : p;
}
cudaError_t cudaMalloc(void **p, size_t n) { return (*p = take(n)) ? OK : cudaErrorMemoryAllocation; }
cudaError_t cudaFree(void *p) { return OK; }
cudaError_t cudaMemGetInfo(size_t *free, size_t *total) { *free = 80000000000ul; *total = 84929019904ul; return OK; }
cudaError_t cudaMemcpy(void *to, const void *from, size_t n, enum cudaMemcpyKind kind) {
  if (capturing) complain("memory is copied and waited for");
  wait_until(device_free_at);
  move(to, from, n, kind);
  return OK;
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, enum cudaMemcpyKind kind, cudaStream_t s) {
  if (capturing && s != capturing) complain("another stream is given work");
  if (capturing && s == capturing && kind != cudaMemcpyDeviceToDevice) complain("host and device exchange memory");
  if (kind == cudaMemcpyDeviceToHost) wait_until(of(s)->free_at);
  move(to, from, n, kind);
  return OK;
}
cudaError_t cudaMemset(void *to, int v, size_t n) { memset(to, v, n); return OK; }
cudaError_t cudaMemsetAsync(void *to, int v, size_t n, cudaStream_t s) { memset(to, v, n); return OK; }
cudaError_t cudaHostAlloc(void **p, size_t n, unsigned f) { *p = take(n); return OK; }
cudaError_t cudaFreeHost(void *p) { return OK; }
cudaError_t cudaHostRegister(void *p, size_t n, unsigned f) { return OK; }
cudaError_t cudaHostUnregister(void *p) { return OK; }
cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *a, const void *p) {
  memset(a, 0, sizeof *a);
  a->type = cudaMemoryTypeDevice;
  a->devicePointer = (void *)p;
  return OK;
}

// --- streams and graphs ---
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned f, int priority) {
  *s = calloc(1, sizeof(Stream));
  of(*s)->priority = priority;
  return OK;
}
cudaError_t cudaStreamGetPriority(cudaStream_t s, int *priority) { *priority = of(s)->priority; return OK; }
cudaError_t cudaStreamDestroy(cudaStream_t s) { free(s); return OK; }
cudaError_t cudaStreamSynchronize(cudaStream_t s) {
  if (capturing && capturing == s) {
    complain("this stream is waited for");
    return cudaErrorStreamCaptureUnsupported;
  }
  wait_until(of(s)->free_at);
  return OK;
}
cudaError_t cudaStreamQuery(cudaStream_t s) { return of(s)->free_at > now() ? cudaErrorNotReady : OK; }
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned f) {
  // Whatever the event was: what is queued now is later than all there is.
  if (of(s)->free_at < device_free_at) of(s)->free_at = device_free_at;
  return OK;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t s, enum cudaStreamCaptureStatus *c) {
  *c = capturing && capturing == s ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return OK;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode m) {
  if (capturing) complain("another capture begins");
  captures++;
  capturing = s;
  return OK;
}
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g) {
  capturing = 0;
  *g = malloc(64);
  return OK;
}
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t s, enum cudaStreamCaptureStatus *c, unsigned long long *id,
                                     cudaGraph_t *g, const cudaGraphNode_t **d, const cudaGraphEdgeData **e,
                                     size_t *n) {
  cudaStreamIsCapturing(s, c);
  if (id) *id = 7;
  if (n) *n = 0;
  if (g) *g = 0;
  if (d) *d = 0;
  return OK;
}
cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *m) { return OK; }
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *x, cudaGraph_t g, unsigned long long f) {
  *x = malloc(64);
  return OK;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t g, cudaStream_t s) {
  pthread_mutex_lock(&lock);
  graphs++;
  Stream *stream = of(s);
  double t = now(), started = stream->free_at > t ? stream->free_at : t;
  device_free_at = (device_free_at > t ? device_free_at : t) + device_s;
  stream->free_at = started + step_s > device_free_at ? started + step_s : device_free_at;
  double ahead = stream->free_at;
  pthread_mutex_unlock(&lock);
  // A device takes about so much work in advance.
  if (step_s) wait_until(ahead - 0.2);
  return OK;
}
cudaError_t cudaGraphDestroy(cudaGraph_t g) { free(g); return OK; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t g) { free(g); return OK; }
cudaError_t cudaGraphGetNodes(cudaGraph_t g, cudaGraphNode_t *n, size_t *c) { *c = 1; return OK; }

// --- kernels ---
cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *a, const void *f) {
  memset(a, 0, sizeof *a);
  a->maxThreadsPerBlock = 1024;
  return OK;
}
cudaError_t cudaFuncSetAttribute(const void *f, enum cudaFuncAttribute a, int v) { return OK; }
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *n, const void *f, int b, size_t s, unsigned g) {
  *n = 4;
  return OK;
}
static cudaError_t launch(cudaStream_t s) {
  if (capturing && s != capturing) complain("another stream is given work");
  kernels++;
  return OK;
}
cudaError_t cudaLaunchKernel(const void *f, dim3 g, dim3 b, void **a, size_t n, cudaStream_t s) { return launch(s); }
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *c, const void *f, void **a) { return launch(c->stream); }

// --- the driver's functions that PyTorch looks up by name ---
static int nothing(void) { return 0; }
static CUresult context_state(CUdevice d, unsigned *f, int *active) { *f = 0; *active = 1; return 0; }
cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **p, unsigned v, unsigned long long f,
                                             enum cudaDriverEntryPointQueryResult *r) {
  *p = strcmp(name, "cuDevicePrimaryCtxGetState") ? (void *)nothing : (void *)context_state;
  if (r) *r = cudaDriverEntryPointSuccess;
  return OK;
}
