// Drives all passes of small groups in NCHW, plane by plane: nothing is transposed.
//
// fprop and dgrad: a work item packs the planes of one group of one image, a strip of rows at a
// time where they are large, and computes every output channel of the group from them. In dgrad,
// destinations of equal remainders modulo the stride meet the same taps, and each such class is
// computed on its own.
//
// wgrad: a work item is one group and a chunk of the images. Lanes are pixels, so a sum is a vector
// until the item ends; the chunks are added in order.
#include <vector>

#include "../int_math.h"
#include "data_pass.h"
#include "isa_kernels.h"
#include "isa_select.h"
#include "plane_layout.h"
#include "scratch.h"

namespace convext {
namespace {

constexpr std::int64_t kPackedBytes = 192 << 10;  // of one work item

// Channels that the next call takes.
int piece_of(std::int64_t left) { return left >= 4 ? 4 : left >= 2 ? 2 : 1; }

PlaneLayout make_layout(const ConvProblem& p, bool forward, std::int64_t depth,
                        std::int64_t elements) {
  if (forward) {
    return PlaneLayout(
        forward_axis(p.P, p.R, p.stride_h, p.dilation_h, p.pad_top, p.H, p.padding_mode),
        forward_axis(p.Q, p.S, p.stride_w, p.dilation_w, p.pad_left, p.W, p.padding_mode), depth,
        elements);
  }
  if (p.padding_mode != PaddingMode::kZeros) {
    // The whole padded plane, which is folded then.
    return PlaneLayout(
        backward_axis(p.P, p.R, p.stride_h, p.dilation_h, 0, p.H + p.pad_top + p.pad_bottom),
        backward_axis(p.Q, p.S, p.stride_w, p.dilation_w, 0, p.W + p.pad_left + p.pad_right), depth,
        std::int64_t{1} << 40);
  }
  return PlaneLayout(backward_axis(p.P, p.R, p.stride_h, p.dilation_h, p.pad_top, p.H),
                     backward_axis(p.Q, p.S, p.stride_w, p.dilation_w, p.pad_left, p.W), depth,
                     elements);
}

// Destinations first, first + step, ... of one axis: positions [begin, end).
struct Positions {
  std::int64_t begin, end, first;
};
Positions destinations(const PlaneAxis& axis, std::int64_t stride, std::int64_t remainder,
                       std::int64_t pad, std::int64_t extent, std::int64_t begin,
                       std::int64_t end) {
  // Position i of the axis is index (axis.first + i) * stride + remainder - pad.
  const std::int64_t origin = axis.first * stride + remainder - pad;
  while (begin < end && origin + begin * stride < 0) ++begin;
  while (begin < end && origin + (end - 1) * stride >= extent) --end;
  return {begin, end, origin + begin * stride};
}

template <class T>
class GroupedPlanesPass : private DataPass {
 public:
  GroupedPlanesPass(const ConvPlan& plan, const ConvTensors& t)
      : DataPass(plan, t),
        kernels_(compute_kernels<T>(plan.kernel->isa)),
        fold_(!forward_ && p_.padding_mode != PaddingMode::kZeros),
        layout_(make_layout(p_, forward_, depth_, kPackedBytes / bytes_of(DType::kFloat32))) {
    const std::int64_t down = forward_ ? 1 : p_.stride_h, across = forward_ ? 1 : p_.stride_w;
    for (std::int64_t h = 0; h < down; ++h) {
      for (std::int64_t w = 0; w < across; ++w) add_class(h, w);
    }
  }

  void run(const Threads& threads) {
    pack_weights(threads);
    const std::int64_t strips = layout_.strips(), items = p_.N * p_.groups * strips;
    threads.run(items, [&](std::int64_t begin, std::int64_t end) {
      const std::int64_t vector = kernels_.lanes;
      const std::int64_t y_stride = round_up(layout_.strip_rows() * layout_.ld(), vector) + vector;
      const std::int64_t x_elements = depth_ * layout_.channel_elements() + vector;
      T* x = scratch<T>(Slot::kRows, x_elements);
      T* y = scratch<T>(Slot::kTile, 4 * y_stride);
      T* folded = fold_ ? scratch<T>(Slot::kGrad, 4 * layout_height() * layout_width()) : nullptr;
      for (std::int64_t i = x_elements - vector; i < x_elements; ++i) x[i] = 0;
      std::int64_t zeroed = -1;  // the strip whose padding is in place
      for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t strip = item % strips, g = item / strips % p_.groups;
        const std::int64_t n = item / strips / p_.groups;
        for (std::int64_t d = 0; d < depth_; ++d) {
          layout_.pack(kernels_, source_, n, g * depth_ + d, strip, strip != zeroed,
                       x + d * layout_.channel_elements());
        }
        zeroed = strip;
        for (std::int64_t k = 0; k < outputs_;) {
          const int channels = piece_of(outputs_ - k);
          run_channels(n, g, k, channels, strip, x, y, y_stride, folded);
          k += channels;
        }
      }
    });
  }

 private:
  struct Class {
    std::int64_t h, w;                   // remainders
    std::vector<std::int64_t> taps;      // r * S + s
    std::vector<std::int64_t> distance;  // [depth][taps]
    std::int64_t panel;                  // first weight of a group's
  };

  void add_class(std::int64_t h, std::int64_t w) {
    Class c{h, w, {}, {}, panel_elements_};
    for (std::int64_t r = 0; r < p_.R; ++r) {
      for (std::int64_t s = 0; s < p_.S; ++s) {
        if (layout_.rows().remainder[r] == h && layout_.columns().remainder[s] == w) {
          c.taps.push_back(r * p_.S + s);
        }
      }
    }
    for (std::int64_t d = 0; d < depth_; ++d) {
      for (const std::int64_t tap : c.taps) {
        c.distance.push_back(d * layout_.channel_elements() +
                             layout_.distance(tap / p_.S, tap % p_.S));
      }
    }
    panel_elements_ += outputs_ * static_cast<std::int64_t>(c.distance.size());
    classes_.push_back(std::move(c));
  }

  // [group][class][piece of output channels][depth][tap][channel of the piece]
  void pack_weights(const Threads& threads) {
    const std::int64_t taps = p_.taps(), row = p_.channels_per_group() * taps;
    panels_ = scratch<T>(Slot::kPanels, p_.groups * panel_elements_ + 4);
    packed_bias_ = scratch<T>(Slot::kBias, p_.K + p_.C);
    for (std::int64_t i = 0; i < p_.K + p_.C; ++i) packed_bias_[i] = 0;
    if (bias_.data != nullptr) {
      kernels_.pack({bias_.data, bias_.dtype, 0, bias_.stride[1]}, 1, p_.K, p_.K, packed_bias_,
                    p_.K, 0);
    }
    const bool adjacent = weight_.stride[3] == 1 && weight_.stride[2] == p_.S &&
                          (p_.channels_per_group() == 1 || weight_.stride[1] == taps);
    const std::int64_t piece = ceil_div(4096, panel_elements_ + 1);  // groups
    threads.run(ceil_div(p_.groups, piece), [&](std::int64_t begin, std::int64_t end) {
      // One group's weights as they are, [K][C/groups][R][S].
      const std::int64_t K = p_.outputs_per_group();
      std::vector<T> natural(K * row);
      for (std::int64_t g = begin * piece; g < end * piece && g < p_.groups; ++g) {
        if (adjacent) {
          kernels_.pack({element(weight_, g * K, 0, 0, 0), weight_.dtype, weight_.stride[0], 1}, K,
                        row, row, natural.data(), row, 0);
        } else {
          for (std::int64_t i = 0; i < K * p_.channels_per_group(); ++i) {
            const std::int64_t k = i / p_.channels_per_group(), c = i % p_.channels_per_group();
            kernels_.pack({element(weight_, g * K + k, c, 0, 0), weight_.dtype, weight_.stride[2],
                           weight_.stride[3]},
                          p_.R, p_.S, p_.S, natural.data() + i * taps, p_.S, 0);
          }
        }
        T* panel = panels_ + g * panel_elements_;
        for (const Class& c : classes_) {
          for (std::int64_t k = 0; k < outputs_;) {
            const int channels = piece_of(outputs_ - k);
            for (std::int64_t d = 0; d < depth_; ++d) {
              for (const std::int64_t tap : c.taps) {
                for (int j = 0; j < channels; ++j) {
                  *panel++ = forward_ ? natural[((k + j) * depth_ + d) * taps + tap]
                                      : natural[(d * outputs_ + k + j) * taps + tap];
                }
              }
            }
            k += channels;
          }
        }
      }
    });
  }

  // The channels [k, k + channels) of the group's destination.
  void run_channels(std::int64_t n, std::int64_t g, std::int64_t k, int channels,
                    std::int64_t strip, const T* x, T* y, std::int64_t y_stride, T* folded) const {
    TensorView out = destination_;
    const std::int64_t ld = layout_.ld();
    // The padded plane is where its results are if these are not of several classes.
    const bool fold_results = fold_ && classes_.size() == 1;
    std::int64_t pad_top = forward_ ? 0 : p_.pad_top, pad_left = forward_ ? 0 : p_.pad_left;
    if (fold_) {
      out.data = folded;
      out.dtype = compute_dtype<T>();
      pad_top = pad_left = 0;
      out.size[2] = layout_height();
      out.size[3] = layout_width();
      out.stride[1] = out.size[2] * out.size[3];
      out.stride[2] = out.size[3];
      out.stride[3] = 1;
    }
    const std::int64_t down = forward_ ? 1 : p_.stride_h, across = forward_ ? 1 : p_.stride_w;
    PlaneTile<T> tile;
    tile.x = x;
    tile.bias = packed_bias_ + g * outputs_ + k;
    tile.y = y;
    tile.y_stride = y_stride;
    tile.count = layout_.count(strip);
    for (const Class& c : classes_) {
      const Positions rows = destinations(layout_.rows(), down, c.h, pad_top, out.size[2],
                                          layout_.begin(strip), layout_.end(strip));
      const Positions columns = destinations(layout_.columns(), across, c.w, pad_left, out.size[3],
                                             0, layout_.columns().positions);
      if (rows.begin == rows.end || columns.begin == columns.end) continue;
      tile.offset = c.distance.data();
      tile.taps = static_cast<std::int64_t>(c.distance.size());
      tile.weight = panels_ + g * panel_elements_ + c.panel + k * tile.taps;
      kernels_.planes(tile, channels);
      if (fold_results) {
        for (int j = 0; j < channels; ++j) fold(y + j * y_stride, ld, n, g * outputs_ + k + j);
        return;
      }
      for (int j = 0; j < channels; ++j) {
        void* to = fold_ ? element(out, 0, j, rows.first, columns.first)
                         : element(out, n, g * outputs_ + k + j, rows.first, columns.first);
        kernels_.unpack(y + j * y_stride + (rows.begin - layout_.begin(strip)) * ld + columns.begin,
                        ld, rows.end - rows.begin, columns.end - columns.begin,
                        {to, out.dtype, down * out.stride[2], across * out.stride[3]});
      }
    }
    for (int j = 0; fold_ && j < channels; ++j) {
      fold(folded + j * out.stride[1], layout_width(), n, g * outputs_ + k + j);
    }
  }

  std::int64_t layout_height() const { return p_.H + p_.pad_top + p_.pad_bottom; }
  std::int64_t layout_width() const { return p_.W + p_.pad_left + p_.pad_right; }

  // A padding mode that copies pixels: the gradients of the copies to their originals.
  void fold(T* plane, std::int64_t ld, std::int64_t n, std::int64_t c) const {
    const std::int64_t width = layout_width();
    T* first = plane + p_.pad_top * ld + p_.pad_left;
    for (std::int64_t h = -p_.pad_top; h < p_.H + p_.pad_bottom; ++h) {
      if (h >= 0 && h < p_.H) continue;
      T* to = first + resolve_padding(h, p_.H, p_.padding_mode) * ld - p_.pad_left;
      const T* from = first + h * ld - p_.pad_left;
      for (std::int64_t w = 0; w < width; ++w) to[w] += from[w];
    }
    for (std::int64_t w = -p_.pad_left; w < p_.W + p_.pad_right; ++w) {
      if (w >= 0 && w < p_.W) continue;
      T* to = first + resolve_padding(w, p_.W, p_.padding_mode);
      for (std::int64_t h = 0; h < p_.H; ++h) to[h * ld] += first[h * ld + w];
    }
    const TensorView& out = destination_;
    kernels_.unpack(first, ld, p_.H, p_.W,
                    {element(out, n, c, 0, 0), out.dtype, out.stride[2], out.stride[3]});
  }

  const ComputeKernels<T>& kernels_;
  bool fold_;
  PlaneLayout layout_;
  std::vector<Class> classes_;
  std::int64_t panel_elements_ = 0;  // of a group
  T* panels_ = nullptr;
  T* packed_bias_ = nullptr;
};

template <class T>
class PlanesWgrad {
 public:
  PlanesWgrad(const ConvPlan& plan, const ConvTensors& t)
      : kernels_(compute_kernels<T>(plan.kernel->isa)),
        p_(plan.problem),
        splits_(plan.splits),
        outputs_(p_.outputs_per_group()),
        depth_(p_.channels_per_group()),
        taps_(p_.taps()),
        input_(t.input),
        grad_output_(t.output),
        grad_weight_(t.weight),
        layout_(make_layout(p_, true, depth_, kStripElements)) {
    for (std::int64_t tap = 0; tap < taps_; ++tap) {
      distance_.push_back(layout_.distance(tap / p_.S, tap % p_.S));
    }
  }

  void run(const Threads& threads) {
    sums_ = scratch<T>(Slot::kSums, splits_ * p_.K * depth_ * taps_);
    threads.run_units<Worker>(
        *this, splits_ * p_.groups, ceil_div(outputs_, kUnit),
        [&](Worker& worker, std::int64_t item, std::int64_t unit, std::int64_t end) {
          const std::int64_t last = end * kUnit < outputs_ ? end * kUnit : outputs_;
          worker.item(item / p_.groups, item % p_.groups, unit * kUnit, last);
        });
    reduce(threads);
  }

 private:
  static constexpr std::int64_t kStripElements = 16 << 10;
  static constexpr std::int64_t kMostVectors = 512;  // of one sum from zero
  static constexpr std::int64_t kUnit = 4;           // output channels that a kernel takes at most

  class Worker {
   public:
    explicit Worker(PlanesWgrad& pass) : pass_(pass), p_(pass.p_), layout_(pass.layout_) {
      vector_ = pass.kernels_.lanes;
      grad_stride_ = round_up(layout_.strip_rows() * layout_.ld(), vector_) + vector_;
      const std::int64_t x_elements = pass.depth_ * layout_.channel_elements() + vector_;
      x_ = scratch<T>(Slot::kRows, x_elements);
      // What is read beyond the planes meets gradients of zero, and must not be NaN.
      for (std::int64_t i = 0; i < x_elements; ++i) x_[i] = 0;
      grad_ = scratch<T>(Slot::kGrad, pass.outputs_ * grad_stride_);
      sum_ = scratch<T>(Slot::kTile, pass.outputs_ * pass.depth_ * pass.taps_ * vector_);
    }

    // Chunk `split` of the images, output channels [begin, end) of group g.
    void item(std::int64_t split, std::int64_t g, std::int64_t begin, std::int64_t end) {
      begin_ = begin;
      outputs_ = end - begin;
      const std::int64_t row = outputs_ * pass_.taps_;
      for (std::int64_t i = 0; i < pass_.depth_ * row * vector_; ++i) sum_[i] = 0;
      const std::int64_t last = p_.N * (split + 1) / pass_.splits_;
      for (std::int64_t n = p_.N * split / pass_.splits_; n < last; ++n) {
        for (std::int64_t strip = 0; strip < layout_.strips(); ++strip) add_strip(n, g, strip);
      }
      // Lanes together.
      const T* sum = sum_;
      for (std::int64_t d = 0; d < pass_.depth_; ++d) {
        const std::int64_t plane = (split * p_.groups + g) * pass_.depth_ + d;
        T* to = pass_.sums_ + (plane * pass_.outputs_ + begin_) * pass_.taps_;
        for (std::int64_t i = 0; i < row; ++i, sum += vector_) {
          T total = 0;
          for (std::int64_t l = 0; l < vector_; ++l) total += sum[l];
          to[i] = total;
        }
      }
    }

   private:
    void add_strip(std::int64_t n, std::int64_t g, std::int64_t strip) {
      const TensorView& out = pass_.grad_output_;
      const std::int64_t rows = layout_.end(strip) - layout_.begin(strip), ld = layout_.ld();
      for (std::int64_t d = 0; d < pass_.depth_; ++d) {
        layout_.pack(pass_.kernels_, pass_.input_, n, g * pass_.depth_ + d, strip, strip != zeroed_,
                     x_ + d * layout_.channel_elements());
      }
      zeroed_ = strip;
      PlaneOuterTile<T> tile;
      const std::int64_t count = round_up(layout_.count(strip), vector_);
      for (std::int64_t k = 0; k < outputs_; ++k) {
        T* grad = grad_ + k * grad_stride_;
        pass_.kernels_.pack(
            {element(out, n, g * pass_.outputs_ + begin_ + k, layout_.begin(strip), 0), out.dtype,
             out.stride[2], out.stride[3]},
            rows, p_.Q, ld, grad, ld, 0);
        for (std::int64_t i = rows * ld; i < count; ++i) grad[i] = 0;
      }
      tile.grad_stride = grad_stride_;
      tile.sum_stride = pass_.taps_ * vector_;
      // Wide rows are summed piece by piece too.
      const std::int64_t most = kMostVectors * vector_;
      for (std::int64_t first = 0; first < count; first += most) {
        tile.count = count - first < most ? count - first : most;
        add_positions(first, &tile);
      }
    }

    void add_positions(std::int64_t first, PlaneOuterTile<T>* tile) {
      for (std::int64_t d = 0; d < pass_.depth_; ++d) {
        tile->x = x_ + d * layout_.channel_elements() + first;
        for (std::int64_t k = 0; k < outputs_;) {
          const int channels = piece_of(outputs_ - k);
          const std::int64_t most = kMostPlaneTaps / (channels == 4 ? 3 : channels);
          tile->grad = grad_ + k * grad_stride_ + first;
          for (std::int64_t tap = 0; tap < pass_.taps_; tap += most) {
            const std::int64_t left = pass_.taps_ - tap;
            tile->offset = pass_.distance_.data() + tap;
            tile->sum = sum_ + ((d * outputs_ + k) * pass_.taps_ + tap) * vector_;
            pass_.kernels_.planes_outer(*tile, channels,
                                        static_cast<int>(left < most ? left : most));
          }
          k += channels;
        }
      }
    }

    PlanesWgrad& pass_;
    const ConvProblem& p_;
    const PlaneLayout& layout_;
    std::int64_t vector_, grad_stride_, zeroed_ = -1;
    std::int64_t begin_ = 0, outputs_ = 0;  // the item's channels of its group
    T* x_;
    T* grad_;
    T* sum_;  // [depth][output][tap][lane]
  };

  // grad_weight = the chunks' sums, [group][depth][output][tap], added in order.
  void reduce(const Threads& threads) {
    const TensorView& w = grad_weight_;
    const std::int64_t copy = p_.K * depth_ * taps_;
    const bool adjacent = p_.R == 1 || w.stride[2] == p_.S * w.stride[3];
    threads.run(p_.K * depth_, [&](std::int64_t begin, std::int64_t end) {
      std::vector<T> total(taps_);
      for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t k = item % p_.K, d = item / p_.K;
        const T* sum = sums_ + ((k / outputs_ * depth_ + d) * outputs_ + k % outputs_) * taps_;
        for (std::int64_t t = 0; t < taps_; ++t) {
          total[t] = sum[t];
          for (std::int64_t split = 1; split < splits_; ++split) total[t] += sum[split * copy + t];
        }
        const std::int64_t rows = adjacent ? 1 : p_.R, columns = adjacent ? taps_ : p_.S;
        kernels_.unpack(total.data(), columns, rows, columns,
                        {element(w, k, d, 0, 0), w.dtype, w.stride[2], w.stride[3]});
      }
    });
  }

  const ComputeKernels<T>& kernels_;
  const ConvProblem& p_;
  std::int64_t splits_, outputs_, depth_, taps_;
  TensorView input_, grad_output_, grad_weight_;
  PlaneLayout layout_;
  std::vector<std::int64_t> distance_;  // [tap]
  T* sums_ = nullptr;
};

template <class T>
void run_typed(const ConvPlan& plan, const ConvTensors& tensors, const Threads& threads) {
  if (plan.pass == Pass::kWgrad) {
    PlanesWgrad<T>(plan, tensors).run(threads);
  } else {
    GroupedPlanesPass<T>(plan, tensors).run(threads);
  }
}

}  // namespace

void run_grouped_planes(const ConvPlan& plan, const ConvTensors& tensors, const Threads& threads) {
  if (plan.problem.dtype == DType::kFloat64) {
    run_typed<double>(plan, tensors, threads);
  } else {
    run_typed<float>(plan, tensors, threads);
  }
}

}  // namespace convext
