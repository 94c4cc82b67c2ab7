// The one-dimensional transforms of 3-tap filters with stride 2, and their transposes
//
// computes  m outputs from 2m + 1 inputs with 2m + 1 multiplications instead of 3m. The inputs'
//           phases part: outer taps meet even inputs as a filter of 2 taps and stride 1, done by
//           Winograd's F(m, 2) with m + 1 multiplications; the middle tap meets odd inputs, one
//           for each output. Input grad, Polyphase*Grad, is the same the other way round: from
//           m + 1 gradients the middle tap makes the even ones of 2m results and F(m, 2) the odd
//           ones. Weight grad is transposed as in winograd_transform.h.
// filters   The m products of the middle tap share one transformed filter, so there are m + 2 of
//           these along an axis: point i has filter i, but no further one than the last.
// points    F(2, 2): 0, 1 and infinity. F(4, 2): 0, +-3/4, 3/2 and infinity, whose error is half of
//           that of 0, +-1 and 2.
// source    as winograd_transform.h; the phases as in any decimating filter bank.
//
// V is a vector or a number; each function reads with stride `from` and writes with stride `to`.
#pragma once

#include "simd.h"

namespace convext::CONVEXT_ISA {
namespace {

// F(m, 2).
template <int M>
struct TwoTaps;

template <>
struct TwoTaps<2> {
  template <class T, class V>
  CONVEXT_INLINE void input(const V* d, int from, V* o, int to) {
    const V d0 = d[0], d1 = d[from], d2 = d[2 * from];
    o[0] = d0 - d1;
    o[to] = d1;
    o[2 * to] = d2 - d1;
  }
  template <class T, class V>
  CONVEXT_INLINE void filter(V g0, V g1, V* o, int to) {
    o[0] = g0;
    o[to] = g0 + g1;
    o[2 * to] = g1;
  }
  template <class T, class V>
  CONVEXT_INLINE void output(const V* m, int from, V* o, int to) {
    const V m1 = m[from];
    o[0] = m[0] + m1;
    o[to] = m1 + m[2 * from];
  }
  template <class T, class V>
  CONVEXT_INLINE void grad_output(const V* g, int from, V* o, int to) {
    const V g0 = g[0], g1 = g[from];
    o[0] = g0;
    o[to] = g0 + g1;
    o[2 * to] = g1;
  }
  template <class T, class V>
  CONVEXT_INLINE void grad_filter(const V* m, int from, V* g0, V* g1) {
    const V m1 = m[from];
    *g0 = m[0] + m1;
    *g1 = m1 + m[2 * from];
  }
};

template <>
struct TwoTaps<4> {
  // The points are 0, +-a and b; n0, np, nm and nb are the values of their Lagrange denominators.
  static constexpr double a = 0.75, b = 1.5, a2 = a * a, a3 = a2 * a, b2 = b * b, b3 = b2 * b;
  static constexpr double n0 = 1 / (a2 * b), np = 1 / (2 * a2 * (a - b));
  static constexpr double nm = -1 / (2 * a2 * (a + b)), nb = 1 / (b * (b2 - a2));

  template <class T, class V>
  CONVEXT_INLINE void input(const V* d, int from, V* o, int to) {
    const V d0 = d[0], d1 = d[from], d2 = d[2 * from], d3 = d[3 * from];
    const V outer = d3 - T(a2) * d1, near = d3 - T(b) * d2, far = T(a) * (d2 - T(b) * d1);
    o[0] = outer - T(b) * (d2 - T(a2) * d0);
    o[to] = near + far;
    o[2 * to] = near - far;
    o[3 * to] = outer;
    o[4 * to] = d[4 * from] - T(a2) * d2 - T(b) * outer;
  }
  template <class T, class V>
  CONVEXT_INLINE void filter(V g0, V g1, V* o, int to) {
    o[0] = g0 * T(n0);
    o[to] = g0 * T(np) + g1 * T(a * np);
    o[2 * to] = g0 * T(nm) - g1 * T(a * nm);
    o[3 * to] = g0 * T(nb) + g1 * T(b * nb);
    o[4 * to] = g1;
  }
  template <class T, class V>
  CONVEXT_INLINE void output(const V* m, int from, V* o, int to) {
    const V even = m[from] + m[2 * from], odd = m[from] - m[2 * from], mb = m[3 * from];
    o[0] = m[0] + even + mb;
    o[to] = T(a) * odd + T(b) * mb;
    o[2 * to] = T(a2) * even + T(b2) * mb;
    o[3 * to] = T(a3) * odd + T(b3) * mb + m[4 * from];
  }
  template <class T, class V>
  CONVEXT_INLINE void grad_output(const V* g, int from, V* o, int to) {
    const V g0 = g[0], g1 = g[from], g2 = g[2 * from], g3 = g[3 * from];
    const V even = g0 + T(a2) * g2, odd = T(a) * g1 + T(a3) * g3;
    o[0] = g0;
    o[to] = even + odd;
    o[2 * to] = even - odd;
    o[3 * to] = g0 + T(b) * g1 + T(b2) * g2 + T(b3) * g3;
    o[4 * to] = g3;
  }
  template <class T, class V>
  CONVEXT_INLINE void grad_filter(const V* m, int from, V* g0, V* g1) {
    const V m1 = m[from] * T(np), m2 = m[2 * from] * T(nm), m3 = m[3 * from] * T(nb);
    *g0 = m[0] * T(n0) + m1 + m2 + m3;
    *g1 = T(a) * (m1 - m2) + T(b) * m3 + m[4 * from];
  }
};

template <int M>
struct Polyphase {
  static constexpr int kInputs = 2 * M + 1, kPoints = 2 * M + 1, kFilters = M + 2, kOutputs = M;

  template <class T, class V>
  CONVEXT_INLINE void input(const V* d, int from, V* o, int to) {
    TwoTaps<M>::template input<T>(d, 2 * from, o, to);
#pragma GCC unroll 4
    for (int j = 0; j < M; ++j) o[(M + 1 + j) * to] = d[(2 * j + 1) * from];
  }
  template <class T, class V>
  CONVEXT_INLINE void filter(const V* g, int from, V* o, int to) {
    TwoTaps<M>::template filter<T>(g[0], g[2 * from], o, to);
    o[(M + 1) * to] = g[from];
  }
  template <class T, class V>
  CONVEXT_INLINE void output(const V* m, int from, V* o, int to) {
    TwoTaps<M>::template output<T>(m, from, o, to);
#pragma GCC unroll 4
    for (int j = 0; j < M; ++j) o[j * to] += m[(M + 1 + j) * from];
  }
  template <class T, class V>
  CONVEXT_INLINE void grad_output(const V* g, int from, V* o, int to) {
    TwoTaps<M>::template grad_output<T>(g, from, o, to);
#pragma GCC unroll 4
    for (int j = 0; j < M; ++j) o[(M + 1 + j) * to] = g[j * from];
  }
  template <class T, class V>
  CONVEXT_INLINE void grad_filter(const V* m, int from, V* o, int to) {
    TwoTaps<M>::template grad_filter<T>(m, from, o, o + 2 * to);
    o[to] = m[(M + 1) * from];
  }
};

// Filters are Polyphase's. The first result is one that the middle tap makes.
template <int M>
struct PolyphaseGrad {
  static constexpr int kInputs = M + 1, kPoints = 2 * M + 1, kFilters = M + 2, kOutputs = 2 * M;

  template <class T, class V>
  CONVEXT_INLINE void input(const V* d, int from, V* o, int to) {
    TwoTaps<M>::template input<T>(d, from, o, to);
#pragma GCC unroll 4
    for (int j = 0; j < M; ++j) o[(M + 1 + j) * to] = d[j * from];
  }
  template <class T, class V>
  CONVEXT_INLINE void output(const V* m, int from, V* o, int to) {
    TwoTaps<M>::template output<T>(m, from, o + to, 2 * to);
#pragma GCC unroll 4
    for (int j = 0; j < M; ++j) o[2 * j * to] = m[(M + 1 + j) * from];
  }
};

}  // namespace
}  // namespace convext::CONVEXT_ISA
