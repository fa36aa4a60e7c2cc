// CUDA's execution model on one CPU thread, for the kernels that TVM generates.
//
// Every thread of a block is a fibre; a barrier or a shuffle hands control to the next one, and
// blocks run one after the other. The order in which fibres run is chosen from outside (forward,
// backward, shuffled), so that a missing barrier shows as a wrong or changing result. A barrier
// that only some threads reach ends the process.
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <vector>

using std::max;
using std::min;

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(threads)
#define __shared__ static  // one block runs at a time

#define VECTORS(T, NAME)                                                            \
  struct NAME##1 { T x; };                                                          \
  struct alignas(2 * sizeof(T)) NAME##2 { T x, y; };                                \
  struct NAME##3 { T x, y, z; };                                                    \
  struct alignas(4 * sizeof(T) > 16 ? 16 : 4 * sizeof(T)) NAME##4 { T x, y, z, w; }; \
  inline NAME##1 make_##NAME##1(T x) { return {x}; }                                \
  inline NAME##2 make_##NAME##2(T x, T y) { return {x, y}; }                        \
  inline NAME##4 make_##NAME##4(T x, T y, T z, T w) { return {x, y, z, w}; }
VECTORS(float, float)
VECTORS(double, double)
VECTORS(int, int)
VECTORS(unsigned, uint)
VECTORS(short, short)
VECTORS(unsigned short, ushort)
VECTORS(signed char, char)
VECTORS(unsigned char, uchar)
VECTORS(long long, longlong)

struct dim3 { int x, y, z; };

namespace emulated {
constexpr size_t STACK = 64 * 1024;
constexpr int WARP = 32;
enum Wait { READY, BLOCK, LANES, DONE };
enum Order { FORWARD, BACKWARD, SHUFFLED };

struct Fibre {
  ucontext_t context;
  std::vector<char> stack;
  Wait wait = DONE;
  dim3 thread;
  alignas(16) unsigned char slot[16];  // what the lane shows to the others in a shuffle
};

inline std::vector<Fibre> fibres;
inline ucontext_t scheduler;
inline Fibre* current;
inline dim3 block, grid_extent, block_extent;
inline void (*body)();

inline int number() { return int(current - fibres.data()); }

inline void wait_for(Wait what) {
  current->wait = what;
  swapcontext(&current->context, &scheduler);
}

inline void enter() {
  body();
  wait_for(DONE);
}

inline void start(int index) {
  Fibre& fibre = fibres[index];
  fibre.stack.resize(STACK);
  getcontext(&fibre.context);
  fibre.context.uc_stack.ss_sp = fibre.stack.data();
  fibre.context.uc_stack.ss_size = STACK;
  fibre.context.uc_link = nullptr;
  makecontext(&fibre.context, enter, 0);
  fibre.wait = READY;
  fibre.thread = {index % block_extent.x, index / block_extent.x % block_extent.y,
                  index / (block_extent.x * block_extent.y)};
}

// Let the fibres in [first, last) go on, if all that are not done wait for this.
inline bool release(int first, int last, Wait what) {
  bool some = false;
  for (int i = first; i < last; ++i) {
    if (fibres[i].wait != what && fibres[i].wait != DONE) return false;
    some |= fibres[i].wait == what;
  }
  for (int i = first; i < last; ++i)
    if (fibres[i].wait == what) fibres[i].wait = READY;
  return some;
}

inline bool release_some(int count) {
  bool some = false;
  for (int warp = 0; warp < count; warp += WARP)
    some |= release(warp, std::min(warp + WARP, count), LANES);
  return some || release(0, count, BLOCK);
}

inline void run_block(int count, Order order, unsigned& seed) {
  std::vector<int> turn(count);
  for (int i = 0; i < count; ++i) {
    start(i);
    turn[i] = order == BACKWARD ? count - 1 - i : i;
  }
  do {
    for (int i = count - 1; order == SHUFFLED && i > 0; --i) {
      seed = seed * 1664525u + 1013904223u;
      std::swap(turn[i], turn[(seed >> 8) % (i + 1)]);
    }
    for (int i : turn)
      if (fibres[i].wait == READY) {
        current = &fibres[i];
        swapcontext(&scheduler, &current->context);
      }
  } while (release_some(count));
  for (int i = 0; i < count; ++i)
    if (fibres[i].wait != DONE) {
      std::fprintf(stderr, "a barrier that only some threads of the block reach\n");
      std::abort();
    }
}

inline void launch(void (*kernel)(), dim3 grid, dim3 threads, int order) {
  body = kernel;
  grid_extent = grid;
  block_extent = threads;
  int count = threads.x * threads.y * threads.z;
  unsigned seed = 1;
  fibres.resize(std::max(fibres.size(), size_t(count)));
  for (int z = 0; z < grid.z; ++z)
    for (int y = 0; y < grid.y; ++y)
      for (int x = 0; x < grid.x; ++x) {
        block = {x, y, z};
        run_block(count, Order(order), seed);
      }
}

template <class T>
T from_lane(T value, int lane, bool inside) {
  static_assert(sizeof(T) <= sizeof(Fibre::slot));
  std::memcpy(current->slot, &value, sizeof(T));
  int first = number() / WARP * WARP;
  wait_for(LANES);
  if (inside) std::memcpy(&value, fibres[first + lane].slot, sizeof(T));
  wait_for(LANES);
  return value;
}

inline int lane() { return number() % WARP; }
}  // namespace emulated

#define threadIdx (emulated::current->thread)
#define blockIdx emulated::block
#define blockDim emulated::block_extent
#define gridDim emulated::grid_extent

inline void __syncthreads() { emulated::wait_for(emulated::BLOCK); }
inline void __syncwarp(unsigned = ~0u) { emulated::wait_for(emulated::LANES); }
inline unsigned __activemask() { return ~0u; }

template <class T>
T __shfl_down_sync(unsigned, T value, int delta, int width = emulated::WARP) {
  int lane = emulated::lane();
  return emulated::from_lane(value, lane + delta, lane % width + delta < width);
}
template <class T>
T __shfl_up_sync(unsigned, T value, int delta, int width = emulated::WARP) {
  int lane = emulated::lane();
  return emulated::from_lane(value, lane - delta, lane % width >= delta);
}
template <class T>
T __shfl_sync(unsigned, T value, int source, int width = emulated::WARP) {
  return emulated::from_lane(value, emulated::lane() / width * width + source % width, true);
}
template <class T>
T __ldg(const T* at) { return *at; }

inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
