// Drives fprop_dot and dgrad_axpy: few pixels, many weights. Both read the weights once, where they
// lie, and cut the work by channels; pixels are gathered to the order of the weights' rows.
#include "../axis_map.h"
#include "../int_math.h"
#include "drivers.h"
#include "isa_kernels.h"
#include "isa_select.h"
#include "pixel_runs.h"
#include "scratch.h"

namespace convext {
namespace {

bool taps_are_pixels(const ConvProblem& p) {
  return p.taps() == 1 && p.P == p.H && p.Q == p.W && p.pad_top + p.pad_left == 0;
}

// A row of weights holds a channel's taps or a tap's channels next to each other.
struct WeightOrder {
  std::int64_t tap, channel;  // strides
  WeightOrder(const ConvProblem& p)
      : tap(p.weight_layout == Layout::kChannelsLast ? p.C : 1),
        channel(p.weight_layout == Layout::kChannelsLast ? 1 : p.taps()) {}
};

template <class T>
class DotPass {
 public:
  DotPass(const ConvPlan& plan, const ConvTensors& t)
      : kernels_(compute_kernels<T>(plan.kernel->isa)),
        p_(plan.problem),
        t_(t),
        order_(p_),
        block_(plan.pixel_block),
        depth_(p_.C * p_.taps()),
        output_(t.output) {}

  void run(const Threads& threads) {
    const PixelRuns input(t_.input);
    const bool in_place = taps_are_pixels(p_) && input.one_run() &&
                          t_.input.dtype == compute_dtype<T>() &&
                          (t_.input.stride[1] == 1 || p_.C == 1);
    if (!in_place && !taps_are_pixels(p_)) {
      rows_ = forward_map_h(p_);
      columns_ = forward_map_w(p_);
    }
    DotTile<T> tile;
    tile.weight_dtype = t_.weight.dtype;
    tile.weight_output = depth_;
    tile.depth = depth_;
    tile.bias = pack_bias();
    tile.x_pixel = in_place ? input.step : depth_;
    const std::int64_t total = p_.N * p_.P * p_.Q;
    for (std::int64_t first = 0; first < total; first += block_) {
      tile.pixels = total - first < block_ ? total - first : block_;
      tile.x = in_place ? static_cast<const T*>(input.at(first, 0))
                        : gather(threads, first, tile.pixels);
      multiply(threads, tile, first);
    }
  }

 private:
  const T* pack_bias() {
    if (t_.bias.data == nullptr) return nullptr;
    T* values = scratch<T>(Slot::kBias, p_.K);
    kernels_.pack({t_.bias.data, t_.bias.dtype, 0, t_.bias.stride[1]}, 1, p_.K, p_.K, values, 0, 0);
    return values;
  }

  // All outputs at the tile's pixels, from pixel `first` on.
  void multiply(const Threads& threads, const DotTile<T>& tile, std::int64_t first) {
    // Enough weights for an item to be worth a thread's while.
    constexpr std::int64_t kItemBytes = 32 << 10;
    const std::int64_t bytes = depth_ * static_cast<std::int64_t>(sizeof(T));
    const std::int64_t unit = round_up(ceil_div(kItemBytes, bytes), 8);
    const bool in_place =
        output_.view.dtype == compute_dtype<T>() && (output_.one_run() || tile.pixels == 1);
    threads.run(ceil_div(p_.K, unit), [&](std::int64_t begin, std::int64_t end) {
      const std::int64_t k1 = end * unit < p_.K ? end * unit : p_.K;
      T* results = in_place ? nullptr : scratch<T>(Slot::kTile, tile.pixels * unit);
      for (std::int64_t k = begin * unit; k < k1; k += unit) {
        DotTile<T> part = tile;
        part.outputs = in_place || k1 - k < unit ? k1 - k : unit;
        part.weight = element(t_.weight, k, 0, 0, 0);
        if (part.bias != nullptr) part.bias += k;
        part.y = in_place ? static_cast<T*>(output_.at(first, k)) : results;
        part.y_pixel = in_place ? output_.step : unit;
        part.y_output = in_place ? output_.view.stride[1] : 1;
        kernels_.dot(part);
        if (in_place) return;
        output_.for_each(
            first, tile.pixels, [&](std::int64_t i, std::int64_t run, std::int64_t at) {
              kernels_.unpack(
                  results + i * unit, unit, run, part.outputs,
                  {output_.at(at, k), output_.view.dtype, output_.step, output_.view.stride[1]});
            });
      }
    });
  }

  // [pixel][depth], in the order of the weights' rows.
  const T* gather(const Threads& threads, std::int64_t first, std::int64_t pixels) {
    T* x = scratch<T>(Slot::kRows, pixels * depth_);
    if (taps_are_pixels(p_)) {
      const PixelRuns input(t_.input);
      input.for_each(first, pixels, [&](std::int64_t i, std::int64_t run, std::int64_t at) {
        kernels_.pack({input.at(at, 0), t_.input.dtype, input.step, t_.input.stride[1]}, run,
                      depth_, depth_, x + i * depth_, depth_, 0);
      });
      return x;
    }
    constexpr std::int64_t kItemElements = 16 << 10;
    const std::int64_t items = ceil_div(pixels * depth_, kItemElements);
    threads.run(items < pixels ? items : pixels, [&](std::int64_t begin, std::int64_t end) {
      const std::int64_t count = items < pixels ? items : pixels;
      for (std::int64_t i = pixels * begin / count; i < pixels * end / count; ++i) {
        gather_pixel(first + i, x + i * depth_);
      }
    });
    return x;
  }

  void gather_pixel(std::int64_t pixel, T* x) const {
    const std::int64_t n = pixel / (p_.P * p_.Q), at = pixel % (p_.P * p_.Q);
    for (std::int64_t r = 0; r < p_.R; ++r) {
      const std::int64_t h = rows_.source(at / p_.Q, r);
      for (std::int64_t s = 0; s < p_.S; ++s) {
        const std::int64_t w = h < 0 ? -1 : columns_.source(at % p_.Q, s);
        T* to = x + (r * p_.S + s) * order_.tap;
        if (w < 0) {
          for (std::int64_t c = 0; c < p_.C; ++c) to[c * order_.channel] = 0;
        } else if (order_.channel == 1) {
          kernels_.pack({element(t_.input, n, 0, h, w), t_.input.dtype, 0, t_.input.stride[1]}, 1,
                        p_.C, p_.C, to, 0, 0);
        } else {
          kernels_.pack({element(t_.input, n, 0, h, w), t_.input.dtype, t_.input.stride[1], 0},
                        p_.C, 1, 1, to, order_.channel, 0);
        }
      }
    }
  }

  const ComputeKernels<T>& kernels_;
  const ConvProblem& p_;
  const ConvTensors& t_;
  WeightOrder order_;
  std::int64_t block_, depth_;
  PixelRuns output_;
  AxisMap rows_, columns_;
};

// grad_input[pixel] = sum over k of a number times a row of weights: products for every tap of a
// block's pixels, and then each is added where its tap read from, in a fixed order.
template <class T>
class AxpyPass {
 public:
  AxpyPass(const ConvPlan& plan, const ConvTensors& t)
      : kernels_(compute_kernels<T>(plan.kernel->isa)),
        p_(plan.problem),
        t_(t),
        order_(p_),
        block_(plan.pixel_block),
        vectors_(plan.kernel->vectors),
        grad_(t.output),
        result_(t.input) {}

  void run(const Threads& threads) {
    direct_ = taps_are_pixels(p_);
    if (!direct_) {
      rows_ = forward_map_h(p_);
      columns_ = forward_map_w(p_);
    }
    const std::int64_t lanes = kernels_.lanes;
    // Channels of an item: a strip's vectors where a tap's channels are adjacent, and as many where
    // a channel's taps are.
    unit_ = order_.channel == 1 ? vectors_ * lanes : ceil_div(vectors_ * lanes, p_.taps());
    const std::int64_t units = p_.C < 2 * unit_ ? 1 : p_.C / unit_;  // what is left joins the last
    const std::int64_t total = p_.N * p_.P * p_.Q;
    const bool in_place = t_.output.dtype == compute_dtype<T>();
    strip_.depth = p_.K;
    strip_.bias = nullptr;
    strip_.bias_by_row = strip_.add = false;
    strip_.copy = nullptr;
    strip_.ahead = nullptr;
    strip_.ahead_of_a = strip_.ahead_row = strip_.ahead_of_y = 0;
    for (std::int64_t first = 0; first < total; first += block_) {
      const std::int64_t pixels = total - first < block_ ? total - first : block_;
      if (in_place && (grad_.one_run() || pixels == 1)) {
        strip_.a = static_cast<const T*>(grad_.at(first, 0));
        strip_.a_row = grad_.step;
        strip_.a_depth = t_.output.stride[1];
      } else {
        strip_.a = gather(first, pixels);
        strip_.a_row = p_.K;
        strip_.a_depth = 1;
      }
      strip_.rows = pixels;
      threads.run(units, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t unit = begin; unit < end; ++unit) {
          const std::int64_t c0 = unit * unit_;
          channels(first, pixels, c0, unit + 1 == units ? p_.C : c0 + unit_);
        }
      });
    }
  }

 private:
  static constexpr std::int64_t kRowsAhead = 16;

  const T* gather(std::int64_t first, std::int64_t pixels) {
    T* grad = scratch<T>(Slot::kGrad, pixels * p_.K);
    grad_.for_each(first, pixels, [&](std::int64_t i, std::int64_t run, std::int64_t at) {
      kernels_.pack({grad_.at(at, 0), t_.output.dtype, grad_.step, t_.output.stride[1]}, run, p_.K,
                    p_.K, grad + i * p_.K, p_.K, 0);
    });
    return grad;
  }

  // Channels [c0, c1) of the block's images.
  void channels(std::int64_t first, std::int64_t pixels, std::int64_t c0, std::int64_t c1) const {
    const std::int64_t count = c1 - c0;
    const bool in_place = direct_ && result_.view.dtype == compute_dtype<T>() &&
                          result_.view.stride[1] == 1 && (result_.one_run() || pixels == 1) &&
                          count >= kernels_.lanes;
    if (in_place) {
      multiply(c0, count, static_cast<T*>(result_.at(first, c0)), result_.step);
      return;
    }
    // [pixel][tap][channel] or [pixel][channel][tap], as the weights have it.
    const std::int64_t width = count * p_.taps();
    // The last tap of few channels is written as a whole vector, which ends before the next pixel.
    const bool short_taps = order_.channel == 1 && count < kernels_.lanes;
    const std::int64_t written = width + (short_taps ? kernels_.lanes - count : 0);
    const std::int64_t padded = round_up(written, kernels_.lanes);
    T* products = scratch<T>(Slot::kTile, pixels * padded);
    if (order_.channel == 1) {
      for (std::int64_t tap = 0; tap < p_.taps(); ++tap) {
        multiply(tap * p_.C + c0, count, products + tap * count, padded);
      }
    } else {
      multiply(c0 * p_.taps(), width, products, padded);
    }
    if (direct_) {
      result_.for_each(first, pixels, [&](std::int64_t i, std::int64_t run, std::int64_t at) {
        kernels_.unpack(
            products + i * padded, padded, run, count,
            {result_.at(at, c0), result_.view.dtype, result_.step, result_.view.stride[1]});
      });
      return;
    }
    const std::int64_t image = p_.P * p_.Q;
    for (std::int64_t i = 0; i < pixels; i += image) {
      add_up((first + i) / image, products + i * padded, padded, c0, count);
    }
  }

  // y[pixel] = the product for weights [column, column + count) of every k's row.
  void multiply(std::int64_t column, std::int64_t count, T* y, std::int64_t y_row) const {
    const std::int64_t lanes = kernels_.lanes, row = t_.weight.stride[0];
    MatrixStrip<T> strip = strip_;
    strip.y_row = y_row;
    const std::int64_t vectors = ceil_div(count, lanes);
    // As wide as the sums of so many pixels allow.
    std::int64_t most = vectors_ / (strip.rows < 4 ? strip.rows : 4);
    if (most < 1) most = 1;
    const std::int64_t strips = ceil_div(vectors, most);
    const bool weights_in_place = t_.weight.dtype == compute_dtype<T>() && count >= lanes;
    for (std::int64_t s = 0; s < strips; ++s) {
      const std::int64_t lane = vectors * s / strips * lanes;
      const std::int64_t next = vectors * (s + 1) / strips * lanes;
      strip.lanes = (next < count ? next : count) - lane;
      strip.y = y + lane;
      char* data = static_cast<char*>(t_.weight.data) + (column + lane) * bytes_of(t_.weight.dtype);
      if (weights_in_place) {
        strip.b = reinterpret_cast<const T*>(data);
        strip.b_depth = row;
      } else {
        const std::int64_t padded = round_up(strip.lanes, lanes);
        T* converted = scratch<T>(Slot::kPacked, p_.K * padded);
        kernels_.pack({data, t_.weight.dtype, row, 1}, p_.K, strip.lanes, padded, converted, padded,
                      0);
        strip.b = converted;
        strip.b_depth = padded;
      }
      // Rows of weights are far apart, and a row's piece is short.
      strip.ahead = weights_in_place ? strip.b + kRowsAhead * row : nullptr;
      strip.ahead_step = row;
      kernels_.strip(strip);
    }
  }

  // One image's gradients from its pixels' products, pixels and taps in ascending order.
  void add_up(std::int64_t n, const T* products, std::int64_t padded, std::int64_t c0,
              std::int64_t count) const {
    const std::int64_t taps = p_.taps();
    T* sums = scratch<T>(Slot::kSums, p_.H * p_.W * count);
    for (std::int64_t i = 0; i < p_.H * p_.W * count; ++i) sums[i] = 0;
    const std::int64_t tap_step = order_.channel == 1 ? count : 1;
    for (std::int64_t p = 0; p < p_.P; ++p) {
      for (std::int64_t r = 0; r < p_.R; ++r) {
        const std::int64_t h = rows_.source(p, r);
        if (h < 0) continue;
        for (std::int64_t q = 0; q < p_.Q; ++q) {
          for (std::int64_t s = 0; s < p_.S; ++s) {
            const std::int64_t w = columns_.source(q, s);
            if (w < 0) continue;
            const T* from = products + (p * p_.Q + q) * padded + (r * p_.S + s) * tap_step;
            T* to = sums + (h * p_.W + w) * count;
            if (order_.channel == 1) {
              for (std::int64_t c = 0; c < count; ++c) to[c] += from[c];
            } else {
              for (std::int64_t c = 0; c < count; ++c) to[c] += from[c * taps];
            }
          }
        }
      }
    }
    const TensorView& out = t_.input;
    for (std::int64_t h = 0; h < p_.H; ++h) {
      kernels_.unpack(sums + h * p_.W * count, count, p_.W, count,
                      {element(out, n, c0, h, 0), out.dtype, out.stride[3], out.stride[1]});
    }
  }

  const ComputeKernels<T>& kernels_;
  const ConvProblem& p_;
  const ConvTensors& t_;
  WeightOrder order_;
  std::int64_t block_, vectors_, unit_ = 0;
  PixelRuns grad_, result_;
  MatrixStrip<T> strip_;
  bool direct_ = false;
  AxisMap rows_, columns_;
};

}  // namespace

void run_dot(const ConvPlan& plan, const ConvTensors& tensors, const Threads& threads) {
  if (plan.problem.dtype == DType::kFloat64) {
    DotPass<double>(plan, tensors).run(threads);
  } else {
    DotPass<float>(plan, tensors).run(threads);
  }
}

void run_axpy(const ConvPlan& plan, const ConvTensors& tensors, const Threads& threads) {
  if (plan.problem.dtype == DType::kFloat64) {
    AxpyPass<double>(plan, tensors).run(threads);
  } else {
    AxpyPass<float>(plan, tensors).run(threads);
  }
}

}  // namespace convext
