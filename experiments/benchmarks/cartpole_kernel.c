/* Random-policy CartPole in C: the yardstick of env_throughput.py, which compiles it with
   -O3 -march=native. The generator, the sine and the physics are those of rljax.

   cartpole_kernel NUM_ENVS NUM_STEPS THREADS: prints seconds and ended episodes. */
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define BLOCK 1024
#define MAX_THREADS 256

typedef struct {
  float x[BLOCK], x_dot[BLOCK], theta[BLOCK], theta_dot[BLOCK];
  int32_t time[BLOCK], episodes[BLOCK];
} Lanes;

static long num_envs, num_steps, num_threads, episodes[MAX_THREADS];

static inline float uniform(uint32_t x, uint32_t y, uint32_t z, uint32_t w) {
  const uint32_t a = 1664525u, c = 1013904223u;
  x = x * a + c, y = y * a + c, z = z * a + c, w = w * a + c;
  x += y * w, y += z * x, z += x * y, w += y * z;
  x ^= x >> 16, y ^= y >> 16, w ^= w >> 16;
  x += y * w;
  union { uint32_t bits; float number; } v = {.bits = (x >> 9) | 0x3f800000u};
  return v.number - 1.0f;
}

static void step(Lanes *restrict lanes, uint32_t first, uint32_t y, uint32_t z) {
  for (int i = 0; i < BLOCK; i++) {
    uint32_t lane = first + (uint32_t)i;
    float x = lanes->x[i], x_dot = lanes->x_dot[i];
    float theta = lanes->theta[i], theta_dot = lanes->theta_dot[i];

    float turns = nearbyintf(theta * 0.636619747f);
    float coarse = theta - turns * 1.57031250f - turns * 0.000483751297f;
    float rounded = coarse - turns * 7.54953362e-8f;
    float lost = (coarse - rounded) - turns * 7.54953362e-8f;
    float r = rounded + ((lost - turns * 2.56328292e-12f) - turns * 6.12323426e-17f), s = r * r;
    float near_sin = r + r * s * (-1.6666654611e-1f + s * (8.3321608736e-3f + s * -1.9515295891e-4f));
    float near_cos = 1 - 0.5f * s + s * s * (4.166664568298827e-2f
                     + s * (-1.388731625493765e-3f + s * 2.443315711809948e-5f));
    int32_t quadrant = (int32_t)turns;
    float sine = quadrant & 1 ? near_cos : near_sin, cosine = quadrant & 1 ? near_sin : near_cos;
    sine = quadrant & 2 ? -sine : sine, cosine = (quadrant + 1) & 2 ? -cosine : cosine;

    float force = uniform(lane, y, z, 0) < 0.5f ? 10.0f : -10.0f;
    float push = (force + 0.05f * theta_dot * theta_dot * sine) * (1 / 1.1f);
    float theta_acc = (9.8f * sine - cosine * push)
                      / (0.5f * (4.0f / 3.0f - 0.1f / 1.1f * cosine * cosine));
    float x_acc = push - 0.05f / 1.1f * theta_acc * cosine;
    x += 0.02f * x_dot, x_dot += 0.02f * x_acc;
    theta += 0.02f * theta_dot, theta_dot += 0.02f * theta_acc;
    int32_t time = lanes->time[i] + 1;
    int done = (fabsf(x) > 2.4f) | (fabsf(theta) > 0.20943951f) | (time >= 500);

    lanes->x[i] = done ? 0.1f * (uniform(lane, y, z, 1) - 0.5f) : x;
    lanes->x_dot[i] = done ? 0.1f * (uniform(lane, y, z, 2) - 0.5f) : x_dot;
    lanes->theta[i] = done ? 0.1f * (uniform(lane, y, z, 3) - 0.5f) : theta;
    lanes->theta_dot[i] = done ? 0.1f * (uniform(lane, y, z, 4) - 0.5f) : theta_dot;
    lanes->time[i] = done ? 0 : time;
    lanes->episodes[i] += done;
  }
}

static void *work(void *argument) {
  long thread = (long)argument;
  Lanes *lanes = malloc(sizeof(Lanes));
  for (long first = thread * BLOCK; first < num_envs; first += num_threads * BLOCK) {
    for (int i = 0; i < BLOCK; i++) {
      lanes->x[i] = lanes->x_dot[i] = lanes->theta[i] = lanes->theta_dot[i] = 0;
      lanes->time[i] = lanes->episodes[i] = 0;
    }
    uint64_t state = 1; /* splitmix64: a step's key */
    for (long t = 0; t < num_steps; t++) {
      uint64_t key = state += 0x9e3779b97f4a7c15u;
      key = (key ^ (key >> 30)) * 0xbf58476d1ce4e5b9u;
      key = (key ^ (key >> 27)) * 0x94d049bb133111ebu;
      key ^= key >> 31;
      step(lanes, (uint32_t)first, (uint32_t)(key >> 32), (uint32_t)key);
    }
    for (int i = 0; i < BLOCK; i++) episodes[thread] += lanes->episodes[i];
  }
  free(lanes);
  return NULL;
}

int main(int count, char **arguments) {
  if (count != 4) return 2;
  num_envs = atol(arguments[1]), num_steps = atol(arguments[2]);
  num_threads = atol(arguments[3]) < MAX_THREADS ? atol(arguments[3]) : MAX_THREADS;
  struct timespec before, after;
  pthread_t threads[MAX_THREADS];
  clock_gettime(CLOCK_MONOTONIC, &before);
  for (long i = 0; i < num_threads; i++) pthread_create(threads + i, NULL, work, (void *)i);
  for (long i = 0; i < num_threads; i++) pthread_join(threads[i], NULL);
  clock_gettime(CLOCK_MONOTONIC, &after);
  long total = 0;
  for (long i = 0; i < num_threads; i++) total += episodes[i];
  printf("%.9f %ld\n", (after.tv_sec - before.tv_sec) + 1e-9 * (after.tv_nsec - before.tv_nsec), total);
}
