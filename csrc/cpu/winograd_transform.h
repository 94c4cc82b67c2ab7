// The one-dimensional transforms of Winograd's minimal filtering F(m, 3), and their transposes
//
// computes  m outputs of a 3-tap filter from m + 2 inputs with m + 2 multiplications instead of 3m:
//             output = A^T ((G filter) * (B^T input)), * element by element.
//           Applied to columns and then to rows it gives F(m x m, 3 x 3). Input grad is a forward
//           pass over the gradient with the taps reversed; weight grad is the transposed product,
//             grad_filter = G^T ((A grad_output) * (B^T input)).
// points    F(2): 0, 1, -1 and infinity. F(4): 0, +-1/sqrt(2), +-sqrt(2) and infinity: the usual
//           0, +-1, +-2 has entries up to 8 next to 1/24, and an error up to five times as large
//           (benchmarks/NOTES.md).
// source    S. Winograd, Arithmetic Complexity of Computations (1980); A. Lavin and S. Gray, Fast
//           Algorithms for Convolutional Neural Networks (2016); the matrices follow from the
//           points by the Toom-Cook construction.
//
// V is a vector or a number; each function reads with stride `from` and writes with stride `to`.
#pragma once

#include "simd.h"

namespace convext::CONVEXT_ISA {
namespace {

template <int M>
struct Winograd;

template <>
struct Winograd<2> {
  static constexpr int kInputs = 4, kPoints = 4, kFilters = 4, kOutputs = 2;

  template <class T, class V>
  CONVEXT_INLINE void input(const V* d, int from, V* o, int to) {
    const V d0 = d[0], d1 = d[from], d2 = d[2 * from], d3 = d[3 * from];
    o[0] = d0 - d2;
    o[to] = d1 + d2;
    o[2 * to] = d2 - d1;
    o[3 * to] = d1 - d3;
  }
  template <class T, class V>
  CONVEXT_INLINE void filter(const V* g, int from, V* o, int to) {
    const V even = (g[0] + g[2 * from]) * T(0.5), odd = g[from] * T(0.5);
    o[0] = g[0];
    o[to] = even + odd;
    o[2 * to] = even - odd;
    o[3 * to] = g[2 * from];
  }
  template <class T, class V>
  CONVEXT_INLINE void output(const V* m, int from, V* o, int to) {
    const V m1 = m[from], m2 = m[2 * from];
    o[0] = m[0] + m1 + m2;
    o[to] = m1 - m2 - m[3 * from];
  }
  template <class T, class V>
  CONVEXT_INLINE void grad_output(const V* g, int from, V* o, int to) {
    const V g0 = g[0], g1 = g[from];
    o[0] = g0;
    o[to] = g0 + g1;
    o[2 * to] = g0 - g1;
    o[3 * to] = -g1;
  }
  template <class T, class V>
  CONVEXT_INLINE void grad_filter(const V* m, int from, V* o, int to) {
    const V m1 = m[from], m2 = m[2 * from], even = (m1 + m2) * T(0.5);
    o[0] = m[0] + even;
    o[to] = (m1 - m2) * T(0.5);
    o[2 * to] = even + m[3 * from];
  }
};

template <>
struct Winograd<4> {
  static constexpr int kInputs = 6, kPoints = 6, kFilters = 6, kOutputs = 4;

  // The points are +-a and +-b; na and nb are the values of their Lagrange denominators.
  static constexpr double a = 0.70710678118654752440, b = 1.41421356237309504880;
  static constexpr double a2 = 0.5, b2 = 2, a3 = a2 * a, b3 = b2 * b;
  static constexpr double na = 1 / (2 * a2 * (a2 - b2)), nb = 1 / (2 * b2 * (b2 - a2));

  template <class T, class V>
  CONVEXT_INLINE void input(const V* d, int from, V* o, int to) {
    const V d0 = d[0], d1 = d[from], d2 = d[2 * from], d3 = d[3 * from], d4 = d[4 * from];
    o[0] = T(a2 * b2) * d0 - T(a2 + b2) * d2 + d4;
    const V even_a = d4 - T(b2) * d2, odd_a = T(a) * (d3 - T(b2) * d1);
    o[to] = even_a + odd_a;
    o[2 * to] = even_a - odd_a;
    const V even_b = d4 - T(a2) * d2, odd_b = T(b) * (d3 - T(a2) * d1);
    o[3 * to] = even_b + odd_b;
    o[4 * to] = even_b - odd_b;
    o[5 * to] = T(a2 * b2) * d1 - T(a2 + b2) * d3 + d[5 * from];
  }
  template <class T, class V>
  CONVEXT_INLINE void filter(const V* g, int from, V* o, int to) {
    const V g0 = g[0], g1 = g[from], g2 = g[2 * from];
    o[0] = g0 * T(1 / (a2 * b2));
    const V even_a = g0 * T(na) + g2 * T(a2 * na), odd_a = g1 * T(a * na);
    o[to] = even_a + odd_a;
    o[2 * to] = even_a - odd_a;
    const V even_b = g0 * T(nb) + g2 * T(b2 * nb), odd_b = g1 * T(b * nb);
    o[3 * to] = even_b + odd_b;
    o[4 * to] = even_b - odd_b;
    o[5 * to] = g2;
  }
  template <class T, class V>
  CONVEXT_INLINE void output(const V* m, int from, V* o, int to) {
    const V even_a = m[from] + m[2 * from], odd_a = m[from] - m[2 * from];
    const V even_b = m[3 * from] + m[4 * from], odd_b = m[3 * from] - m[4 * from];
    o[0] = m[0] + even_a + even_b;
    o[to] = T(a) * odd_a + T(b) * odd_b;
    o[2 * to] = T(a2) * even_a + T(b2) * even_b;
    o[3 * to] = T(a3) * odd_a + T(b3) * odd_b + m[5 * from];
  }
  template <class T, class V>
  CONVEXT_INLINE void grad_output(const V* g, int from, V* o, int to) {
    const V g0 = g[0], g1 = g[from], g2 = g[2 * from], g3 = g[3 * from];
    const V even_a = g0 + T(a2) * g2, odd_a = T(a) * g1 + T(a3) * g3;
    const V even_b = g0 + T(b2) * g2, odd_b = T(b) * g1 + T(b3) * g3;
    o[0] = g0;
    o[to] = even_a + odd_a;
    o[2 * to] = even_a - odd_a;
    o[3 * to] = even_b + odd_b;
    o[4 * to] = even_b - odd_b;
    o[5 * to] = g3;
  }
  template <class T, class V>
  CONVEXT_INLINE void grad_filter(const V* m, int from, V* o, int to) {
    const V even_a = (m[from] + m[2 * from]) * T(na), odd_a = (m[from] - m[2 * from]) * T(a * na);
    const V even_b = (m[3 * from] + m[4 * from]) * T(nb);
    const V odd_b = (m[3 * from] - m[4 * from]) * T(b * nb);
    o[0] = m[0] * T(1 / (a2 * b2)) + even_a + even_b;
    o[to] = odd_a + odd_b;
    o[2 * to] = T(a2) * even_a + T(b2) * even_b + m[5 * from];
  }
};

}  // namespace
}  // namespace convext::CONVEXT_ISA
