// A small convolution of one's own: float32, NCHW, one group, padding of zeros
//
// computes  output[n,k,p,q] = bias[k] + sum_{c,r,s} weight[k,c,r,s] * padded[n,c,h,w]
//           with h = p * stride_h + r * dilation_h, w = q * stride_w + s * dilation_w
// owns      one tile: kRows output channels x kColumns neighbouring columns of one output row.
// budget    kRows * kColumns = 32 sums, which are 8 of the 16 vector registers that any x86-64 has.
// needs     a padded image, made by the caller, in which every tap of every column can be read.
// bound by  loads: kColumns of the image and kRows weights for kRows * kColumns products.
// step      from seven loops: a tile's sums stay in registers over the whole depth.
#include <cstdint>

namespace {

constexpr int kRows = 4, kColumns = 8;

struct Shape {
  std::int64_t C, H, W, K, R, S, P, Q;  // H, W: of the padded image
  std::int64_t stride_h, stride_w, dilation_h, dilation_w;
};

void tile(const Shape& z, const float* image, const float* weight, const float* bias,
          std::int64_t k0, std::int64_t p, std::int64_t q0, float* output) {
  const int rows = z.K - k0 < kRows ? static_cast<int>(z.K - k0) : kRows;
  const int columns = z.Q - q0 < kColumns ? static_cast<int>(z.Q - q0) : kColumns;
  float sum[kRows][kColumns] = {};
  for (std::int64_t c = 0; c < z.C; ++c) {
    for (std::int64_t r = 0; r < z.R; ++r) {
      for (std::int64_t s = 0; s < z.S; ++s) {
        const float* x = image + (c * z.H + p * z.stride_h + r * z.dilation_h) * z.W +
                         q0 * z.stride_w + s * z.dilation_w;
        const float* w = weight + ((k0 * z.C + c) * z.R + r) * z.S + s;
        float values[kColumns] = {};
        for (int j = 0; j < columns; ++j) values[j] = x[j * z.stride_w];
        for (int i = 0; i < kRows; ++i) {
          const float factor = i < rows ? w[i * z.C * z.R * z.S] : 0.0f;
          for (int j = 0; j < kColumns; ++j) sum[i][j] += factor * values[j];
        }
      }
    }
  }
  for (int i = 0; i < rows; ++i) {
    const float start = bias != nullptr ? bias[k0 + i] : 0.0f;
    float* y = output + ((k0 + i) * z.P + p) * z.Q + q0;
    for (int j = 0; j < columns; ++j) y[j] = sum[i][j] + start;
  }
}

}  // namespace

// sizes: N, then Shape's.
extern "C" void own_conv2d(const std::int64_t* sizes, const float* padded, const float* weight,
                           const float* bias, float* output) {
  const Shape z{sizes[1], sizes[2], sizes[3], sizes[4],  sizes[5],  sizes[6],
                sizes[7], sizes[8], sizes[9], sizes[10], sizes[11], sizes[12]};
  for (std::int64_t n = 0; n < sizes[0]; ++n) {
    for (std::int64_t k0 = 0; k0 < z.K; k0 += kRows) {
      for (std::int64_t p = 0; p < z.P; ++p) {
        for (std::int64_t q0 = 0; q0 < z.Q; q0 += kColumns) {
          tile(z, padded + n * z.C * z.H * z.W, weight, bias, k0, p, q0,
               output + n * z.K * z.P * z.Q);
        }
      }
    }
  }
}
